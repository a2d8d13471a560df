"""Label spreading: the closed form of the paper, clouds with one label, and unreachable texts."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import sparse

from pipeline.learning.label_spreading import UNKNOWN, neighbour_graph, spread_labels, strongest_class
from pipeline.params import Params, Spread


@pytest.fixture
def few_near(params: Params) -> Spread:
    return params.spread.model_copy(update={"neighbours": 4})


def cloud(around: list[float], rows: int, seed: int) -> NDArray[np.float32]:
    """Return unit-length points near a direction."""
    points = np.array(around) + 0.1 * np.random.default_rng(seed).standard_normal((rows, len(around)))
    return np.asarray(points / np.linalg.norm(points, axis=1, keepdims=True), dtype=np.float32)


def by_hand(points: NDArray[np.float32], settings: Spread) -> NDArray[np.float64]:
    """Return the normalised graph, edge by edge."""
    cosine = np.asarray(points, dtype=np.float64) @ points.T
    weights = np.zeros_like(cosine)
    for row, similarities in enumerate(cosine):
        nearest = [other for other in np.argsort(-similarities) if other != row][: settings.neighbours]
        for other in nearest:
            weights[row, other] += max(similarities[other], 0.0) ** settings.sharpness / 2
            weights[other, row] += max(similarities[other], 0.0) ** settings.sharpness / 2
    degrees = weights.sum(axis=1)
    return weights / np.sqrt(np.outer(degrees, degrees))


def test_the_graph_joins_nearest_neighbours_by_their_cosine(few_near: Spread) -> None:
    points = cloud([1.0, 0.2, 0.0], 30, seed=1)
    assert neighbour_graph(points, few_near).toarray() == pytest.approx(by_hand(points, few_near), abs=1e-5)


def test_labels_converge_to_the_closed_form(few_near: Spread) -> None:
    graph = neighbour_graph(cloud([1.0, 0.2, 0.0], 30, seed=2), few_near)
    targets = np.full(30, UNKNOWN)
    targets[[0, 7, 9]] = [0, 1, 1]
    seeds = np.zeros((30, 2))
    seeds[[0, 7, 9], [0, 1, 1]] = 1.0
    closed_form = (1 - 0.9) * np.linalg.solve(np.eye(30) - 0.9 * graph.toarray(), seeds)
    assert spread_labels(graph, targets, 2, reach=0.9) == pytest.approx(closed_form, abs=1e-5)


def test_one_label_per_cloud_is_enough(few_near: Spread) -> None:
    points = np.concatenate([cloud([1.0, 0.0, 0.0], 40, seed=3), cloud([0.0, 1.0, 0.0], 40, seed=4)])
    targets = np.full(80, UNKNOWN)
    targets[[0, 40]] = [0, 1]
    guess, share = strongest_class(spread_labels(neighbour_graph(points, few_near), targets, 2, reach=0.9))
    assert guess.tolist() == [0] * 40 + [1] * 40
    assert share.min() > 0.9


def test_a_text_that_no_label_reaches_gets_none() -> None:
    apart = sparse.csr_matrix(np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]))
    guess, share = strongest_class(spread_labels(apart, np.array([1, UNKNOWN, UNKNOWN]), 2, reach=0.5))
    assert guess.tolist() == [1, 1, UNKNOWN]
    assert share.tolist() == [1.0, 1.0, 0.0]


def test_the_shipped_settings_fit_a_corpus_smaller_than_its_neighbours(params: Params) -> None:
    points = cloud([1.0, 0.0], 5, seed=5)
    assert neighbour_graph(points, params.spread).shape == (5, 5)
