"""Other rules for a roll-back, each as one statistic a look; the largest one so far is compared with a calibrated threshold.

All of them compare the challenger's arm with a baseline arm of equal size, except the Argo-style rule, which looks at the
challenger's success rate alone. All labels of both arms are known to them.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from tests.bench.release.replay import LADDER, LOOK, ControlLooks, Played

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Flags = NDArray[np.bool_]
Statistic = Callable[[ControlLooks], Floats]  # → (R, K), large when the challenger is worse; NaN: no judgement at this look
FAILURE_LIMIT = 3  # Argo Rollouts: one failed measurement more aborts the release
MEASURED_EVERY = 4  # looks: Argo's and Kayenta's measurements, and the looks of the group sequential test
MIN_MEASURED = (
    100  # answers, before Argo's measurement can fail: with fewer its threshold would have to be so low that it never does
)
MIN_ANSWERS = 20  # of each arm, before a difference has a variance
TUNED_FOR = 2_000.0  # answers an arm at which the confidence sequence is tightest


class Reaction(NamedTuple):
    """What a rule does with releases (R,)."""

    is_rolled_back: Flags
    at: Integers  # requests until then; at the end of the ladder: never
    labels: Integers  # of both arms until then
    harmed: Integers  # within the horizon


def peeking_z(looks: ControlLooks) -> Floats:
    """Return the two-proportion z statistic at every look."""
    answers, right, baseline_answers, baseline_right = _cumulated(looks)
    pooled = (right + baseline_right) / np.maximum(answers + baseline_answers, 1)
    variance = pooled * (1 - pooled) * (1 / np.maximum(answers, 1) + 1 / np.maximum(baseline_answers, 1))
    z = (baseline_right / np.maximum(baseline_answers, 1) - right / np.maximum(answers, 1)) / np.sqrt(np.maximum(variance, 1e-12))
    return np.where(np.minimum(answers, baseline_answers) >= MIN_ANSWERS, z, np.nan)


def group_sequential(looks: ControlLooks) -> Floats:
    """Return z times the root of the information so far: O'Brien and Fleming's boundary (1979) for a known number of answers."""
    answers, _, baseline_answers, _ = _cumulated(looks)
    information = 1 / (1 / np.maximum(answers, 1) + 1 / np.maximum(baseline_answers, 1))
    return _at_measurements(peeking_z(looks) * np.sqrt(information / information[:, -1:]))


def confidence_sequence(looks: ControlLooks) -> Floats:
    """Return log e of the asymptotic confidence sequence (Waudby-Smith et al. 2024) of the unpaired difference, at every look."""
    answers, _, baseline_answers, _ = _cumulated(looks)
    n = 2 / (1 / np.maximum(answers, 1) + 1 / np.maximum(baseline_answers, 1))
    z = peeking_z(looks)
    ratio = n / TUNED_FOR
    log_e = 0.5 * (np.square(z) * ratio / (1 + ratio) - np.log1p(ratio))
    return np.where(z > 0, log_e, np.where(np.isnan(z), np.nan, 0.0))


def mann_whitney(looks: ControlLooks) -> Floats:
    """Return −log p of Mann and Whitney's test on the success rates measured so far, as Kayenta compares two series."""
    rates = _measured(looks.right, looks.answers)[0]
    baseline_rates = _measured(looks.baseline_right, looks.baseline_answers)[0]
    result = np.full(looks.answers.shape, np.nan)
    for measured in range(2, rates.shape[1] + 1):
        series = rates[:, :measured], baseline_rates[:, :measured]
        p = stats.mannwhitneyu(*series, alternative="less", axis=1, method="asymptotic").pvalue
        result[:, measured * MEASURED_EVERY - 1] = -np.log(np.maximum(p, 1e-300))
    return result


def argo_style(looks: ControlLooks) -> Floats:
    """Return 1 minus the success rate below which one measurement more than the limit has fallen so far."""
    rates, answers = _measured(looks.right, looks.answers)
    rates = np.where(answers >= MIN_MEASURED, rates, 1.0)  # with fewer answers a measurement does not fail
    result = np.full(looks.answers.shape, np.nan)
    for measured in range(FAILURE_LIMIT + 1, rates.shape[1] + 1):
        ordered = np.partition(rates[:, :measured], FAILURE_LIMIT, axis=1)
        result[:, measured * MEASURED_EVERY - 1] = 1 - ordered[:, FAILURE_LIMIT]
    return result


CONTROLS: dict[str, Statistic] = {
    "Argo-style, failureLimit 3": argo_style,
    "peeking z-test": peeking_z,
    "Mann-Whitney (Kayenta)": mann_whitney,
    "unpaired confidence sequence": confidence_sequence,
    "group sequential, known n": group_sequential,
}


def calibrate(statistic: Floats, false_rollbacks: float) -> float:
    """Return the threshold that this share of equally good releases ever exceeds."""
    return float(np.quantile(np.nanmax(statistic, axis=1), 1 - false_rollbacks, method="higher"))


def react(played: Played, statistic: Floats, threshold: float) -> Reaction:
    """Roll back each release at the first look whose statistic exceeds the threshold."""
    looks = played.looks
    exceeds = np.nan_to_num(statistic, nan=-np.inf) > threshold
    is_rolled_back = exceeds.any(axis=1)
    last = np.where(is_rolled_back, exceeds.argmax(axis=1), exceeds.shape[1] - 1)
    rows = np.arange(len(last))
    harmed = np.cumsum(looks.harmed, axis=1)[rows, last] + np.where(is_rolled_back, 0, played.harmed_after)
    labels = np.cumsum(looks.answers + looks.baseline_answers, axis=1)[rows, last]
    return Reaction(is_rolled_back, np.where(is_rolled_back, (last + 1) * LOOK, LADDER), labels, harmed)


def _cumulated(looks: ControlLooks) -> tuple[Floats, ...]:
    return tuple(np.cumsum(counts, axis=1, dtype=np.float64) for counts in looks[:4])


def _measured(right: Integers, answers: Integers) -> tuple[Floats, Integers]:
    """Return the success rates (R, M) of whole measurements, and their answers; without answers the rate is 1."""
    groups = answers.shape[1] // MEASURED_EVERY
    right, answers = (counts.reshape(len(counts), groups, -1).sum(axis=2) for counts in (right, answers))
    return np.where(answers > 0, right / np.maximum(answers, 1), 1.0), answers


def _at_measurements(statistic: Floats) -> Floats:
    """Keep the looks at which a measurement ends."""
    is_end = np.arange(1, statistic.shape[1] + 1) % MEASURED_EVERY == 0
    return np.where(is_end, statistic, np.nan)
