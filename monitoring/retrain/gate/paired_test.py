"""Two models on the same rows: who is right more often, and how sure that is. Pure: counts in, p-values out.

Rows that both get right, or both wrong, say nothing of the difference; what counts are those that one of them gained or lost.
Tests of equality are exact (McNemar 1947, one-sided, as a sign test): a test set is looked at once a candidate, and small classes
have a handful of such rows, where neither resampling nor a sequential test would be truer. Against a margin there is no exact
test without a search over nuisance; Tango's score test (1998) keeps its level down to a few such rows, and to none.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special
from scipy.optimize import brentq

Flags = NDArray[np.bool_]
Floats = NDArray[np.float64]
Counts = NDArray[np.int64]
Passes = Callable[[Counts, Counts], Flags]  # rows gained, rows lost → whether a rule lets that pass


class Pairs(NamedTuple):
    """N rows that both models answered."""

    rows: int
    gained: int  # the candidate is right and the champion is not
    lost: int  # the other way round

    @property
    def difference(self) -> float:
        """Accuracy of the candidate less that of the champion."""
        return (self.gained - self.lost) / max(1, self.rows)


def pairs(champion_right: Flags, candidate_right: Flags) -> Pairs:
    """Count (N,) flags against (N,) flags."""
    gained, lost = candidate_right & ~champion_right, champion_right & ~candidate_right
    return Pairs(len(candidate_right), int(gained.sum()), int(lost.sum()))


def p_one_sided(more: Counts | int, less: Counts | int) -> Floats:
    """Exact McNemar: P(at least `more` of the rows that tell two equally good models apart), 1 where no row does."""
    return np.where(np.asarray(more) > 0, special.betainc(np.maximum(more, 1), np.asarray(less) + 1, 0.5), 1.0)


def p_within(rows: int, gained: Counts | int, lost: Counts | int, margin: float) -> Floats:
    """P of so good a result if the candidate were worse by `margin` (0..1): Tango's score test (1998), normal approximation."""
    return np.asarray(special.ndtr(-_score(rows, gained, lost, -margin)))


def lower_bound(counted: Pairs, alpha: float) -> float:
    """The difference of accuracies that is held with confidence 1 − alpha (Tango's interval, its lower end)."""
    z = float(special.ndtri(1 - alpha))

    def excess(difference: float) -> float:
        return float(_score(counted.rows, counted.gained, counted.lost, difference)) - z

    lowest, highest = -1 + 1e-9, counted.difference
    if excess(lowest) <= 0:
        return -1.0
    return float(brentq(excess, lowest, min(highest, 1 - 1e-9), xtol=1e-6))


def proved_worse(p_values: Floats, least: Floats, alpha: float) -> Flags:
    """(K,) which of K exact tests hold with P(any is wrong) ≤ alpha: Tarone's bound for discrete tests (1990).

    A test whose `least` possible p-value cannot reach the level could never have spoken, and costs the others nothing: with 77
    classes of which 6 have rows enough that tell the models apart, 6 are corrected for and not 77.
    """
    for corrected in range(1, len(p_values) + 1):
        if int((least <= alpha / corrected).sum()) <= corrected:
            return np.asarray(p_values <= alpha / corrected)
    return np.zeros(len(p_values), dtype=np.bool_)


def chance_to_pass(rows: int, telling_share: float, difference: float, passes: Passes) -> float:
    """P(a rule lets pass) for a candidate whose accuracy differs by `difference`, on so many rows; exact, nothing is drawn.

    `telling_share` of the rows tell the models apart. A rule that lets k lost rows pass has to let fewer pass too.
    """
    share = min(1.0, max(telling_share, abs(difference), 1e-12))
    spread = 8 * np.sqrt(rows * share * (1 - share)) + 8
    telling = np.arange(max(0, int(rows * share - spread)), min(rows, int(rows * share + spread)) + 1)
    most, none = telling.copy(), np.full_like(telling, -1)  # bisection for the most lost rows that pass
    while (most > none).any():
        middle = (most + none + 1) // 2
        passed = passes(telling - middle, middle)
        none, most = np.where(passed, middle, none), np.where(passed, most, middle - 1)
    lost_share = min(1.0, max(0.0, 0.5 - difference / (2 * share)))
    cumulated = np.where(most >= 0, special.bdtr(np.maximum(most, 0), telling, lost_share), 0.0)
    return float((_binomial(telling, rows, share) * cumulated).sum())


def _score(rows: int, gained: Counts | int, lost: Counts | int, difference: float) -> Floats:
    """Tango's statistic for "accuracies differ by `difference`": positive where the candidate is better than that."""
    b, c = np.asarray(gained, dtype=np.float64), np.asarray(lost, dtype=np.float64)
    linear = (2 * rows - b + c) * difference - b - c
    constant = -c * difference * (1 - difference)
    of_lost = (np.sqrt(np.maximum(linear**2 - 8 * rows * constant, 0)) - linear) / (4 * rows)  # its share at that difference
    variance = rows * (2 * of_lost + difference * (1 - difference))
    return np.asarray((b - c - rows * difference) / np.sqrt(np.maximum(variance, 1e-300)))


def _binomial(hits: Counts, tries: int, share: float) -> Floats:
    """(N,) P(so many hits of `tries`)."""
    ways = special.gammaln(tries + 1) - special.gammaln(hits + 1) - special.gammaln(tries - hits + 1)
    return np.asarray(np.exp(ways + special.xlogy(hits, share) + special.xlog1py(tries - hits, -share)))
