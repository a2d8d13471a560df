"""PSI and Jensen-Shannon distance in bins of the reference."""

import math

import numpy as np
import pytest

from monitoring.drift.histogram_distances import BINNED_SIGNALS, BINS, EPSILON, fit_histograms, histogram_distances
from monitoring.drift.window import PredictionRows
from tests.monitoring.worlds import World


def rows(pieces: list[int], classes: list[int]) -> PredictionRows:
    """Return rows of three classes, with the same confidence and the same pieces per word."""
    count = len(pieces)
    columns = {
        "time": np.zeros(count),
        "id": np.array([str(i) for i in range(count)]),
        "unit": np.full(count, ""),
        "text": np.full(count, ""),
        "pieces": np.array(pieces, dtype=np.int32),
        "pieces_per_word": np.ones(count, dtype=np.float32),
        "probabilities": (np.eye(3)[classes] * 0.7 + 0.1).astype(np.float32),
        "sketch": np.zeros((count, 2), dtype=np.float16),
    }
    return PredictionRows(**columns)


def test_predicted_classes_by_hand() -> None:
    """Classes 4:4:2 in the reference and 2:4:4 in the window."""
    reference = fit_histograms(rows([5] * 10, [0] * 4 + [1] * 4 + [2] * 2))
    distance = histogram_distances(reference, rows([5] * 10, [0] * 2 + [1] * 4 + [2] * 4))["prediction_labels"]
    assert distance.psi == pytest.approx(0.2 * math.log(0.4 / 0.2) * 2)
    divergence = 0.4 * math.log2(0.4 / 0.3) + 0.2 * math.log2(0.2 / 0.3)  # of either histogram from their mean
    assert distance.jensen_shannon == pytest.approx(math.sqrt(divergence))


def test_lengths_are_binned_at_deciles_of_the_reference_by_hand() -> None:
    """Ten reference rows in each of ten bins; the window has all of its rows in the last bin."""
    reference = fit_histograms(rows(list(range(100)), [0] * 100))
    assert reference.shares["input_length"] == pytest.approx(np.full(BINS, 0.1))
    distance = histogram_distances(reference, rows([99] * 20, [0] * 20))["input_length"]
    assert distance.psi == pytest.approx(9 * (EPSILON - 0.1) * math.log(EPSILON / 0.1) + 0.9 * math.log(10))


def test_equal_quantiles_are_one_bin() -> None:
    reference = fit_histograms(rows([7] * 60 + [9] * 40, [0] * 100))
    assert reference.shares["input_length"] == pytest.approx([0.6, 0.4])
    assert histogram_distances(reference, rows([7] * 6 + [9] * 4, [0] * 10))["input_length"] == pytest.approx((0, 0))


def test_every_binned_signal_has_both_distances_and_drift_raises_them() -> None:
    world = World(1)
    reference = fit_histograms(world.rows(600))
    quiet = histogram_distances(reference, world.rows(1000))
    drifted = histogram_distances(reference, world.rows(1000, shares=np.array([0.7, 0.1, 0.1, 0.1]), longer=1.5))
    assert set(quiet) == set(BINNED_SIGNALS)
    for name in ("input_length", "prediction_labels"):
        assert drifted[name].psi > 0.25 > 0.1 > quiet[name].psi
        assert 1 > drifted[name].jensen_shannon > 2 * quiet[name].jensen_shannon


def test_small_windows_without_drift_pass_the_rule_of_thumb() -> None:
    """The reason why no alert uses PSI: in 40 windows of 50 rows without drift, most exceed the customary .1."""
    world = World(2)
    reference = fit_histograms(world.rows(600))
    psi = [histogram_distances(reference, world.rows(50))["input_pieces_per_word"].psi for _ in range(40)]
    assert np.mean(np.array(psi) > 0.1) > 0.5
