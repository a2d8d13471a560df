"""The gate: the candidate's and the champion's packages predict the current test rows, and `checks` compares the predictions.

Both are opened with the session that their packages name, as Triton would open them, but without a Triton. The verdict is logged
to the candidate's MLflow run and returned; nothing is published, and nothing that serves is touched.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from monitoring.retrain.gate.checks import GateEvidence, Predictions, run_checks
from monitoring.retrain.gate.verdict import Verdict
from pipeline import charts
from pipeline.data.records import Example, read_examples, read_rows, text_id
from pipeline.errors import InputError, RefusedError
from pipeline.params import Params, flatten
from pipeline.reference_profile import load_reference
from pipeline.runtime.classifier import Classifier
from pipeline.runtime.sessions import SESSIONS, open_session
from pipeline.tracking import stage_run
from serving.release.manifest import read_verified

FALLBACK_SESSION = "onnxruntime-fp32"  # runs everywhere
SUM_ATOL = 1e-3  # of probabilities
MAX_TAG = 5000  # characters that MLflow stores of a tag


class OpenedPackage(NamedTuple):
    """A package's classifier, its session, and why it is not the session that the package names, or ""."""

    classifier: Classifier
    session: str
    problem: str


class GateResult(NamedTuple):
    """The verdict, and a picture of the rows gained and lost (None without a champion)."""

    verdict: Verdict
    picture: Figure | None


def gate(package: Path, champion: Path | None, *, split: Path, feedback: Path, params: Params, home: Path) -> Verdict:
    """Examine the candidate and log the verdict to its MLflow run; with `params` and `home` bound, this is a `verdict.Gate`.

    Raises the errors of `examine`.
    """
    result = examine(package, champion, split=split, feedback=feedback, params=params)
    with stage_run("gate", flatten(params.gate, "gate"), home, continues=_run_id(package)) as run:
        verdict = result.verdict
        run.metrics({f"gate/{name}": value for name, value in verdict.numbers.items()})
        run.tags({"gate": "passed" if verdict.passed else "refused", "gate.reasons": "\n".join(verdict.reasons)[:MAX_TAG]})
        if result.picture is not None:
            run.figure(result.picture, "gate")
    return verdict


def examine(package: Path, champion: Path | None, *, split: Path, feedback: Path, params: Params) -> GateResult:
    """Compare the package with the champion on the current test rows.

    Raises `RefusedError` for an incomplete package, `InputError` where the pipeline's measurements are missing.
    """
    rows = _read_test_rows(split)
    evidence = _read_evidence(rows, champion, split, feedback, params)
    candidate, notes = _predict(package, rows, params)
    if champion is None:
        return GateResult(_with_notes(run_checks(evidence, candidate, None, params.gate), notes), None)
    baseline, more_notes = _predict(champion, rows, params)
    verdict = _with_notes(run_checks(evidence, candidate, baseline, params.gate), notes + more_notes)
    return GateResult(verdict, charts.gained_and_lost(evidence.truth, baseline.predicted, candidate.predicted))


def _with_notes(verdict: Verdict, notes: tuple[str, ...]) -> Verdict:
    return Verdict(verdict.passed, (*verdict.reasons, *notes), verdict.numbers)


def champion_test_ids(champion: Path) -> frozenset[str] | None:
    """Return the content ids of the champion's test rows on the day it was made, or None without its reference.

    The split goes by content and never moves a row, so a current test row that is not among them is newer.
    """
    try:
        return frozenset(load_reference(champion / "reference.npz").ids.tolist())
    except (OSError, ValueError, KeyError):
        return None


def open_package(folder: Path, params: Params) -> OpenedPackage:
    """Open the package's classifier on all cores."""
    model = folder / "1"
    session_name = str(_read(folder / "session.json", "the package's session").get("session"))
    try:
        session = open_session(model, session_name, 0, token_budget=params.package.token_budget)
        return OpenedPackage(Classifier(model, session=session), session_name, "")
    except Exception as error:  # an engine that cannot run here may raise anything
        if session_name == FALLBACK_SESSION or session_name not in SESSIONS:
            raise RefusedError(
                str(folder), f"the package cannot be opened: {str(error)[:200]}", "make it again: .venv/bin/dvc repro"
            ) from None
        problem = f"{type(error).__name__}: {error}".splitlines()[0][:200]
    return OpenedPackage(Classifier(model), FALLBACK_SESSION, problem)


def _predict(folder: Path, rows: list[Example], params: Params) -> tuple[Predictions, tuple[str, ...]]:
    """Return a verified package's predictions, with a note where another session than its own made them."""
    read_verified(folder)
    opened = open_package(folder, params)
    output = opened.classifier.predict([row.text for row in rows])
    sums = output.probabilities.sum(axis=1, dtype=np.float64)
    valid = np.isfinite(output.probabilities).all(axis=1) & (np.abs(sums - 1) <= SUM_ATOL)
    note = f"{folder.name} answered by {opened.session}, because its own session cannot run here: {opened.problem}"
    predictions = Predictions(np.array(output.labels, dtype=np.str_), tuple(opened.classifier.labels), valid)
    return predictions, (note,) if opened.problem else ()


def _read_evidence(rows: list[Example], champion: Path | None, split: Path, feedback: Path, params: Params) -> GateEvidence:
    evaluation = split.parent / "evaluation"
    scores = _read(evaluation / "metrics.json", "the output of stage evaluate")
    known_ids = champion_test_ids(champion) if champion else None
    feedback_ids = _feedback_ids(feedback, params) if known_ids is None else frozenset()
    seeds = evaluation / "seeds.json"
    return GateEvidence(
        truth=np.array([row.label for row in rows], dtype=np.str_),
        is_new=np.array(
            [row.id in feedback_ids if known_ids is None else row.id not in known_ids for row in rows], dtype=np.bool_
        ),
        accuracy_evaluated=float(scores["test"]["accuracy"]),
        accuracy_control=float(scores["control"]["accuracy"]),
        accuracy_of_seeds=tuple(_read(seeds, "scores of several seeds")["accuracy"]) if seeds.is_file() else (),
    )


def _feedback_ids(folder: Path, params: Params) -> frozenset[str]:
    """Return the content ids of the feedback's texts; stage ingest reports invalid lines."""
    files = [path for path in sorted(folder.glob("*.jsonl")) if path.stat().st_size]
    texts = [(row.fields or {}).get("text") for path in files for row in read_rows(path, params.data)]
    return frozenset(text_id(text) for text in texts if isinstance(text, str))


def _read_test_rows(split: Path) -> list[Example]:
    path = split / "test.parquet"
    try:
        return read_examples(path)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(str(path), f"the test rows cannot be read: {error}", "make them: .venv/bin/dvc repro split") from None


def _run_id(package: Path) -> str | None:
    run_id: str | None = _read(package / "1" / "model.json", "the packaged model").get("origin", {}).get("mlflow_run_id")
    return run_id


def _read(path: Path, content: str) -> dict[str, Any]:
    try:
        tree: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(str(path), f"{content} cannot be read: {error}", "make it: .venv/bin/dvc repro") from None
    return tree
