"""The gate: a packaged candidate and the champion's package answer today's test rows, and `checks` judges what they said.

Both are opened as Triton would open them, by the session that their packages name, without a Triton. The verdict stands in the
candidate's MLflow run and is given back; nothing is published, and nothing served is touched.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from monitoring.retrain.gate.checks import Answered, Today, judge
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

PLAIN = "onnxruntime-fp32"  # runs everywhere
SUM_ATOL = 1e-3  # of probabilities
TAG_CHARS = 5000  # that MLflow keeps of a tag


class Opened(NamedTuple):
    """A package that answers, and by which session; another one than it names where that cannot run here."""

    classifier: Classifier
    session: str
    problem: str


class Examined(NamedTuple):
    """The verdict, and the rows that were gained and lost as a picture (None without a champion)."""

    verdict: Verdict
    picture: Figure | None


def gate(package: Path, champion: Path | None, *, split: Path, feedback: Path, params: Params, home: Path) -> Verdict:
    """Judge, and tell the candidate's MLflow run; with `params` and `home` given beforehand this is a `verdict.Gate`.

    Raises as `examine` does.
    """
    examined = examine(package, champion, split=split, feedback=feedback, params=params)
    with stage_run("gate", flatten(params.gate, "gate"), home, continues=_run_id(package)) as run:
        verdict = examined.verdict
        run.metrics({f"gate/{name}": value for name, value in verdict.numbers.items()})
        run.tags({"gate": "passed" if verdict.passed else "refused", "gate.reasons": "\n".join(verdict.reasons)[:TAG_CHARS]})
        if examined.picture is not None:
            run.figure(examined.picture, "gate")
    return verdict


def examine(package: Path, champion: Path | None, *, split: Path, feedback: Path, params: Params) -> Examined:
    """Judge the package.

    Raises `RefusedError` for a package that is not whole, `InputError` where what the pipeline measured is not there.
    """
    rows = _test_rows(split)
    today = _today(rows, champion, split, feedback, params)
    candidate, notes = _answered(package, rows, params)
    if champion is None:
        return Examined(_with_notes(judge(today, candidate, None, params.gate), notes), None)
    against, more = _answered(champion, rows, params)
    verdict = _with_notes(judge(today, candidate, against, params.gate), notes + more)
    return Examined(verdict, charts.gained_and_lost(today.truth, against.said, candidate.said))


def _with_notes(verdict: Verdict, notes: tuple[str, ...]) -> Verdict:
    return Verdict(verdict.passed, (*verdict.reasons, *notes), verdict.numbers)


def known_ids(champion: Path) -> frozenset[str] | None:
    """Content ids of the test rows that the champion was measured on when it was made; None where its reference is not there.

    Sides go by content and no row moves, so a test row of today that is not among them came later.
    """
    try:
        return frozenset(load_reference(champion / "reference.npz").ids.tolist())
    except (OSError, ValueError, KeyError):
        return None


def open_package(folder: Path, params: Params) -> Opened:
    """The package's classifier, on all cores."""
    model = folder / "1"
    wanted = str(_read(folder / "session.json", "the package's session").get("session"))
    try:
        session = open_session(model, wanted, 0, token_budget=params.package.token_budget)
        return Opened(Classifier(model, session=session), wanted, "")
    except Exception as error:  # whatever an engine raises where it cannot run
        if wanted == PLAIN or wanted not in SESSIONS:
            raise RefusedError(
                str(folder), f"it cannot be opened: {str(error)[:200]}", "make it again: .venv/bin/dvc repro"
            ) from None
        why = f"{type(error).__name__}: {error}".splitlines()[0][:200]
    return Opened(Classifier(model), PLAIN, why)


def _answered(folder: Path, rows: list[Example], params: Params) -> tuple[Answered, tuple[str, ...]]:
    """What a whole package says of the rows, and a sentence where another session than its own said so."""
    read_verified(folder)
    opened = open_package(folder, params)
    found = opened.classifier.predict([row.text for row in rows])
    sums = found.probabilities.sum(axis=1, dtype=np.float64)
    usable = np.isfinite(found.probabilities).all(axis=1) & (np.abs(sums - 1) <= SUM_ATOL)
    note = f"{folder.name} answered by {opened.session}, its own session cannot run here: {opened.problem}"
    answered = Answered(np.array(found.labels, dtype=np.str_), tuple(opened.classifier.labels), usable)
    return answered, (note,) if opened.problem else ()


def _today(rows: list[Example], champion: Path | None, split: Path, feedback: Path, params: Params) -> Today:
    evaluation = split.parent / "evaluation"
    scores = _read(evaluation / "metrics.json", "what the stage evaluate measured")
    known = known_ids(champion) if champion else None
    fed = _ids_fed_back(feedback, params) if known is None else frozenset()
    seeds = evaluation / "seeds.json"
    return Today(
        truth=np.array([row.label for row in rows], dtype=np.str_),
        is_new=np.array([row.id in fed if known is None else row.id not in known for row in rows], dtype=np.bool_),
        accuracy_evaluated=float(scores["test"]["accuracy"]),
        accuracy_control=float(scores["control"]["accuracy"]),
        accuracy_of_seeds=tuple(_read(seeds, "scores of several seeds")["accuracy"]) if seeds.is_file() else (),
    )


def _ids_fed_back(folder: Path, params: Params) -> frozenset[str]:
    """Content ids of the feedback's texts; lines that are no rows are the stage ingest's to tell."""
    files = [path for path in sorted(folder.glob("*.jsonl")) if path.stat().st_size]
    texts = [(row.fields or {}).get("text") for path in files for row in read_rows(path, params.data)]
    return frozenset(text_id(text) for text in texts if isinstance(text, str))


def _test_rows(split: Path) -> list[Example]:
    try:
        return read_examples(split / "test.parquet")
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            str(split / "test.parquet"), f"no test rows to read: {error}", "make them: .venv/bin/dvc repro split"
        ) from None


def _run_id(package: Path) -> str | None:
    found: str | None = _read(package / "1" / "model.json", "the packaged model").get("origin", {}).get("mlflow_run_id")
    return found


def _read(path: Path, what: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found
    except (OSError, ValueError) as error:
        raise InputError(str(path), f"{what} cannot be read: {error}", "make it: .venv/bin/dvc repro") from None
