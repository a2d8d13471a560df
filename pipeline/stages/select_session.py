"""Stage `select_session`: choose the fastest session that answers as fp32 does, and store golden answers.

A candidate that cannot run here is reported and left out. Speeds hold for the CPU of this machine.
"""

import argparse
import json
import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline import charts
from pipeline.cores import available_cores
from pipeline.data.records import Example, labels_of, read_examples, write_json
from pipeline.errors import run_stage
from pipeline.home import find_home
from pipeline.params import Package, Session, flatten, load_params
from pipeline.runtime.classifier import Classifier
from pipeline.runtime.outputs import ModelOutputs
from pipeline.runtime.pieces import load_tokenizer, to_pieces
from pipeline.runtime.sessions import SESSIONS, open_session
from pipeline.runtime.text import clean
from pipeline.session.golden_answers import GoldenAnswers, pick_golden_rows, write_golden
from pipeline.session.quantise import quantise
from pipeline.session.session_gate import (
    BASELINE,
    Candidate,
    Clock,
    HeldOut,
    Measurement,
    decide_session,
    format_table,
    machine_details,
    measure_candidates,
    time_in_turns,
)
from pipeline.tracking import Run, stage_run

INT8, INT8_SOURCE = "packed-openvino-int8", "packed-onnxruntime-fp32"  # the int8 session quantises the source's graph


class RunningSession(NamedTuple):
    """A candidate that runs here, and its predictions for the held-out rows."""

    classifier: Classifier
    predictions: ModelOutputs


class Selection(NamedTuple):
    """The chosen session, the results of all candidates, and the golden answers."""

    session: str
    candidates: list[Candidate]
    golden: GoldenAnswers


def select_session(
    exported: Path, train_texts: list[str], rows: HeldOut, out: Path, *, settings: Session, package: Package, clock: Clock
) -> Selection:
    """Open, measure and decide. Write the graph of the chosen session to `out`, unless it is `model.onnx`.

    Quantisation to int8 is fitted to the first of `train_texts`.
    """
    names = list(SESSIONS) if settings.choice == "auto" else list(dict.fromkeys([BASELINE, settings.choice]))

    def attempt(name: str) -> RunningSession | str:
        return _try_session(name, exported, train_texts[: settings.int8_texts], rows, out, settings=settings, package=package)

    timed_rows = np.linspace(0, len(rows.texts) - 1, min(settings.timed_texts, len(rows.texts))).astype(int)
    texts = [rows.texts[row] for row in timed_rows]
    with ThreadPoolExecutor(max(1, available_cores() // settings.threads)) as pool:  # nothing is timed here
        results = dict(zip(names, pool.map(attempt, names), strict=True))
        absent = {name: result for name, result in results.items() if isinstance(result, str)}
        running = {name: result for name, result in results.items() if not isinstance(result, str)}
        changes = pool.map(lambda result: batch_sensitivity(result, rows.texts, settings.timed_batch), running.values())
        company = dict(zip(running, changes, strict=True))
    calls = {name: _predict_in_batches(result.classifier, texts, settings.timed_batch) for name, result in running.items()}
    predictions = {name: result.predictions for name, result in running.items()}
    measured = measure_candidates(predictions, rows, company, time_in_turns(calls, settings.rounds, clock), len(texts))
    session, candidates = decide_session(measured, absent, settings)
    if session != INT8:
        (out / SESSIONS[INT8].graph).unlink(missing_ok=True)
    if session not in (INT8, BASELINE):
        shutil.copy(exported / SESSIONS[session].graph, out)
    return Selection(session, candidates, golden_answers(session, *running[session], rows.texts, settings))


def _try_session(
    name: str, exported: Path, train_texts: list[str], rows: HeldOut, out: Path, *, settings: Session, package: Package
) -> RunningSession | str:
    """Return the candidate with its predictions for all held-out rows, or the reason why it cannot run here."""
    try:
        folder = out if name == INT8 else exported
        if name == INT8:
            longest = json.loads((exported / "model.json").read_text(encoding="utf-8"))["max_pieces"]
            pieces = to_pieces(load_tokenizer(exported, longest), [clean(text) for text in train_texts])
            quantise(exported / SESSIONS[INT8_SOURCE].graph, out / SESSIONS[INT8].graph, pieces)
        session = open_session(folder, name, settings.threads, token_budget=package.token_budget)
        classifier = Classifier(exported, session=session)
        return RunningSession(classifier, classifier.predict(rows.texts))
    except Exception as error:  # engines raise anything; a candidate that cannot run must not stop the others
        if name == BASELINE:
            raise
        return f"{type(error).__name__}: {error}".splitlines()[0][:200]


def batch_sensitivity(running: RunningSession, texts: Sequence[str], batch: int) -> float:
    """Return the largest change of a probability between a text alone, in batches as Triton forms them, and among all texts."""
    alone = np.concatenate([running.classifier.predict([text]).probabilities for text in texts])
    starts = range(0, len(texts), batch)
    batched = np.concatenate([running.classifier.predict(texts[start : start + batch]).probabilities for start in starts])
    return float(max(np.abs(alone - together).max() for together in (batched, running.predictions.probabilities)))


def _predict_in_batches(classifier: Classifier, texts: Sequence[str], batch: int) -> Callable[[], None]:
    """Return a call that classifies the texts in order, in batches of the size Triton forms within its latency limit."""

    def call() -> None:
        for start in range(0, len(texts), batch):
            classifier.predict(texts[start : start + batch])

    return call


def golden_answers(
    session: str, classifier: Classifier, predictions: ModelOutputs, texts: Sequence[str], settings: Session
) -> GoldenAnswers:
    """Pick clear texts of every length and classify each alone, because batching changes some sessions' output slightly."""
    best = np.sort(predictions.probabilities, axis=1)
    margins = (best[:, -1] - best[:, -2]).tolist()
    classes = predictions.probabilities.argmax(axis=1).tolist()
    lengths = predictions.pieces.tolist()
    rows = pick_golden_rows(lengths, classes, margins, count=settings.golden_texts, min_margin=settings.golden_margin)
    golden_texts = [texts[row] for row in rows]
    alone = [classifier.predict([text]) for text in golden_texts]
    labels = [prediction.labels[0] for prediction in alone]
    probabilities = np.concatenate([prediction.probabilities for prediction in alone])
    return GoldenAnswers(session, settings.golden_atol, golden_texts, labels, probabilities)


def held_out(val: list[Example], test: list[Example]) -> HeldOut:
    """Join validation and test rows for the measurement."""
    rows = [*val, *test]
    return HeldOut([row.text for row in rows], np.array(labels_of(rows)), np.arange(len(rows)) >= len(val))


def write(selection: Selection, settings: Session, folder: Path) -> None:
    """Write `session.json` and `golden.json`."""
    rows = [
        {"name": name, **(found._asdict() if found else dict.fromkeys(Measurement._fields)), "verdict": verdict, "why": why}
        for name, found, verdict, why in selection.candidates
    ]
    write_json(folder / "session.json", {"session": selection.session, "candidates": rows, "machine": machine_details(settings)})
    write_golden(selection.golden, folder)


def log_to(run: Run, selection: Selection, folder: Path) -> None:
    """Log numbers, a picture and files to the MLflow run."""
    measured = {candidate.name: candidate.measured for candidate in selection.candidates if candidate.measured}
    run.metrics({f"session/{name}/{key}": value for name, row in measured.items() for key, value in row._asdict().items()})
    run.tags({"session": selection.session})
    refused = [candidate.name for candidate in selection.candidates if candidate.verdict == "refused"]
    speeds = [row.texts_per_s for row in measured.values()]
    run.figure(charts.sessions(list(measured), speeds, selection.session, refused), "sessions")
    run.files(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--exported", type=Path, required=True)
    parser.add_argument("--split", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    params = load_params()
    card = json.loads((args.exported / "model.json").read_text(encoding="utf-8"))
    train, val, test = (read_examples(args.split / f"{side}.parquet") for side in ("train", "val", "test"))
    train_texts, rows = [row.text for row in train], held_out(val, test)
    args.out.mkdir(parents=True, exist_ok=True)
    settings, run_id = params.session, card["origin"]["mlflow_run_id"]
    with stage_run("select_session", flatten(settings, "session"), find_home(), continues=run_id) as run:
        selection = select_session(
            args.exported, train_texts, rows, args.out, settings=settings, package=params.package, clock=time.perf_counter
        )
        write(selection, settings, args.out)
        log_to(run, selection, args.out)
    print(
        f"{format_table(selection.candidates)}\n{len(selection.golden.texts)} golden answers of {selection.session} → {args.out}"
    )


if __name__ == "__main__":
    run_stage(main)
