"""E-processes by betting on counts: the mean of outcomes in {−1, 0, +1}, and the share of an event in one arm or in two.

Each is a mixture over bets that were fixed beforehand (Robbins 1970; Waudby-Smith and Ramdas 2024), so its value
depends on nothing but counts. A bet pays 1 at most on average while its null hypothesis holds, given the past. Values are natural
logarithms.
"""

from functools import lru_cache
from math import inf

import numpy as np
from numpy.typing import NDArray
from scipy import special

from monitoring.detectors.e_process import bernoulli_payoffs

Floats = NDArray[np.float64]
STAKES = np.array([0.15, 0.25, 0.35, 0.5, 0.7, 0.95])  # of the largest bet that cannot lose everything
STAKE_WEIGHTS = np.array([0.2, 0.25, 0.25, 0.15, 0.1, 0.05])
BASE_SHARES = np.array([0.002, 0.01, 0.05, 0.2, 0.4])  # of the event in the baseline's arm, on the border of the null hypothesis
ARM_STAKES = np.array([0.2, 0.5, 0.8, 0.97])
EXCESSES = np.array([0.1, 0.25, 0.5, 0.8])  # alternatives of one arm: of the way from the tolerated share to 1
CONFIDENCE = 0.95
STEPS = 50  # of a bisection: its error is below 1e-14


def log_e_above(floor: float, equal: Floats, gained: Floats, lost: Floats) -> Floats:
    """Return log e against "the mean outcome is at most `floor`", after this many outcomes 0, +1 and −1; arrays of one shape.

    A bet λ pays 1 + λ (x − floor) for an outcome x, with 0 < λ < 1 / (1 + floor). These are all the admissible bets on a mean
    (Waudby-Smith and Ramdas 2024), so nothing is lost by asking for no more than the mean.

    >>> zero, one = np.array(0.0), np.array(1.0)
    >>> round(float(np.exp(log_e_above(0.0, zero, one, zero))), 4)  # 1 + the mean stake
    1.3725
    """
    stakes = STAKES / (1 + floor)
    paid = [np.log1p(stakes * (outcome - floor)) for outcome in (0.0, 1.0, -1.0)]
    counted = sum(np.multiply.outer(count, payoff) for count, payoff in zip((equal, gained, lost), paid, strict=True))
    return _mixture(np.asarray(counted), STAKE_WEIGHTS)


def mean_interval(equal: int, gained: int, lost: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Return bounds that hold the mean outcome at all times at once, with this probability.

    They are the means that no e-process has refuted: half of the error is spent on each side.

    >>> [round(bound, 3) for bound in mean_interval(equal=900, gained=50, lost=50)]
    [-0.03, 0.03]
    """
    threshold = -np.log((1 - confidence) / 2)
    counts = [np.array(float(count)) for count in (equal, gained, lost)]
    mirrored = [counts[0], counts[2], counts[1]]

    def largest_refuted(ordered: list[Floats]) -> float:
        low, high = -1.0, 1.0
        for _ in range(STEPS):
            middle = (low + high) / 2
            low, high = (middle, high) if log_e_above(middle, *ordered) >= threshold else (low, middle)
        return low

    return largest_refuted(counts), -largest_refuted(mirrored)


def log_e_share(tolerated: float, hits: float, answers: float) -> float:
    """Return log e against "the share of an event is at most `tolerated`", after `hits` of `answers`.

    >>> round(log_e_share(0.1, hits=20, answers=50), 2)
    13.74
    """
    if tolerated >= 1:
        return -inf if hits < answers else 0.0
    payoffs = np.log(bernoulli_payoffs(tolerated, tolerated + EXCESSES * (1 - tolerated)))
    return float(_mixture((answers - hits) * payoffs[:, 0] + hits * payoffs[:, 1], np.full(len(EXCESSES), 1 / len(EXCESSES))))


def share_at_most(hits: int, answers: int, alpha: float) -> float:
    """Return the upper bound of a share that holds at all times at once, with probability 1 − alpha.

    The e-process is the likelihood ratio of a Beta(½, ½) mixture (Robbins 1970). Without answers the bound is 1.

    >>> round(share_at_most(hits=30, answers=300, alpha=0.05), 4)
    0.1709
    """
    mixture = special.betaln(hits + 0.5, answers - hits + 0.5) - special.betaln(0.5, 0.5)
    low, high = hits / max(answers, 1), 1.0
    for _ in range(STEPS):
        middle = (low + high) / 2
        log_e = mixture - special.xlogy(hits, middle) - special.xlog1py(answers - hits, -middle)
        low, high = (low, middle) if log_e >= -np.log(alpha) else (middle, high)
    return high


def log_e_excess(allowed: float, pairs: float, hits: float, baseline_hits: float) -> float:
    """Return log e against "the event's share in an arm exceeds the baseline's by `allowed` at most", after pairs of answers.

    A pair is one answer of each arm, (x, y) in {0, 1}². For a point (q, p) with q = p + allowed, on the border of the null
    hypothesis, the bet pays (1 + μ (x − q)) (1 − μ (y − p)): the form of the safe test of Turner, Ly and Grünwald (2024) on
    blocks of one answer an arm. With true shares q + u and p + v its mean is (1 + μu) (1 − μv), at most 1 − μ²v² while u ≤ v. The
    shares may change from pair to pair: an outage that hits both arms is no evidence.

    >>> round(log_e_excess(0.01, pairs=100, hits=12, baseline_hits=1), 2)
    3.56
    """
    hit, miss, baseline_hit, baseline_miss = _pair_payoffs(allowed)
    paid = hits * hit + (pairs - hits) * miss + baseline_hits * baseline_hit + (pairs - baseline_hits) * baseline_miss
    return float(_mixture(paid, np.full(len(paid), 1 / len(paid))))


@lru_cache(maxsize=16)
def _pair_payoffs(allowed: float) -> tuple[Floats, Floats, Floats, Floats]:
    """Return log payoffs (J,) of a hit and a miss in the arm, and of both in the baseline's."""
    p, stakes = (axis.ravel() for axis in np.meshgrid(BASE_SHARES * (1 - allowed), ARM_STAKES, indexing="ij"))
    q = p + allowed
    mu = stakes * np.minimum(1 / q, 1 / (1 - p))
    return np.log1p(mu * (1 - q)), np.log1p(-mu * q), np.log1p(-mu * (1 - p)), np.log1p(mu * p)


def _mixture(log_wealth: Floats, weights: Floats) -> Floats:
    """Return the log of the weighted mean over the last axis."""
    highest = log_wealth.max(axis=-1)
    return np.asarray(highest + np.log(np.exp(log_wealth - highest[..., None]) @ weights))
