"""Stage `select_session`: choose the fastest session that answers as fp32 does, and store golden answers.

A candidate that cannot run here is reported and left out. Speeds hold for the CPU of this machine.
"""

import argparse
import json
import shutil
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline import charts
from pipeline.card.training_texts import TRAINING_TEXTS, draw_evenly, write_training_texts
from pipeline.data.records import Example, labels_of, read_examples, write_json
from pipeline.errors import run_stage
from pipeline.held_out_outputs import HeldOutOutputs, load_held_out
from pipeline.home import find_home
from pipeline.output.plain_text import print_lines
from pipeline.params import Params, Session, flatten, load_params
from pipeline.runtime.classifier import Classifier
from pipeline.runtime.sessions import SESSIONS, Floats
from pipeline.session.candidates import (
    COMPILING,
    INT8,
    Sessions,
    alone_and_batched,
    batch_calls,
    batch_sensitivity,
)
from pipeline.session.golden_answers import GoldenAnswers, pick_golden_rows, write_golden
from pipeline.session.session_gate import (
    COLUMNS,
    Candidate,
    Check,
    Fidelity,
    HeldOut,
    Measurement,
    as_row,
    decide_session,
    format_table,
    machine_details,
    measure_candidates,
    refusals,
)
from pipeline.session.timing import BASELINE, Clock, time_rivals, time_round
from pipeline.tracking.runs import Run, stage_run


class Selection(NamedTuple):
    """The chosen session, the results of all candidates, and the golden answers."""

    session: str
    classifier: Classifier  # of the session
    candidates: list[Candidate]
    golden: GoldenAnswers


def select_session(sessions: Sessions, rows: HeldOut, outputs: HeldOutOutputs, *, clock: Clock) -> Selection:
    """Time the candidates, compare the answers of those fast enough with fp32, and decide.

    `outputs` are those of fp32 for the rows. Write the graph of the chosen session to `sessions.out`, unless it is `model.onnx`.
    """
    settings, out = sessions.settings, sessions.out
    (out / SESSIONS[INT8].graph).unlink(missing_ok=True)
    names = list(SESSIONS) if settings.choice == "auto" else list(dict.fromkeys([BASELINE, settings.choice]))
    opened = {name: sessions.try_open(name) for name in names}
    absent = {name: why for name, why in opened.items() if isinstance(why, str)}
    running = {name: classifier for name, classifier in opened.items() if isinstance(classifier, Classifier)}
    fp32 = running[BASELINE].calibrated(rows.texts, outputs.logits, outputs.sketch)
    probabilities = {BASELINE: fp32.probabilities}

    @cache
    def check(name: str, with_batch_effect: bool) -> Fidelity:
        if name == INT8:
            sessions.fit()
            running[name] = sessions.open(name)
        batch_effect = None
        if with_batch_effect:
            pair = (running[name], sessions.open(name))
            alone, batched = alone_and_batched(pair, rows.texts, settings.timed_batch)
            together = [batched]  # packed: a batch is cut into runs of the same length as any number of texts
            if name == BASELINE:
                together.append(probabilities[name])
            elif not SESSIONS[name].is_packed:
                together.append(running[name].predict(rows.texts).probabilities)
            probabilities[name] = together[-1]
            batch_effect = batch_sensitivity(alone, *together)
        classes = {key: probabilities[key].argmax(axis=1) for key in (BASELINE, name)}
        labels = np.array(running[name].labels)[classes[name]]
        accuracy = np.mean((labels == rows.labels)[rows.is_test])
        return Fidelity(float(np.mean(classes[name] == classes[BASELINE])), float(accuracy), batch_effect)

    measured = measure(running, rows.texts, check, settings, clock)
    session, candidates = decide_session(measured, absent, settings)
    if session != INT8:
        (out / SESSIONS[INT8].graph).unlink(missing_ok=True)
    if session not in (INT8, BASELINE):
        shutil.copy(sessions.exported / SESSIONS[session].graph, out)
    golden = golden_answers(session, running[session], probabilities[session], rows.texts, fp32.pieces.tolist(), settings)
    return Selection(session, running[session], candidates, golden)


def measure(
    running: dict[str, Classifier], texts: list[str], check: Check, settings: Session, clock: Clock
) -> dict[str, Measurement]:
    """Time each candidate once, and again those among which the choice is close; compare their answers with those of fp32.

    A candidate that is refused is no rival any more, so the next ones may be close.
    """
    timed_rows = np.linspace(0, len(texts) - 1, min(settings.timed_texts, len(texts))).astype(int)
    timed = [texts[row] for row in timed_rows]
    calls = {name: batch_calls(classifier, timed, settings.timed_batch) for name, classifier in running.items()}
    for call in [call for name in calls if SESSIONS[name].engine == COMPILING for call in calls[name]]:
        call()
    seconds = {name: [spent] for name, spent in time_round(calls, 0, clock).items()}
    refused: set[str] = set()
    while True:
        time_rivals(calls, seconds, refused, settings, clock)
        measured = measure_candidates(seconds, len(timed), check, settings)
        now_refused = {name for name, why in refusals(measured, settings).items() if why}
        if now_refused <= refused:
            return measured
        refused |= now_refused


def golden_answers(
    session: str, classifier: Classifier, predicted: Floats, texts: Sequence[str], lengths: Sequence[int], settings: Session
) -> GoldenAnswers:
    """Pick clear texts of every length and classify each alone, because batching changes some sessions' output slightly.

    `predicted` are the probabilities (N, classes) of the texts, and `lengths` their pieces.
    """
    best = np.sort(predicted, axis=1)
    margins = (best[:, -1] - best[:, -2]).tolist()
    classes = predicted.argmax(axis=1).tolist()
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


def answer_training_texts(classifier: Classifier, rows: list[Example], folder: Path, params: Params) -> None:
    """Write up to `session.training_texts` training rows with the outputs of the chosen session; nothing for 0."""
    drawn = [rows[row] for row in draw_evenly(labels_of(rows), params.session.training_texts, params.split.seed)]
    if drawn:
        outputs = classifier.predict([row.text for row in drawn])
        write_training_texts(folder / TRAINING_TEXTS, drawn, outputs, keeps_texts=params.log.text == "keep")


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
    parser.add_argument("--outputs", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    params = load_params()
    train, val, test = (read_examples(args.split / f"{side}.parquet") for side in ("train", "val", "test"))
    args.out.mkdir(parents=True, exist_ok=True)
    sessions = Sessions(args.exported, [row.text for row in train], args.out, params.session, params.package)
    outputs = load_held_out(args.outputs, [row.id for row in [*val, *test]])
    origin = json.loads((args.exported / "model.json").read_text(encoding="utf-8"))["origin"]
    settings = flatten(params.session, "session")
    with stage_run("select_session", settings, find_home(), continues=origin["mlflow_run_id"]) as run:
        selection = select_session(sessions, held_out(val, test), outputs, clock=time.perf_counter)
        write(selection, params.session, args.out)
        answer_training_texts(selection.classifier, train, args.out, params)
        log_to(run, selection, args.out)
    golden = f"{len(selection.golden.texts)} golden answers of {selection.session} → {args.out}"
    print_lines(f"{format_table(selection.candidates)}\n{golden}")


if __name__ == "__main__":
    run_stage(main)
