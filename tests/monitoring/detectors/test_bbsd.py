"""Black-box shift detection on the softmax."""

import numpy as np
import pytest
from scipy.stats import ks_2samp

from monitoring.detectors.bbsd import CELLS, bbsd_distance, class_cells, class_edges


def test_it_is_the_largest_ks_over_classes_but_for_the_cells_width() -> None:
    rng = np.random.default_rng(1)
    samples = rng.dirichlet([1, 2, 3], 2000), rng.dirichlet([1.4, 2, 3], 1000)
    edges = class_edges(samples[0].astype(np.float32))
    means = [class_cells(sample.astype(np.float32), edges).mean(axis=0, dtype=np.float64) for sample in samples]
    largest = max(ks_2samp(samples[0][:, c], samples[1][:, c]).statistic for c in range(3))
    assert largest - 0.02 <= bbsd_distance(*means) <= largest


def test_every_probability_lies_in_one_cell_of_its_class() -> None:
    rows = np.random.default_rng(2).dirichlet([1, 1], 50).astype(np.float32)
    cells = class_cells(rows, class_edges(rows)).reshape(50, 2, CELLS)
    assert (cells.sum(axis=2) == 1).all()


def test_a_class_that_is_always_certain_moves_nothing() -> None:
    same = np.tile(np.array([[1.0, 0.0]], dtype=np.float32), (9, 1))
    mean = class_cells(same, class_edges(same)).mean(axis=0)
    assert bbsd_distance(mean, mean) == pytest.approx(0)
