"""The gate: the candidate's and the champion's packages predict the current test rows, and `checks` compares the predictions.

Both are opened with the session that their packages name, as Triton would open them, but without a Triton. The verdict is
recorded, logged to the candidate's MLflow run and returned; nothing is published, and nothing that serves is touched.
"""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from monitoring.flywheel.label_return import LabelReturn, describe_returns
from monitoring.retrain.gate.checks import run_checks
from monitoring.retrain.gate.evidence import CheckResult, GateEvidence, OverruledClass, Predictions
from monitoring.retrain.gate.recorded_verdicts import record_verdict
from monitoring.retrain.gate.returns import PairedAnswers, find_returns, return_numbers, store_returns
from monitoring.retrain.gate.soundness import check_calibration, check_reference, check_weights
from monitoring.retrain.gate.triggers import WordTrial, count_moved, plant, suspicious_words
from monitoring.retrain.gate.verdict import Verdict
from pipeline import charts
from pipeline.data.given_labels import is_given, is_settled, overruled_label
from pipeline.data.records import Example, labels_of, read_examples, read_json, text_id
from pipeline.data.row_files import read_rows
from pipeline.data.split_sides import Side
from pipeline.errors import InputError
from pipeline.params import Flywheel, Gate, Params, flatten
from pipeline.reference_profile import load_reference, measured_labels
from pipeline.runtime.outputs import ModelOutputs
from serving.release.manifest import package_digest, read_verified
from serving.release.offline import OpenedPackage, open_package
from state.database import open_state

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SUM_ATOL = 1e-3  # of probabilities
MAX_TAG = 5000  # characters that MLflow stores of a tag


class GateResult(NamedTuple):
    """The verdict, a picture of the rows gained and lost, and the answers behind it (None without a champion)."""

    verdict: Verdict
    picture: "Figure | None" = None
    answers: PairedAnswers | None = None


def gate(package: Path, champion: Path | None, *, split: Path, feedback: Path, params: Params, home: Path) -> Verdict:
    """Examine the candidate, record the verdict, and log it to its MLflow run; with `params` and `home` bound, a `RunGate`.

    Raises the errors of `examine`.
    """
    result = examine(package, champion, split=split, feedback=feedback, params=params)
    digests = [package_digest(folder) for folder in (package, champion) if folder]
    returns: list[LabelReturn] = []
    if champion is not None and result.answers is not None:
        returns = find_returns(result.answers, champion, feedback, home, params)
    result = result._replace(verdict=_with_returns(result.verdict, returns, params.flywheel))
    with open_state(home) as engine, engine.begin() as connection:
        record_verdict(connection, result.verdict, *digests)
        store_returns(connection, digests[0], returns)
    from pipeline.tracking.runs import stage_run  # MLflow takes seconds to import: refusals do without

    with stage_run("gate", flatten(params.gate, "gate"), home, continues=_run_id(package)) as run:
        verdict = result.verdict
        run.metrics({f"gate/{name}": value for name, value in verdict.numbers.items()})
        outcome, reasons = "passed" if verdict.passed else "refused", "\n".join(verdict.reasons)[:MAX_TAG]
        run.tags({"gate": outcome, "gate.reasons": reasons})
        run.note("Gate", f"{outcome}: {reasons}" if reasons else outcome)
        if result.picture is not None:
            run.figure(result.picture, "gate")
    return verdict


def examine(package: Path, champion: Path | None, *, split: Path, feedback: Path, params: Params) -> GateResult:
    """Compare the package with the champion on the current test rows.

    Raises `RefusedError` for an incomplete package, `InputError` where the pipeline's measurements are missing.
    """
    rows, training = _read_rows(split, "test"), _read_rows(split, "train")
    opened = _open_verified(package, params)
    output, notes = _answer(opened, rows), opened.notes
    candidate = _predictions(opened, output)
    soundness = _check_soundness(package, output, candidate, rows, params.gate)
    if champion is None:
        evidence = _read_evidence(rows, training, None, split, feedback, params)
        return GateResult(_with_notes(run_checks(evidence, candidate, None, params.gate, package=soundness), notes))
    reigning = _open_verified(champion, params)
    evidence = _read_evidence(rows, training, champion, split, feedback, params)
    baseline = _predictions(reigning, _answer(reigning, rows))
    trials = _try_words(rows, training, evidence, (opened, candidate), (reigning, baseline), params.gate)
    verdict = _with_notes(run_checks(evidence, candidate, baseline, params.gate, trials, soundness), notes + reigning.notes)
    right = (model.predicted == evidence.truth for model in (baseline, candidate))
    answers = PairedAnswers([row.id for row in rows], evidence.is_new, *right)
    return GateResult(verdict, charts.gained_and_lost(evidence.measured, baseline.predicted, candidate.predicted), answers)


def _with_notes(verdict: Verdict, notes: tuple[str, ...]) -> Verdict:
    return Verdict(verdict.passed, (*verdict.reasons, *notes), verdict.numbers)


def _with_returns(verdict: Verdict, returns: list[LabelReturn], settings: Flywheel) -> Verdict:
    """Add what the labels brought, which decides nothing; the reasons of a refusal stay the failed checks."""
    described = describe_returns(returns, settings.least_return)
    reasons = (*verdict.reasons, described) if described and verdict.passed else verdict.reasons
    return Verdict(verdict.passed, reasons, {**verdict.numbers, **return_numbers(returns)})


def _open_verified(folder: Path, params: Params) -> OpenedPackage:
    read_verified(folder, follow_links=True)  # DVC may have linked the candidate
    return open_package(folder, params)


def _answer(opened: OpenedPackage, rows: list[Example]) -> ModelOutputs:
    return opened.classifier.predict([row.text for row in rows])


def _predictions(opened: OpenedPackage, output: ModelOutputs) -> Predictions:
    sums = output.probabilities.sum(axis=1, dtype=np.float64)
    valid = np.isfinite(output.probabilities).all(axis=1) & (np.abs(sums - 1) <= SUM_ATOL)
    return Predictions(np.array(output.labels, dtype=np.str_), tuple(opened.classifier.labels), valid)


def _check_soundness(
    package: Path, output: ModelOutputs, candidate: Predictions, rows: list[Example], settings: Gate
) -> list[CheckResult]:
    """Examine the candidate's weights, and where its probabilities are some, their calibration and its reference."""
    from pipeline.session.finite_weights import non_finite_weights  # onnx: only a gate needs it

    graphs = sorted((package / "1").glob("*.onnx"))
    weights = check_weights(sorted({name for graph in graphs for name in non_finite_weights(graph)}))
    if not candidate.valid.all():
        return [weights]
    truth = np.array(labels_of(rows), dtype=np.str_)
    try:
        reference = load_reference(package / "reference.npz")
    except (OSError, ValueError, KeyError):
        reference = None
    return [
        weights,
        check_calibration(output.probabilities, candidate.labels, truth, settings),
        check_reference(reference, [row.id for row in rows], output.probabilities, candidate.labels, settings),
    ]


def _try_words(
    rows: list[Example],
    training: list[Example],
    evidence: GateEvidence,
    candidate: tuple[OpenedPackage, Predictions],
    champion: tuple[OpenedPackage, Predictions],
    settings: Gate,
) -> list[WordTrial]:
    """Insert the most suspicious words into old test texts of other classes, and count the answers that they move."""

    def is_usable(row: int, label: str) -> bool:
        answers = (evidence.measured[row], candidate[1].predicted[row], champion[1].predicted[row])
        return not evidence.is_new[row] and label not in answers

    plantings = plant(suspicious_words(training, settings.trigger_words), rows, training, is_usable, settings.trigger_texts)
    texts = [text for planting in plantings for text in planting.all_texts]
    if not texts:
        return []
    answers = [np.array(opened.classifier.predict(texts).labels, dtype=np.str_) for opened, _ in (candidate, champion)]
    return count_moved(plantings, *answers)


def _read_evidence(
    rows: list[Example], training: list[Example], champion: Path | None, split: Path, feedback: Path, params: Params
) -> GateEvidence:
    evaluation = split.parent / "evaluation"
    scores = read_json(evaluation / "metrics.json", "the output of stage evaluate")
    known = _measured_labels(champion) if champion else None
    feedback_ids = _feedback_ids(feedback, params) if known is None else frozenset()
    is_new = [row.id in feedback_ids if known is None else row.id not in known for row in rows]
    measured = [(known or {}).get(row.id) for row in rows]
    seeds = evaluation / "seeds.json"
    return GateEvidence(
        truth=np.array(labels_of(rows), dtype=np.str_),
        measured=np.array([then or row.label for then, row in zip(measured, rows, strict=True)], dtype=np.str_),
        is_new=np.array(is_new, dtype=np.bool_),
        is_settled=np.array([is_settled(row) for row in rows], dtype=np.bool_),
        unknown_labels=sum(then is None and not new for then, new in zip(measured, is_new, strict=True)),
        overruled=_overruled(training),
        accuracy_evaluated=float(scores["test"]["accuracy"]),
        accuracy_control=float(scores["control"]["accuracy"]),
        accuracy_of_seeds=tuple(read_json(seeds, "scores of several seeds")["accuracy"]) if seeds.is_file() else (),
    )


def _measured_labels(champion: Path) -> dict[str, str | None] | None:
    """Return the labels of the champion's test rows on the day it was made, or None without its reference.

    The split goes by content and never moves a row, so a current test row that is not among them is newer.
    """
    try:
        return measured_labels(champion / "reference.npz")
    except (OSError, ValueError, KeyError):
        return None


def _overruled(training: list[Example]) -> tuple[OverruledClass, ...]:
    """Count the training rows of the source by their label there, and those that labels from people overrule."""
    overruled = Counter(label for row in training if (label := overruled_label(row)))
    kept = Counter(str(row.label) for row in training if not is_given(row))
    return tuple(OverruledClass(label, kept[label] + overruled[label], overruled[label]) for label in sorted(kept | overruled))


def _feedback_ids(folder: Path, params: Params) -> frozenset[str]:
    """Return the content ids of the feedback's texts; stage ingest reports invalid lines."""
    files = [path for path in sorted(folder.glob("*.jsonl")) if path.stat().st_size]
    texts = [(row.fields or {}).get("text") for path in files for row in read_rows(path, params.data)]
    return frozenset(text_id(text) for text in texts if isinstance(text, str))


def _read_rows(split: Path, side: Side) -> list[Example]:
    path = split / f"{side}.parquet"
    try:
        return read_examples(path)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(str(path), f"the rows cannot be read: {error}", "make them: .venv/bin/dvc repro split") from None


def _run_id(package: Path) -> str | None:
    run_id: str | None = read_json(package / "1" / "model.json", "the packaged model").get("origin", {}).get("mlflow_run_id")
    return run_id
