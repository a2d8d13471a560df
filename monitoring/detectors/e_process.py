"""Testing by betting (Shafer and Vovk 2019; Waudby-Smith and Ramdas 2024): wealth that cannot grow while nothing has changed.

A bet pays at most 1 on average under the null hypothesis, given the past; its wealth is the product of its payoffs. Averages of
wealths are e-processes, and P(wealth ever ≥ 1/α) ≤ α (Ville 1939), so the test may be read after every row.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
MAX_WEALTH = 1e250  # cap against overflow: less wealth is still valid


def bernoulli_payoffs(tolerated: float, suspected: Floats) -> Floats:
    """Return what J bets pay for outcomes 0 and 1, (J, 2). Bet j is the likelihood ratio of suspected[j] to `tolerated`.

    Parameters
        tolerated: largest P(1) under the null hypothesis.
        suspected: P(1) under each alternative (J,).

    Raises `ValueError` unless 0 < tolerated < suspected < 1: a bet on fewer errors is not valid under the composite null.

    >>> bernoulli_payoffs(0.1, np.array([0.2])).round(4).tolist()
    [[0.8889, 2.0]]
    """
    if not (0 < tolerated < 1 and (suspected > tolerated).all() and (suspected < 1).all()):
        raise ValueError("0 < tolerated < suspected < 1 is needed")
    return np.stack([(1 - suspected) / (1 - tolerated), suspected / tolerated], axis=1)


def tail_payoffs(p: Floats, cuts: Floats, ratios: Floats) -> Floats:
    """Return payoffs (N, S, J) for p-values: `ratio` where p ≤ cut, else (1 − ratio · cut) / (1 − cut).

    Parameters
        p: p-values (N, S) of S streams, uniform under the null hypothesis.
        cuts, ratios: (S, J). A ratio above 1 bets on too many p-values below the cut.

    >>> tail_payoffs(np.array([[0.01], [0.5]]), np.array([[0.1]]), np.array([[5.0]])).round(4).ravel().tolist()
    [5.0, 0.5556]
    """
    return np.asarray(np.where(p[:, :, None] <= cuts, ratios, (1 - ratios * cuts) / (1 - cuts)))


def log_wealth_of_restarts(payoffs: Floats, weights: Floats) -> Floats:
    """Return the natural log of the mixture's wealth after each row (T,), for a change that may come late.

    Wealth 1 is spread over starts k = 1, 2, … by 1/(k (k + 1)). This is one e-process, so P(ever ≥ 1/α) ≤ α still holds. Waiting
    for k rows costs 2 log k instead of everything that the bets lost until then.

    Parameters
        payoffs: payoffs (T, J) of T rows.
        weights: weights (J,) of the bets; they sum to at most 1.

    >>> np.exp(log_wealth_of_restarts(np.array([[3.0], [0.5]]), np.ones(1))).round(4).tolist()
    [2.0, 1.1667]
    """
    wealth, log_wealth = np.zeros(payoffs.shape[1]), np.empty(len(payoffs))
    for k, payoff in enumerate(payoffs, start=1):
        wealth = np.minimum((wealth + 1 / (k * (k + 1))) * payoff, MAX_WEALTH)
        log_wealth[k - 1] = np.log(weights @ wealth + 1 / (k + 1))
    return log_wealth
