"""Label spreading: the closed form of its source, clouds that take their one label, and what cannot be reached."""

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
    """Points near a direction, at length 1."""
    points = np.array(around) + 0.1 * np.random.default_rng(seed).standard_normal((rows, len(around)))
    return np.asarray(points / np.linalg.norm(points, axis=1, keepdims=True), dtype=np.float32)


def by_hand(points: NDArray[np.float32], settings: Spread) -> NDArray[np.float64]:
    """The normalised graph, edge by edge."""
    cosine = np.asarray(points, dtype=np.float64) @ points.T
    weights = np.zeros_like(cosine)
    for row, own in enumerate(cosine):
        nearest = [other for other in np.argsort(-own) if other != row][: settings.neighbours]
        for other in nearest:
            weights[row, other] += max(own[other], 0.0) ** settings.sharpness / 2
            weights[other, row] += max(own[other], 0.0) ** settings.sharpness / 2
    degrees = weights.sum(axis=1)
    return weights / np.sqrt(np.outer(degrees, degrees))


def test_the_graph_joins_nearest_neighbours_by_their_cosine(few_near: Spread) -> None:
    points = cloud([1.0, 0.2, 0.0], 30, seed=1)
    assert neighbour_graph(points, few_near).toarray() == pytest.approx(by_hand(points, few_near), abs=1e-5)


def test_labels_come_to_rest_where_the_closed_form_says(few_near: Spread) -> None:
    graph = neighbour_graph(cloud([1.0, 0.2, 0.0], 30, seed=2), few_near)
    targets = np.full(30, UNKNOWN)
    targets[[0, 7, 9]] = [0, 1, 1]
    own = np.zeros((30, 2))
    own[[0, 7, 9], [0, 1, 1]] = 1.0
    rest = (1 - 0.9) * np.linalg.solve(np.eye(30) - 0.9 * graph.toarray(), own)
    assert spread_labels(graph, targets, 2, reach=0.9) == pytest.approx(rest, abs=1e-5)


def test_one_label_a_cloud_is_enough(few_near: Spread) -> None:
    points = np.concatenate([cloud([1.0, 0.0, 0.0], 40, seed=3), cloud([0.0, 1.0, 0.0], 40, seed=4)])
    targets = np.full(80, UNKNOWN)
    targets[[0, 40]] = [0, 1]
    guess, share = strongest_class(spread_labels(neighbour_graph(points, few_near), targets, 2, reach=0.9))
    assert guess.tolist() == [0] * 40 + [1] * 40
    assert share.min() > 0.9


def test_what_no_label_reaches_gets_none() -> None:
    apart = sparse.csr_matrix(np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]))
    guess, share = strongest_class(spread_labels(apart, np.array([1, UNKNOWN, UNKNOWN]), 2, reach=0.5))
    assert guess.tolist() == [1, 1, UNKNOWN]
    assert share.tolist() == [1.0, 1.0, 0.0]


def test_the_shipped_settings_fit_a_corpus_smaller_than_its_neighbours(params: Params) -> None:
    points = cloud([1.0, 0.0], 5, seed=5)
    assert neighbour_graph(points, params.spread).shape == (5, 5)
