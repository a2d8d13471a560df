"""e-detector (Shin, Ramdas and Rinaldo 2024): the Shiryaev-Roberts statistic over bets, restarted at every row at once.

Proved, for any dependence that keeps each payoff's conditional mean at most 1: with threshold A, the mean number of rows to a
false alarm is at least A, and P(alarm within N rows) ≤ N / A, since the statistic minus the row number is a supermartingale.
"""

import numpy as np
from numpy.typing import NDArray

from monitoring.detectors.e_process import MAX_WEALTH

Floats = NDArray[np.float64]


def shiryaev_roberts(payoffs: Floats, start: Floats, ceiling: float | Floats = MAX_WEALTH) -> tuple[Floats, Floats]:
    """Return R_t = (1 + R_{t−1}) · payoff_t after each row (T, ...), and the last R to continue from.

    The weighted mean over an axis of bets is the statistic of their mixture.

    Parameters
        payoffs: payoffs (T, ...) of T rows.
        start: R_0, zeros for a new stream.
        ceiling: cap on R. It keeps the bound on false alarms and lets an alarm end when the change does.

    >>> statistic, last = shiryaev_roberts(np.array([2.0, 2.0, 0.5]), np.array(0.0))
    >>> statistic.tolist(), last.item()
    ([2.0, 6.0, 3.5], 3.5)
    """
    if not len(payoffs):
        return np.zeros_like(payoffs), start
    statistic = np.empty(payoffs.shape)
    for row, payoff in enumerate(payoffs):
        current = statistic[row : row + 1]
        np.add(statistic[row - 1] if row else start, 1.0, out=current)
        np.multiply(current, payoff, out=current)
        np.minimum(current, ceiling, out=current)
    return statistic, statistic[-1].copy()
