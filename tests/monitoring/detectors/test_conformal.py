"""Conformal p-values: ranks by hand, and uniform whatever the reference's size."""

import numpy as np
import pytest
from scipy.stats import kstest

from monitoring.detectors.conformal import cells_of, p_values


def test_a_rank_by_hand() -> None:
    bags = np.array([[3, 1, 0]])
    p, after = p_values(np.array([[1], [2], [0]]), bags, np.array([[0.5], [0.5], [0.25]]))
    assert p[:, 0] == pytest.approx([(0 + 0.5 * 2) / 5, (0 + 0.5 * 1) / 6, (3 + 0.25 * 4) / 7])
    assert after.tolist() == [[4, 2, 1]]


def test_streams_do_not_affect_each_other() -> None:
    rng = np.random.default_rng(1)
    cells, ties = rng.integers(0, 4, (50, 2)), rng.random((50, 2))
    bags = rng.integers(0, 9, (2, 4))
    together, after = p_values(cells, bags, ties)
    for s in range(2):
        alone, bag = p_values(cells[:, [s]], bags[[s]], ties[:, [s]])
        assert (alone[:, 0] == together[:, s]).all()
        assert (bag[0] == after[s]).all()


def test_a_stream_in_parts_is_the_stream_at_once() -> None:
    rng = np.random.default_rng(2)
    cells, ties, bags = rng.integers(0, 4, (50, 1)), rng.random((50, 1)), np.array([[2, 0, 5, 1]])
    whole, after = p_values(cells, bags, ties)
    first, middle = p_values(cells[:20], bags, ties[:20])
    second, last = p_values(cells[20:], middle, ties[20:])
    assert (np.concatenate([first, second]) == whole).all()
    assert (last == after).all()


def test_without_rows_nothing_changes() -> None:
    p, bags = p_values(np.zeros((0, 2), dtype=np.int64), np.ones((2, 3), dtype=np.int64), np.zeros((0, 2)))
    assert p.shape == (0, 2)
    assert (bags == 1).all()


@pytest.mark.parametrize("reference", [0, 5, 300])
def test_p_values_of_an_exchangeable_stream_are_uniform_and_independent(reference: int) -> None:
    """Even five reference rows, which say little of their distribution, bias no rank: the bag grows with the stream."""
    rng = np.random.default_rng(3 + reference)
    ranks = []
    for _ in range(400):
        scores = rng.gamma(0.7, size=reference + 20)
        cells = cells_of(scores, np.array([0.1, 0.5, 1.0, 2.0]))
        bags = np.bincount(cells[:reference], minlength=5)[None]
        ranks.append(p_values(cells[reference:, None], bags, rng.random((20, 1)))[0][:, 0])
    p = np.array(ranks)
    assert kstest(p.ravel(), "uniform").pvalue > 0.01
    assert abs(np.corrcoef(p[:, :-1].ravel(), p[:, 1:].ravel())[0, 1]) < 3 / np.sqrt(p[:, 1:].size)
