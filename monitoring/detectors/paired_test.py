"""Paired comparison of two models on the same rows. Pure: counts in, p-values out.

Only discordant rows count: those that exactly one of the models gets right. Equality is tested exactly and one-sided
(`pipeline.metrics.mcnemar`): a test set is used once for each candidate, and small classes have a handful of discordant rows,
where neither resampling nor a sequential test would be more accurate. Against a margin there is no exact test without a search
over the nuisance parameter; Tango's score test (1998) keeps its level down to a few discordant rows, and to none.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

Flags = NDArray[np.bool_]
Floats = NDArray[np.float64]
Counts = NDArray[np.int64]
Rule = Callable[[Counts, Counts], Flags]  # rows gained, rows lost → whether the candidate passes


class PairCounts(NamedTuple):
    """Counts over N rows that both models answered."""

    rows: int
    gained: int  # only the candidate is right
    lost: int  # only the champion is right

    @property
    def difference(self) -> float:
        """Return the candidate's accuracy minus the champion's."""
        return (self.gained - self.lost) / max(1, self.rows)


def count_pairs(champion_right: Flags, candidate_right: Flags) -> PairCounts:
    """Compare (N,) flags with (N,) flags.

    >>> count_pairs(np.array([True, True, False]), np.array([True, False, True]))
    PairCounts(rows=3, gained=1, lost=1)
    """
    gained, lost = candidate_right & ~champion_right, champion_right & ~candidate_right
    return PairCounts(len(candidate_right), int(gained.sum()), int(lost.sum()))


def tango_p_value(rows: int, gained: Counts | int, lost: Counts | int, margin: float) -> Floats:
    """Return P(a result this good) for a candidate that is worse by `margin` (0..1): Tango's score test (1998), normal limit.

    >>> round(float(tango_p_value(rows=200, gained=5, lost=4, margin=0.05)), 4)
    0.0024
    """
    return np.asarray(special.ndtr(-_score(rows, gained, lost, -margin)))


def tango_lower_bound(counts: PairCounts, alpha: float) -> float:
    """Return the lower end of Tango's interval for the difference of accuracies, at confidence 1 − alpha.

    >>> round(tango_lower_bound(PairCounts(rows=200, gained=12, lost=4), alpha=0.05), 4)
    0.0077
    """
    from scipy.optimize import brentq  # slow to import, and nothing else here needs it

    z = float(special.ndtri(1 - alpha))

    def excess(difference: float) -> float:
        return float(_score(counts.rows, counts.gained, counts.lost, difference)) - z

    lowest, highest = -1 + 1e-9, counts.difference
    if excess(lowest) <= 0:
        return -1.0
    return float(brentq(excess, lowest, min(highest, 1 - 1e-9), xtol=1e-6))


def tarone_rejections(p_values: Floats, smallest: Floats, alpha: float) -> Flags:
    """Return (K,) which of K exact tests reject with P(any false rejection) ≤ alpha: Tarone's bound for discrete tests (1990).

    `smallest` holds each test's smallest possible p-value. A test that cannot reach the level costs the others nothing: of 77
    classes, 6 may have enough discordant rows, and then the correction is for 6 tests, not 77.

    >>> tarone_rejections(np.array([0.002, 0.02, 0.5]), smallest=np.array([0.001, 0.01, 0.5]), alpha=0.05).tolist()
    [True, True, False]
    """
    for corrected in range(1, len(p_values) + 1):
        if int((smallest <= alpha / corrected).sum()) <= corrected:
            return np.asarray(p_values <= alpha / corrected)
    return np.zeros(len(p_values), dtype=np.bool_)


def pass_probability(rows: int, discordant_share: float, difference: float, rule: Rule) -> float:
    """Return P(`rule` passes a candidate) whose accuracy differs by `difference`, on this many rows; exact, without sampling.

    `discordant_share` of the rows tell the models apart. A rule that passes k lost rows must pass fewer too.

    >>> round(pass_probability(100, 0.1, 0.0, lambda gained, lost: lost <= 5), 3)
    0.616
    """
    share = min(1.0, max(discordant_share, abs(difference), 1e-12))
    spread = 8 * np.sqrt(rows * share * (1 - share)) + 8
    discordant = np.arange(max(0, int(rows * share - spread)), min(rows, int(rows * share + spread)) + 1)
    most, none = discordant.copy(), np.full_like(discordant, -1)  # bisection for the most lost rows that pass
    while (most > none).any():
        middle = (most + none + 1) // 2
        passed = rule(discordant - middle, middle)
        none, most = np.where(passed, middle, none), np.where(passed, most, middle - 1)
    lost_share = min(1.0, max(0.0, 0.5 - difference / (2 * share)))
    cumulative = np.where(most >= 0, special.bdtr(np.maximum(most, 0), discordant, lost_share), 0.0)
    return float((_binomial(discordant, rows, share) * cumulative).sum())


def _score(rows: int, gained: Counts | int, lost: Counts | int, difference: float) -> Floats:
    """Return Tango's statistic for "the accuracies differ by `difference`", positive where the candidate is better than that."""
    b, c = np.asarray(gained, dtype=np.float64), np.asarray(lost, dtype=np.float64)
    linear = (2 * rows - b + c) * difference - b - c
    constant = -c * difference * (1 - difference)
    share_lost = (np.sqrt(np.maximum(linear**2 - 8 * rows * constant, 0)) - linear) / (4 * rows)  # at that difference
    variance = rows * (2 * share_lost + difference * (1 - difference))
    return np.asarray((b - c - rows * difference) / np.sqrt(np.maximum(variance, 1e-300)))


def _binomial(hits: Counts, tries: int, share: float) -> Floats:
    """Return (N,) P(exactly this many hits in `tries`)."""
    ways = special.gammaln(tries + 1) - special.gammaln(hits + 1) - special.gammaln(tries - hits + 1)
    return np.asarray(np.exp(ways + special.xlogy(hits, share) + special.xlog1py(tries - hits, -share)))
