"""Bets, e-processes and e-detectors: fair by hand, valid by simulation, alarms at exact indices."""

import numpy as np
import pytest

from monitoring.detectors.e_detector import shiryaev_roberts
from monitoring.detectors.e_process import bernoulli_payoffs, log_wealth_of_restarts, tail_payoffs

SUSPECTED = np.array([0.12, 0.15, 0.2, 0.3])
EVEN = np.full(4, 0.25)


def errors(seed: int, before: int = 3000, after: int = 3000) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.random(before) < 0.10, rng.random(after) < 0.15]).astype(np.int64)


def payoffs(outcomes: np.ndarray) -> np.ndarray:
    return bernoulli_payoffs(0.10, SUSPECTED)[:, outcomes].T


def first_alarm(statistic: np.ndarray, threshold: float) -> int | None:
    """Return the index of the first row (T,) at or above the threshold."""
    above = statistic >= threshold
    return int(above.argmax()) if above.any() else None


def test_a_bernoulli_bet_is_fair_at_the_tolerated_level_and_loses_below() -> None:
    table = bernoulli_payoffs(0.10, SUSPECTED)
    assert table @ [0.90, 0.10] == pytest.approx(np.ones(4))
    assert (table @ [0.95, 0.05] < 1).all()


@pytest.mark.parametrize(("tolerated", "suspected"), [(0.1, 0.1), (0.0, 0.1), (0.1, 1.0), (0.2, 0.1)])
def test_a_bet_on_fewer_errors_is_refused(tolerated: float, suspected: float) -> None:
    with pytest.raises(ValueError, match="needed"):
        bernoulli_payoffs(tolerated, np.array([suspected]))


def test_a_tail_bet_is_fair_for_uniform_p_values() -> None:
    grid = (np.arange(100_000) + 0.5) / 100_000
    payoff = tail_payoffs(grid[:, None], np.array([[0.05, 0.5, 0.98]]), np.array([[5.0, 0.3, 0.9]]))
    assert payoff.mean(axis=0) == pytest.approx(np.ones((1, 3)), abs=1e-4)


def test_restarts_by_hand() -> None:
    wealth = np.exp(log_wealth_of_restarts(np.array([[3.0], [0.5]]), np.ones(1)))
    assert wealth == pytest.approx([3 / 2 + 1 / 2, (3 / 2 + 1 / 6) * 0.5 + 1 / 3])


def test_shiryaev_roberts_is_the_sum_over_starts_of_the_products_since() -> None:
    rows = np.random.default_rng(1).uniform(0.5, 1.6, (30, 2))
    statistic, last = shiryaev_roberts(rows, np.zeros(2))
    expected = [[sum(rows[k : t + 1, j].prod() for k in range(t + 1)) for j in range(2)] for t in range(30)]
    assert statistic == pytest.approx(np.array(expected))
    assert (last == statistic[-1]).all()


def test_a_detector_in_parts_is_the_detector_at_once() -> None:
    rows = payoffs(errors(3))
    whole, end = shiryaev_roberts(rows, np.zeros(4))
    first, middle = shiryaev_roberts(rows[:1000], np.zeros(4))
    second, last = shiryaev_roberts(rows[1000:], middle)
    assert (np.concatenate([first, second]) == whole).all()
    assert (end == last).all()


def test_a_ceiling_lets_an_alarm_end() -> None:
    up, down = np.full((200, 1), 2.0), np.full((20, 1), 0.5)
    high, _ = shiryaev_roberts(np.concatenate([up, down]), np.zeros(1), 1000.0)
    assert high.max() == 1000
    assert high[-1] < 10


@pytest.mark.parametrize(("seed", "index"), [(0, 3386), (1, 3254), (2, 3125)])
def test_the_mixture_alarms_at(seed: int, index: int) -> None:
    statistic = shiryaev_roberts(payoffs(errors(seed)), np.zeros(4))[0] @ EVEN
    assert first_alarm(statistic, 1e5) == index


def test_an_e_process_is_honest_though_it_is_read_after_every_row() -> None:
    rng = np.random.default_rng(7)
    runs, alpha = 400, 0.1
    streams = (payoffs((rng.random(1500) < 0.10).astype(np.int64)) for _ in range(runs))
    ever = [log_wealth_of_restarts(stream, EVEN).max() for stream in streams]
    rate = np.mean(np.array(ever) >= np.log(1 / alpha))
    assert rate <= alpha + 2 * np.sqrt(alpha * (1 - alpha) / runs)


def test_a_p_value_read_after_every_row_is_not_honest() -> None:
    """The control, and the reason for an e-process: a z-test at .05, read after every row, alarms far more often."""
    rng = np.random.default_rng(8)
    outcomes = rng.random((400, 1500)) < 0.10
    n = np.arange(1, 1501)
    z = (outcomes.cumsum(axis=1) - 0.10 * n) / np.sqrt(0.09 * n)
    assert ((z[:, 30:] > 1.645).any(axis=1)).mean() > 0.2


def test_the_chance_of_an_alarm_within_n_rows_is_at_most_n_over_the_threshold() -> None:
    rng = np.random.default_rng(9)
    rows, threshold, runs = 1000, 5000.0, 600
    ever = 0
    for _ in range(runs):
        statistic = shiryaev_roberts(payoffs((rng.random(rows) < 0.10).astype(np.int64)), np.zeros(4))[0] @ EVEN
        ever += first_alarm(statistic, threshold) is not None
    bound = rows / threshold
    assert ever / runs <= bound + 2 * np.sqrt(bound * (1 - bound) / runs)
