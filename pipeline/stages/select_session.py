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
from pipeline.data.records import Example, labels_of, read_examples, write_json
from pipeline.errors import run_stage
from pipeline.home import find_home
from pipeline.output.plain_text import print_lines
from pipeline.params import Package, Session, flatten, load_params
from pipeline.runtime.classifier import Classifier
from pipeline.runtime.outputs import ModelOutputs
from pipeline.runtime.pieces import load_tokenizer, to_pieces
from pipeline.runtime.sessions import SESSIONS, Floats, open_session
from pipeline.runtime.text import clean
from pipeline.session.golden_answers import GoldenAnswers, pick_golden_rows, write_golden
from pipeline.session.quantise import quantise
from pipeline.session.session_gate import (
    BASELINE,
    COLUMNS,
    Candidate,
    Clock,
    Fidelity,
    HeldOut,
    as_row,
    decide_session,
    format_table,
    machine_details,
    measure_candidates,
    time_in_turns,
)
from pipeline.tracking.runs import Run, stage_run

INT8, INT8_SOURCE = "packed-openvino-int8", "packed-onnxruntime-fp32"  # the int8 session quantises the source's graph


class Selection(NamedTuple):
    """The chosen session, the results of all candidates, and the golden answers."""

    session: str
    candidates: list[Candidate]
    golden: GoldenAnswers


class Sessions:
    """Opens candidates on an exported model; int8 is quantised into `out` when it is first asked for."""

    def __init__(self, exported: Path, train_texts: list[str], out: Path, settings: Session, package: Package) -> None:
        self.exported, self.train_texts, self.out = exported, train_texts, out
        self.settings, self.package = settings, package

    def open(self, name: str) -> Classifier:
        """Return a classifier of its own for one thread; raises whatever the engine raises."""
        folder = self.out if name == INT8 else self.exported
        if name == INT8 and not (self.out / SESSIONS[INT8].graph).is_file():
            longest = json.loads((self.exported / "model.json").read_text(encoding="utf-8"))["max_pieces"]
            texts = [clean(text) for text in self.train_texts[: self.settings.int8_texts]]
            pieces = to_pieces(load_tokenizer(self.exported, longest), texts)
            quantise(self.exported / SESSIONS[INT8_SOURCE].graph, self.out / SESSIONS[INT8].graph, pieces)
        session = open_session(folder, name, self.settings.threads, token_budget=self.package.token_budget)
        return Classifier(self.exported, session=session)

    def try_open(self, name: str) -> Classifier | str:
        """Return the classifier, or the reason why this candidate cannot run here."""
        try:
            classifier = self.open(name)
            classifier.predict(["warm up"])
        except Exception as error:  # engines raise anything; a candidate that cannot run must not stop the others
            if name == BASELINE:
                raise
            return f"{type(error).__name__}: {error}".splitlines()[0][:200]
        return classifier


def select_session(sessions: Sessions, rows: HeldOut, *, clock: Clock) -> Selection:
    """Time every candidate, compare the answers of those fast enough with fp32, and decide.

    Write the graph of the chosen session to `sessions.out`, unless it is `model.onnx`.
    """
    settings, out = sessions.settings, sessions.out
    (out / SESSIONS[INT8].graph).unlink(missing_ok=True)
    names = list(SESSIONS) if settings.choice == "auto" else list(dict.fromkeys([BASELINE, settings.choice]))
    opened = {name: sessions.try_open(name) for name in names}
    absent = {name: why for name, why in opened.items() if isinstance(why, str)}
    running = {name: classifier for name, classifier in opened.items() if isinstance(classifier, Classifier)}
    timed_rows = np.linspace(0, len(rows.texts) - 1, min(settings.timed_texts, len(rows.texts))).astype(int)
    texts = [rows.texts[row] for row in timed_rows]
    calls = {name: _predict_in_batches(classifier, texts, settings.timed_batch) for name, classifier in running.items()}
    seconds = time_in_turns(calls, settings.rounds, clock)
    predictions: dict[str, ModelOutputs] = {}

    def check(name: str, with_batch_effect: bool) -> Fidelity:
        if name not in predictions:
            predictions[name] = running[name].predict(rows.texts)
        labels = {key: np.array(predictions[key].labels) for key in (BASELINE, name)}
        batch_effect = None
        if with_batch_effect:
            pair = (running[name], sessions.open(name))
            batch_effect = batch_sensitivity(pair, predictions[name], rows.texts, settings.timed_batch)
        accuracy = np.mean((labels[name] == rows.labels)[rows.is_test])
        return Fidelity(float(np.mean(labels[name] == labels[BASELINE])), float(accuracy), batch_effect)

    session, candidates = decide_session(measure_candidates(seconds, len(texts), check, settings), absent, settings)
    if session != INT8:
        (out / SESSIONS[INT8].graph).unlink(missing_ok=True)
    if session not in (INT8, BASELINE):
        shutil.copy(sessions.exported / SESSIONS[session].graph, out)
    return Selection(session, candidates, golden_answers(session, running[session], predictions[session], rows.texts, settings))


def batch_sensitivity(pair: tuple[Classifier, Classifier], among: ModelOutputs, texts: Sequence[str], batch: int) -> float:
    """Return the largest change of a probability between a text alone, in batches as Triton forms them, and among all texts.

    `pair` holds two classifiers of one session, because an engine's session serves one thread; both passes run at once.
    """

    def probabilities(classifier: Classifier, size: int) -> Floats:
        starts = range(0, len(texts), size)
        return np.concatenate([classifier.predict(texts[start : start + size]).probabilities for start in starts])

    with ThreadPoolExecutor(2) as pool:  # nothing is timed here
        alone, batched = pool.map(probabilities, pair, (1, batch))
    return float(max(np.abs(alone - together).max() for together in (batched, among.probabilities)))


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
    rows = [as_row(candidate) for candidate in selection.candidates]
    write_json(folder / "session.json", {"session": selection.session, "candidates": rows, "machine": machine_details(settings)})
    write_golden(selection.golden, folder)


def log_to(run: Run, selection: Selection, folder: Path) -> None:
    """Log numbers, a picture and files to the MLflow run."""
    rows = [as_row(candidate) for candidate in selection.candidates if candidate.measured]
    run.metrics({f"session/{row['name']}/{key}": row[key] for row in rows for key in COLUMNS if row[key] is not None})
    run.tags({"session": selection.session})
    run.note("Served by", selection.session)
    refused = [row["name"] for row in rows if row["verdict"] == "refused"]
    names, speeds = [row["name"] for row in rows], [row["texts_per_s"] for row in rows]
    run.figure(charts.sessions(names, speeds, selection.session, refused), "sessions")
    run.files(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--exported", type=Path, required=True)
    parser.add_argument("--split", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    params = load_params()
    train, val, test = (read_examples(args.split / f"{side}.parquet") for side in ("train", "val", "test"))
    args.out.mkdir(parents=True, exist_ok=True)
    sessions = Sessions(args.exported, [row.text for row in train], args.out, params.session, params.package)
    settings = flatten(params.session, "session")
    with stage_run("select_session", settings, find_home(), continues=sessions.open(BASELINE).run_id) as run:
        selection = select_session(sessions, held_out(val, test), clock=time.perf_counter)
        write(selection, params.session, args.out)
        log_to(run, selection, args.out)
    golden = f"{len(selection.golden.texts)} golden answers of {selection.session} → {args.out}"
    print_lines(f"{format_table(selection.candidates)}\n{golden}")


if __name__ == "__main__":
    run_stage(main)
