"""Stage `select_session`: the fastest session whose answers are those of fp32, the numbers of those refused, golden answers.

A candidate that cannot run here is told and left out. What it finds holds for this machine's kind: speeds are of its CPU.
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
from pipeline.runtime.classifier import Classifier, Predictions
from pipeline.runtime.pieces import load_tokenizer, to_pieces
from pipeline.runtime.sessions import SESSIONS, open_session
from pipeline.runtime.text import clean
from pipeline.session.golden_answers import Golden, pick, write_golden
from pipeline.session.quantise import quantise
from pipeline.session.session_gate import PLAIN, Candidate, Clock, HeldOut, Measured, decide, machine, measure, table, timed
from pipeline.tracking import Run, stage_run

INT8, INT8_OF = "packed-openvino-int8", "packed-onnxruntime-fp32"  # whose graph is quantised


class Tried(NamedTuple):
    """A candidate that runs here, and its answers to the held-out rows."""

    classifier: Classifier
    answers: Predictions


class Selection(NamedTuple):
    """What the stage leaves."""

    session: str
    candidates: list[Candidate]
    golden: Golden


def select_session(
    exported: Path, learnt: list[str], rows: HeldOut, out: Path, *, settings: Session, package: Package, clock: Clock
) -> Selection:
    """Open, measure, decide; the graph of the session chosen is left in `out`, unless it is `model.onnx`.

    `learnt` are texts of the training rows, to which int8 is fitted.
    """
    names = list(SESSIONS) if settings.choice == "auto" else list(dict.fromkeys([PLAIN, settings.choice]))

    def attempt(name: str) -> Tried | str:
        return _tried(name, exported, learnt[: settings.int8_texts], rows, out, settings=settings, package=package)

    some = np.linspace(0, len(rows.texts) - 1, min(settings.timed_texts, len(rows.texts))).astype(int)
    texts = [rows.texts[row] for row in some]
    with ThreadPoolExecutor(max(1, available_cores() // settings.threads)) as pool:  # here only answers matter, not speed
        tried = dict(zip(names, pool.map(attempt, names), strict=True))
        absent = {name: one for name, one in tried.items() if isinstance(one, str)}
        running = {name: one for name, one in tried.items() if not isinstance(one, str)}
        moved = pool.map(lambda one: moved_by_company(one, rows.texts, settings.timed_batch), running.values())
        company = dict(zip(running, moved, strict=True))
    calls = {name: _as_triton_asks(one.classifier, texts, settings.timed_batch) for name, one in running.items()}
    answers = {name: one.answers for name, one in running.items()}
    measured = measure(answers, rows, company, timed(calls, settings.rounds, clock), len(texts))
    session, candidates = decide(measured, absent, settings)
    if session != INT8:
        (out / SESSIONS[INT8].graph).unlink(missing_ok=True)
    if session not in (INT8, PLAIN):
        shutil.copy(exported / SESSIONS[session].graph, out)
    return Selection(session, candidates, golden_of(session, *running[session], rows.texts, settings))


def _tried(
    name: str, exported: Path, learnt: list[str], rows: HeldOut, out: Path, *, settings: Session, package: Package
) -> Tried | str:
    """The candidate with its answers to all held-out rows, or why it cannot run here."""
    try:
        folder = out if name == INT8 else exported
        if name == INT8:
            longest = json.loads((exported / "model.json").read_text(encoding="utf-8"))["max_pieces"]
            seen = to_pieces(load_tokenizer(exported, longest), [clean(text) for text in learnt])
            quantise(exported / SESSIONS[INT8_OF].graph, out / SESSIONS[INT8].graph, seen)
        session = open_session(folder, name, settings.threads, token_budget=package.token_budget)
        classifier = Classifier(exported, session=session)
        return Tried(classifier, classifier.predict(rows.texts))
    except Exception as error:  # whatever an engine raises: one that cannot run must not stop the others
        if name == PLAIN:
            raise
        return f"{type(error).__name__}: {error}".splitlines()[0][:200]


def moved_by_company(tried: Tried, texts: Sequence[str], batch: int) -> float:
    """The most that a probability of these texts, answered alone, differs from the one among all, or in batches as Triton's."""
    alone = np.concatenate([tried.classifier.predict([text]).probabilities for text in texts])
    starts = range(0, len(texts), batch)
    few = np.concatenate([tried.classifier.predict(texts[start : start + batch]).probabilities for start in starts])
    return float(max(np.abs(alone - among).max() for among in (few, tried.answers.probabilities)))


def _as_triton_asks(classifier: Classifier, texts: Sequence[str], batch: int) -> Callable[[], None]:
    """A call that answers the texts in their order, in batches such as Triton gives while latency is within its limit."""

    def call() -> None:
        for start in range(0, len(texts), batch):
            classifier.predict(texts[start : start + batch])

    return call


def golden_of(session: str, classifier: Classifier, answers: Predictions, texts: Sequence[str], settings: Session) -> Golden:
    """Clear texts of every length, answered one at a time: in a batch some sessions answer a little differently."""
    best = np.sort(answers.probabilities, axis=1)
    margins = best[:, -1] - best[:, -2]
    classes = answers.probabilities.argmax(axis=1).tolist()
    rows = pick(
        answers.pieces.tolist(), classes, margins.tolist(), count=settings.golden_texts, min_margin=settings.golden_margin
    )
    alone = [classifier.predict([texts[row]]) for row in rows]
    probabilities = np.concatenate([one.probabilities for one in alone])
    return Golden(session, settings.golden_atol, [texts[row] for row in rows], [one.labels[0] for one in alone], probabilities)


def held_out(val: list[Example], test: list[Example]) -> HeldOut:
    """Rows of both sides as the measurement needs them."""
    rows = [*val, *test]
    return HeldOut([row.text for row in rows], np.array(labels_of(rows)), np.arange(len(rows)) >= len(val))


def write(selection: Selection, settings: Session, folder: Path) -> None:
    """`session.json` and `golden.json`."""
    rows = [
        {"name": name, **(found._asdict() if found else dict.fromkeys(Measured._fields)), "verdict": verdict, "why": why}
        for name, found, verdict, why in selection.candidates
    ]
    write_json(folder / "session.json", {"session": selection.session, "candidates": rows, "machine": machine(settings)})
    write_golden(selection.golden, folder)


def log_to(run: Run, selection: Selection, folder: Path) -> None:
    """Numbers, picture and files into the MLflow run."""
    measured = {one.name: one.found for one in selection.candidates if one.found}
    run.metrics({f"session/{name}/{key}": value for name, one in measured.items() for key, value in one._asdict().items()})
    run.tags({"session": selection.session})
    refused = [one.name for one in selection.candidates if one.verdict == "refused"]
    speeds = [one.texts_per_s for one in measured.values()]
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
    learnt, rows = [row.text for row in train], held_out(val, test)
    args.out.mkdir(parents=True, exist_ok=True)
    run_id = card["origin"]["mlflow_run_id"]
    with stage_run("select_session", flatten(params.session, "session"), find_home(), continues=run_id) as run:
        selection = select_session(
            args.exported, learnt, rows, args.out, settings=params.session, package=params.package, clock=time.perf_counter
        )
        write(selection, params.session, args.out)
        log_to(run, selection, args.out)
    print(f"{table(selection.candidates)}\n{len(selection.golden.texts)} golden answers of {selection.session} → {args.out}")


if __name__ == "__main__":
    run_stage(main)
