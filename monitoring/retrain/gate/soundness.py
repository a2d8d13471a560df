"""Checks of a candidate alone, beyond its labels: finite weights, calibrated probabilities, and a reference of its own. Pure."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import special

from monitoring.retrain.gate.evidence import CheckResult
from pipeline.output.plain_text import join_names
from pipeline.params import Gate
from pipeline.reference_profile import Reference

LEAST_PROBABILITY = 1e-30  # its logarithm is finite
NAMED = 3  # tensors in a sentence


def check_weights(spoilt: Sequence[str]) -> CheckResult:
    """Refuse weights that are no numbers, although no test row may touch them; `spoilt` are the names of such tensors."""
    more = f" and {len(spoilt) - NAMED} more" if len(spoilt) > NAMED else ""
    reason = (
        f"weights are no numbers in {join_names(spoilt[:NAMED])}{more}: train again with a smaller train.learning_rate, or look "
        "at the disk if the losses of the training are finite"
    )
    return CheckResult((reason,) if spoilt else (), (), {"weights/not_finite": float(len(spoilt))})


def check_calibration(
    probabilities: NDArray[np.float32], labels: Sequence[str], truth: NDArray[np.str_], settings: Gate
) -> CheckResult:
    """Refuse probabilities that are proved to be `max_miscalibration` times too sharp or too flat, as a temperature is meant."""
    classes = {label: number for number, label in enumerate(labels)}
    known = np.array([label in classes for label in truth.tolist()], dtype=np.bool_)
    right = np.array([classes[label] for label in truth[known].tolist()], dtype=np.int64)
    p_sharp, p_flat = temperature_p_values(probabilities[known], right, settings.max_miscalibration)
    numbers = {"calibration/p_too_sharp": p_sharp, "calibration/p_too_flat": p_flat}
    p, how = (p_sharp, "sharper") if p_sharp <= p_flat else (p_flat, "flatter")
    if p > settings.false_refusals:
        return CheckResult((), (), numbers)
    kept = probabilities[known]
    sure, correct = float(kept.max(axis=1).mean()), float((kept.argmax(axis=1) == right).mean())
    reason = (
        f"its probabilities are more than {settings.max_miscalibration:g} times {how} than they should be, p = {p:.2g}: on "
        f"average it is {sure:.1%} sure, and right on {correct:.1%} of the rows; abstention, label queue and drift rest on "
        "them. Fit the temperature again on more validation rows: .venv/bin/dvc repro -f evaluate"
    )
    return CheckResult((reason,), (), numbers)


def temperature_p_values(probabilities: NDArray[np.float32], right: NDArray[np.int64], factor: float) -> tuple[float, float]:
    """Return p-values of "the right temperature is `factor` times the used one at most", and "1 / `factor` of it at least".

    Rao's score test (1948) for β in p ∝ exp(β log p̂) at β = 1/`factor` and `factor`, one-sided; β = 1 is perfect. 1 without rows.

    Parameters
        probabilities: (N, C), the model's
        right: (N,) the right class of each row

    >>> sure = np.array([[0.9, 0.1]] * 100)
    >>> wrong_in_half = np.arange(100) % 2
    >>> sharp, flat = temperature_p_values(sure, wrong_in_half, factor=3.0)
    >>> sharp < 0.001 < flat
    True
    """
    if not len(right):
        return 1.0, 1.0
    logs = np.log(np.maximum(probabilities.astype(np.float64), LEAST_PROBABILITY))
    scores = []
    for power in (1 / factor, factor):
        shares = special.softmax(power * logs, axis=1)
        expected = (shares * logs).sum(axis=1)
        variance = float(((shares * logs**2).sum(axis=1) - expected**2).sum())
        score = float((logs[np.arange(len(right)), right] - expected).sum())
        scores.append(score / max(variance, LEAST_PROBABILITY) ** 0.5)
    return float(special.ndtr(scores[0])), float(special.ndtr(-scores[1]))


def check_reference(
    reference: Reference | None, ids: Sequence[str], probabilities: NDArray[np.float32], labels: Sequence[str], settings: Gate
) -> CheckResult:
    """Require that the package's reference holds this model's answers, where it has the current rows: drift is measured by it."""
    if reference is None:
        return CheckResult((), (), {})
    if reference.labels.tolist() != list(labels):
        return CheckResult(("its reference knows other labels than the model: make the package again: make repro",), (), {})
    stored = {id: number for number, id in enumerate(reference.ids.tolist())}
    pairs = [(row, stored[id]) for row, id in enumerate(ids) if id in stored]
    if not pairs:
        return CheckResult((), (), {})
    rows, entries = np.array(pairs).T
    gap = float(np.abs(probabilities[rows] - reference.probabilities[entries]).max(axis=1).mean())
    reason = (
        f"its reference is not of this model: on {len(pairs)} rows a probability differs by {gap:.3f} on average, above "
        f"gate.reference_tolerance {settings.reference_tolerance}; drift would be measured against another model. "
        "Make the package again: .venv/bin/dvc repro -f reference package"
    )
    return CheckResult((reason,) if gap > settings.reference_tolerance else (), (), {"reference/gap": gap})
