"""Accuracy of a version: from feedback, estimated without labels, and the proof of harm. Pure.

The estimate without labels rests on two assumptions that only labels can check: texts that look out-of-distribution are answered
wrongly, and corrupted texts as well as the reference's corrupted texts were. The bounds hold where either fails. They widen with
the share of rows that resemble nothing seen when the version was made.
"""

from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from monitoring.detectors.e_process import bernoulli_payoffs, log_wealth_of_restarts
from monitoring.detectors.kolmogorov_smirnov import ks_distance
from monitoring.detectors.label_shift import bbse_shares, em_shares
from monitoring.detectors.wilson import wilson_interval
from monitoring.drift.calibration import reference_rows
from monitoring.drift.text_kinds import (
    CORRUPTED,
    FAR_OUT_OF_DISTRIBUTION,
    IN_DISTRIBUTION,
    OUT_OF_DISTRIBUTION,
    TextKindModel,
    correct_if_corrupted,
    expected_and_observed_cells,
    fit_text_kinds,
    fitted_half,
    kind_probabilities,
)
from monitoring.drift.window import PredictionRows, usable
from pipeline.params import Monitor
from pipeline.reference_profile import Reference

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
SUSPECTED_RATIOS = np.array([1.2, 1.4, 1.7, 2.2, 3.5])  # of the tolerated error rate, that are bet on
EM_ROUNDS, EM_TOLERANCE, BBSE_RIDGE = 100, 1e-5, 1e-3
KS_NOISE = 1.63  # times the root of 1/n + 1/m: exceeded once in a hundred where nothing differs (Smirnov 1948)


class AccuracyEstimator(NamedTuple):
    """Facts of a version's reference that accuracy is estimated from; memory does not depend on the reference's rows."""

    accuracy: float
    rows: int
    class_shares: Floats  # (classes,) mean probabilities
    predicted_shares: Floats  # (classes,) shares of predictions, smoothed so that none is 0
    underconfidence: float  # accuracy − mean confidence
    underconfidence_variance: float  # of one row
    text_kinds: TextKindModel
    offset: float  # accuracy on the reference minus its estimate there


class AccuracyInterval(NamedTuple):
    """An accuracy and its bounds, 0..1."""

    estimate: float
    lower: float
    upper: float


class AccuracyEstimate(NamedTuple):
    """Accuracy of a window, estimated without labels."""

    accuracy: AccuracyInterval
    out_of_distribution_share: float
    corrupted_share: float
    unexplained: float  # smallest share of rows that no mixture of text kinds accounts for

    @property
    def unlike_reference_share(self) -> float:
        """Return the share of rows that are not in-distribution."""
        return self.out_of_distribution_share + self.corrupted_share


class ExpectedAccuracy(NamedTuple):
    """Mean probability of being right over a window, under three readings of its rows."""

    estimate: float
    optimistic: float  # every row is as right as its confidence
    pessimistic: float  # rows that are not in-distribution are all wrong
    kind_shares: Floats  # (kinds,)


class LabelShift(NamedTuple):
    """Class shares (classes,) that would explain the window if only the shares had changed."""

    reference: Floats
    em: Floats
    bbse: Floats


def fit_accuracy_estimator(reference: Reference, corrupted: Reference | None, settings: Monitor) -> AccuracyEstimator:
    """Fit accuracy, shares, calibration and text kinds on all rows of the reference; raises `ValueError` for too few rows."""
    if len(reference.correct) < 4:
        raise ValueError("the reference has fewer than 4 rows")
    confidence = reference.probabilities.max(axis=1).astype(np.float64)
    accuracy, classes = float(reference.correct.mean()), len(reference.labels)
    predicted = np.bincount(reference.probabilities.argmax(axis=1), minlength=classes) + 1
    estimator = AccuracyEstimator(
        accuracy=accuracy,
        rows=len(confidence),
        class_shares=reference.probabilities.mean(axis=0, dtype=np.float64),
        predicted_shares=predicted / predicted.sum(),
        underconfidence=accuracy - float(confidence.mean()),
        underconfidence_variance=float((reference.correct - confidence).var()),
        text_kinds=fit_text_kinds(reference, corrupted, settings),
        offset=0.0,
    )
    held_out = ~fitted_half(reference, settings)
    estimate = _expected_accuracy(estimator, reference_rows(reference, held_out)).estimate
    return estimator._replace(offset=float(confidence[held_out].mean()) + estimator.underconfidence - estimate)


def labelled_accuracy(correct: Flags, settings: Monitor) -> AccuracyInterval | None:
    """Return the accuracy of labelled predictions with Wilson's interval (1927); None for fewer than `min_labels`.

    It is the accuracy of all traffic only if receiving a label does not depend on being right.
    """
    n = len(correct)
    if n < settings.min_labels:
        return None
    return AccuracyInterval(*wilson_interval(int(correct.sum()), n, _z(settings)))


def estimate_accuracy(estimator: AccuracyEstimator, window: PredictionRows, settings: Monitor) -> AccuracyEstimate | None:
    """Estimate accuracy without labels; None for a window that is not full.

    An in-distribution row is right with its confidence under the class shares that EM finds (label shift), corrected by the
    model's underconfidence on its reference. A corrupted row is right as often as the reference's corrupted texts were. An
    out-of-distribution row is wrong.
    The bounds assume that every row is as right as its confidence, and that only in-distribution rows are right. Added to them is
    the sampling error of window and reference, and below also the share of rows that resemble nothing seen before (accuracies of
    two distributions differ by at most their total variation).
    """
    window = window.take(usable(window))
    if len(window.id) < settings.window_rows:
        return None
    expected = _expected_accuracy(estimator, window)
    unexplained = _unexplained(estimator, window, expected.kind_shares)
    estimate = float(np.clip(expected.estimate + estimator.offset, 0.0, 1.0))
    low = min(estimate, expected.pessimistic + min(estimator.offset, 0.0))
    high = max(estimate, expected.optimistic)
    return AccuracyEstimate(
        accuracy=AccuracyInterval(
            estimate=estimate,
            lower=max(0.0, low - unexplained - _sampling_error(low, window, estimator, settings)),
            upper=min(1.0, high + _sampling_error(high, window, estimator, settings)),
        ),
        out_of_distribution_share=float(expected.kind_shares[[OUT_OF_DISTRIBUTION, FAR_OUT_OF_DISTRIBUTION]].sum()),
        corrupted_share=float(expected.kind_shares[CORRUPTED]),
        unexplained=unexplained,
    )


def estimate_label_shift(reference: Reference, window: PredictionRows) -> LabelShift | None:
    """Estimate class shares by EM and by BBSE; None without rows.

    A reference knows whether a prediction was right, not the true class: for a wrong one, BBSE takes the runner-up as true.
    """
    window = window.take(usable(window))
    if not len(window.id) or not len(reference.correct):
        return None
    order = reference.probabilities.argsort(axis=1)
    truth = np.where(reference.correct, order[:, -1], order[:, -min(2, order.shape[1])])
    reference_shares = reference.probabilities.mean(axis=0, dtype=np.float64)
    current = window.probabilities.astype(np.float64)
    return LabelShift(
        reference=reference_shares,
        em=em_shares(current, reference_shares, EM_ROUNDS, EM_TOLERANCE),
        bbse=bbse_shares(current, reference.probabilities.astype(np.float64), truth, BBSE_RIDGE),
    )


def harm_log_e(correct: Flags, reference_accuracy: float, tolerated_loss: float, alpha: float) -> float:
    """Return the highest natural log of an e-process against "accuracy ≥ reference_accuracy − tolerated_loss".

    P(it ever reaches log(1/α)) ≤ α while that holds, read after every label (Ville 1939), provided that each label's chance of
    being right, given the earlier ones, does not fall below that bound. The highest value counts, so a proof stands when the
    process falls again. The process restarts at every label, so a late fall is found too. Only proof ends harm: labels after it
    bet against "accuracy is still below the bound". When their e-process reaches log(1/α), both start again with the next label.
    0 without labels.
    """
    tolerated = float(np.clip(1 - reference_accuracy + tolerated_loss, 1e-3, 0.99))
    suspected = tolerated * SUSPECTED_RATIOS
    suspected, regained = suspected[suspected < 1], 1 - tolerated / SUSPECTED_RATIOS
    if not len(suspected):
        return 0.0
    while True:
        harm = _log_e(~correct, tolerated, suspected)
        correct = correct[_first_proof(harm, alpha) + 1 :]
        end = _first_proof(_log_e(correct, 1 - tolerated, regained), alpha)
        if end == len(correct):
            return float(harm.max(initial=0.0))
        correct = correct[end + 1 :]


def is_harm(log_e: float, alpha: float) -> bool:
    """Tell whether harm is proved at level `alpha`."""
    return log_e >= float(np.log(1 / alpha))


def _log_e(outcomes: Flags, tolerated: float, suspected: Floats) -> Floats:
    """Return the log e-value (T,) after each outcome, against P(true) ≤ tolerated."""
    payoffs = bernoulli_payoffs(tolerated, suspected)[:, outcomes.astype(np.int64)].T
    return log_wealth_of_restarts(payoffs, np.full(len(suspected), 1 / len(suspected)))


def _first_proof(log_e: Floats, alpha: float) -> int:
    """Return the index at which 1/α is first reached, or the length if it is not."""
    reached = np.flatnonzero(log_e >= np.log(1 / alpha))
    return int(reached[0]) if len(reached) else len(log_e)


def _expected_accuracy(estimator: AccuracyEstimator, rows: PredictionRows) -> ExpectedAccuracy:
    probabilities, reference_shares = rows.probabilities.astype(np.float64), estimator.class_shares
    shares = em_shares(probabilities, reference_shares, EM_ROUNDS, EM_TOLERANCE)
    ratio = np.divide(shares, reference_shares, out=np.zeros_like(shares), where=reference_shares > 0)
    shifted = probabilities * ratio
    confidence = shifted[np.arange(len(shifted)), probabilities.argmax(axis=1)] / np.maximum(shifted.sum(axis=1), 1e-300)
    right = np.clip(confidence + estimator.underconfidence, 0.0, 1.0)
    kinds, kind_shares = kind_probabilities(estimator.text_kinds, rows)
    in_distribution = float((kinds[:, IN_DISTRIBUTION] * right).mean())
    corrupted = float((kinds[:, CORRUPTED] * correct_if_corrupted(estimator.text_kinds, rows)).mean())
    return ExpectedAccuracy(in_distribution + corrupted, float(right.mean()), in_distribution, kind_shares)


def _unexplained(estimator: AccuracyEstimator, window: PredictionRows, kind_shares: Floats) -> float:
    """Return the largest distance of distribution functions over the features, less its sampling noise."""
    distance = float(ks_distance(*expected_and_observed_cells(estimator.text_kinds, window, kind_shares)).max())
    return max(0.0, distance - KS_NOISE * float(np.sqrt(1 / len(window.id) + 1 / estimator.rows)))


def _sampling_error(accuracy: float, window: PredictionRows, estimator: AccuracyEstimator, settings: Monitor) -> float:
    """Return half of the interval: the window is a sample, and the reference is a smaller one of the classes predicted now."""
    n, classes = len(window.id), len(estimator.predicted_shares)
    predicted = np.bincount(window.probabilities.argmax(axis=1), minlength=classes) / n
    weight = max(1.0, float((predicted**2 / estimator.predicted_shares).sum()))
    calibration = estimator.underconfidence_variance / estimator.rows * weight
    return _z(settings) * float(np.sqrt(accuracy * (1 - accuracy) / n + calibration))


def _z(settings: Monitor) -> float:
    return NormalDist().inv_cdf(0.5 + settings.confidence / 2)
