"""e-detectors (Shin, Ramdas and Rinaldo 2024): Shiryaev-Roberts and CUSUM over bets, restarted at every row at once.

Proved, for whatever dependence keeps each payoff's conditional mean at most 1: with threshold A the mean number of rows to a
false alarm is at least A, and P(alarm within N rows) ≤ N / A, since the statistic minus the row number is a supermartingale.
"""

from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
LARGEST = 1e250
SURE = 0.99


def shiryaev_roberts(payoffs: Floats, start: Floats, ceiling: float | Floats = LARGEST) -> tuple[Floats, Floats]:
    """R ← (1 + R) · payoff, for payoffs (T, ...) → the statistics after each row (T, ...) and the last, from where to go on.

    A mixture of bets is the weighted mean over its axis. Above `ceiling` it is cut, which loses nothing of the promise and lets
    an alarm end when the change does.
    """
    if not len(payoffs):
        return np.zeros_like(payoffs), start
    found, last = np.empty(payoffs.shape), start
    for row, payoff in enumerate(payoffs):
        last = found[row]
        np.add(start if not row else found[row - 1], 1.0, out=last)
        np.multiply(last, payoff, out=last)
        np.minimum(last, ceiling, out=last)
    return found, last.copy()


def cusum(payoffs: Floats, start: Floats) -> tuple[Floats, Floats]:
    """C ← max(1, C) · payoff: the best start instead of the sum over starts (Page 1954; Lorden 1971)."""
    found, last = np.empty(payoffs.shape), start
    for row, payoff in enumerate(payoffs):
        last = np.minimum(np.maximum(last, 1.0) * payoff, LARGEST)
        found[row] = last
    return found, last


def first_alarm(statistic: Floats, threshold: float) -> int | None:
    """Index of the first row (T,) at or above the threshold."""
    above = statistic >= threshold
    return int(above.argmax()) if above.any() else None


def simulated_threshold(
    table: Floats,
    chances: Floats,
    weights: Floats,
    *,
    kind: str,
    horizon: int,
    alpha: float,
    streams: int,
    rng: np.random.Generator,
) -> float:
    """The threshold that a mixture passes within `horizon` rows in at most a share `alpha` of simulated streams.

    `table` (J, outcomes) are payoffs, `chances` (outcomes,) those of independent outcomes at the edge of the null hypothesis;
    kind: shiryaev-roberts or cusum. Lower than the proved horizon / alpha, so alarms come sooner; what it promises is calibrated
    and not proved, and needs independence. So many ranks of the draws are given away that it is kept with SURE probability.
    """
    edges = np.cumsum(chances)[:-1]
    wealth, highest = np.zeros((len(weights), streams)), np.zeros(streams)
    for _ in range(horizon):
        payoff = table[:, np.searchsorted(edges, rng.random(streams), side="right")]
        wealth = (np.maximum(wealth, 1.0) if kind == "cusum" else wealth + 1.0) * payoff
        np.maximum(highest, weights @ wealth, out=highest)
    spread = NormalDist().inv_cdf(SURE) * np.sqrt(streams * alpha * (1 - alpha))
    return float(np.sort(highest)[::-1][max(0, int(np.floor(alpha * streams - spread)) - 1)])
