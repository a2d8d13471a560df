"""Black-box shift detection on the softmax."""

import numpy as np
import pytest

from monitoring.detectors.bbsd import CELLS, bbsd_of_cells, cells, edges
from monitoring.detectors.kolmogorov_smirnov import ks


def test_it_is_the_largest_ks_over_classes_but_for_the_cells_width() -> None:
    rng = np.random.default_rng(1)
    reference, current = rng.dirichlet([1, 2, 3], 2000), rng.dirichlet([1.4, 2, 3], 1000)
    at = edges(reference.astype(np.float32))
    found = bbsd_of_cells(*(cells(own.astype(np.float32), at).mean(axis=0, dtype=np.float64) for own in (reference, current)))
    largest = max(ks(reference[:, c], current[:, c]) for c in range(3))
    assert largest - 0.02 <= found <= largest


def test_every_probability_lies_in_one_cell_of_its_class() -> None:
    rows = np.random.default_rng(2).dirichlet([1, 1], 50).astype(np.float32)
    found = cells(rows, edges(rows)).reshape(50, 2, CELLS)
    assert (found.sum(axis=2) == 1).all()


def test_a_class_that_is_always_sure_moves_nothing() -> None:
    same = np.tile(np.array([[1.0, 0.0]], dtype=np.float32), (9, 1))
    held = cells(same, edges(same)).mean(axis=0)
    assert bbsd_of_cells(held, held) == pytest.approx(0)
