"""Accuracy over coverage: how often a model is right on the texts that it answers, when it answers the most confident ones."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
COVERAGES = (0.80, 0.90, 0.95)


class CoverageCurve(NamedTuple):
    """Selective accuracy when the k most confident of N rows are answered, k = 1 … N."""

    coverage: Floats  # (N,) = k / N
    accuracy: Floats  # (N,)

    def accuracy_at(self, coverage: float) -> float:
        """Return the accuracy on the most confident rows, just enough of them for this coverage."""
        rows = len(self.coverage)
        return float(self.accuracy[min(rows, max(1, int(np.ceil(coverage * rows - 1e-9)))) - 1])

    def area_under_risk(self) -> float:
        """Return AURC, the mean error rate over all coverages (Geifman, Uziel & El-Yaniv 2019); lower is better."""
        return float(np.mean(1 - self.accuracy))


def coverage_curve(confidence: Floats, correct: Bools) -> CoverageCurve:
    """Return the curve; among rows of equal confidence, errors are spread evenly, as in the mean over their orders.

    >>> coverage_curve(np.array([0.9, 0.8, 0.7, 0.6]), np.array([True, True, False, True])).accuracy.round(3).tolist()
    [1.0, 1.0, 0.667, 0.75]
    """
    order = np.argsort(-confidence, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(confidence[order]) != 0, True)) + 1  # rows up to the end of each tie
    errors = np.cumsum(~correct[order])[ends - 1]
    answered = np.arange(1, len(order) + 1)
    expected = np.interp(answered, np.append(0, ends), np.append(0, errors))
    return CoverageCurve(answered / len(order), 1 - expected / answered)


def coverage_scores(curve: CoverageCurve) -> dict[str, float]:
    """Return the curve's scores by the names that they have in metrics.json and MLflow."""
    at = {f"accuracy_at_coverage_{round(100 * coverage)}": curve.accuracy_at(coverage) for coverage in COVERAGES}
    return {"area_under_risk_coverage": curve.area_under_risk(), **at}
