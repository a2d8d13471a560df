"""Shares of text kinds, and the correctness of corrupted texts."""

import numpy as np
import pytest

from monitoring.drift.text_kinds import (
    CORRUPTED,
    FAR_OUT_OF_DISTRIBUTION,
    IN_DISTRIBUTION,
    OUT_OF_DISTRIBUTION,
    TextKindModel,
    correct_if_corrupted,
    fit_text_kinds,
    kind_probabilities,
    without_classes,
)
from pipeline.params import Monitor
from tests.monitoring.worlds import World


@pytest.fixture(scope="module")
def kinds(monitor_settings: Monitor) -> TextKindModel:
    return fit_text_kinds(*World(1).reference_and_corrupted(2000), monitor_settings)


@pytest.mark.parametrize("change", [{}, {"out_of_distribution": 0.2}, {"corrupted": 0.5}])
def test_shares_of_kinds_are_recovered(kinds: TextKindModel, change: dict[str, float]) -> None:
    shares = np.mean(
        [kind_probabilities(kinds, World(70 + seed).labelled_rows(1000, **change)[0])[1] for seed in range(5)], axis=0
    )
    assert shares[OUT_OF_DISTRIBUTION] + shares[FAR_OUT_OF_DISTRIBUTION] == pytest.approx(
        change.get("out_of_distribution", 0.0), abs=0.06
    )
    assert shares[CORRUPTED] == pytest.approx(change.get("corrupted", 0.0), abs=0.06)
    assert shares.sum() == pytest.approx(1)


def test_the_correctness_of_corrupted_texts_is_calibrated(kinds: TextKindModel) -> None:
    rows, right = World(80).labelled_rows(3000, corrupted=1.0)
    assert correct_if_corrupted(kinds, rows).mean() == pytest.approx(right.mean(), abs=0.03)


def test_a_forgotten_class_is_not_predicted_and_the_others_sum_to_one() -> None:
    rows = World(2).rows(50)
    probabilities = without_classes(rows, np.array([False, True, False, False])).probabilities
    assert not probabilities[:, 1].any()
    assert probabilities.sum(axis=1) == pytest.approx(1, abs=1e-5)


def test_with_two_classes_all_rows_are_in_distribution_or_corrupted(monitor_settings: Monitor) -> None:
    references = []
    for reference in World(3).reference_and_corrupted(400):
        first = reference.probabilities[:, 0]
        two_classes = np.stack([1 - first, first], axis=1)
        references.append(reference._replace(labels=reference.labels[:2], probabilities=two_classes))
    model = fit_text_kinds(references[0], references[1], monitor_settings)
    rows = World(4).rows(300)
    shares = kind_probabilities(model, rows._replace(probabilities=rows.probabilities[:, :2]))[1]
    assert shares[OUT_OF_DISTRIBUTION] + shares[FAR_OUT_OF_DISTRIBUTION] < 0.02
    assert shares[IN_DISTRIBUTION] > 0.5
