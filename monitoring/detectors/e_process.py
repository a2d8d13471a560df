"""Testing by betting (Shafer and Vovk 2019; Waudby-Smith and Ramdas 2024): wealth that cannot grow while nothing has changed.

A bet pays so much for each outcome, at most 1 on average under the null hypothesis whatever came before; its wealth is the
product. Averages of wealths are e-processes, and P(ever ≥ 1/α) ≤ α (Ville 1939): one may look after every row.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def bernoulli_payoffs(tolerated: float, suspected: Floats) -> Floats:
    """(J, 2): what J bets pay for outcomes 0 and 1 under H0: P(1) ≤ `tolerated`; bet j is the likelihood ratio of suspected[j].

    Raises `ValueError` unless tolerated < suspected < 1 (a bet on less errors would not be one under the composite null).
    """
    if not (0 < tolerated < 1 and (suspected > tolerated).all() and (suspected < 1).all()):
        raise ValueError("0 < tolerated < suspected < 1 is needed")
    return np.stack([(1 - suspected) / (1 - tolerated), suspected / tolerated], axis=1)


def tail_payoffs(p: Floats, cuts: Floats, ratios: Floats) -> Floats:
    """What bets pay for uniform p-values: `ratio` below `cut`, and above it what is left, (1 − ratio · cut) / (1 − cut).

    p (N, S) of S streams, cuts and ratios (S, J) → (N, S, J). A ratio above 1 bets on too many p-values below the cut.
    """
    return np.asarray(np.where(p[:, :, None] <= cuts, ratios, (1 - ratios * cuts) / (1 - cuts)))


def log_wealth(payoffs: Floats, weights: Floats) -> Floats:
    """(T, J) payoffs of T rows → (T,) natural log of the wealth of the mixture after each row; weights sum to at most 1."""
    with np.errstate(divide="ignore"):
        return _log_mean(np.cumsum(np.log(payoffs), axis=0), weights)


def log_wealth_of_restarts(payoffs: Floats, weights: Floats) -> Floats:
    """As `log_wealth`, for a change that may come late: wealth 1 is spread over starts k = 1, 2, … by 1/(k (k + 1)).

    Still one e-process, so that P(ever ≥ 1/α) ≤ α; waiting for k rows costs 2 log k instead of what betting in vain has lost.
    """
    grown, found = np.zeros(payoffs.shape[1]), np.empty(len(payoffs))
    for k, payoff in enumerate(payoffs, start=1):
        grown = np.minimum((grown + 1 / (k * (k + 1))) * payoff, LARGEST)
        found[k - 1] = np.log(weights @ grown + 1 / (k + 1))
    return found


LARGEST = 1e250  # wealth beyond is cut off: less wealth is still valid


def _log_mean(logs: Floats, weights: Floats) -> Floats:
    top = np.maximum(logs.max(axis=-1, keepdims=True), -1e300)
    return np.asarray(np.log(np.exp(logs - top) @ weights) + top[..., 0])
