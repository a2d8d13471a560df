"""Stratified folds: guarantees and refusals."""

from collections import Counter
from statistics import stdev

import numpy as np
import pytest

from pipeline.data.folds import mean_and_deviation, stratified_folds
from pipeline.errors import InputError

LABELS = ["track"] * 23 + ["refund"] * 11 + ["rare"] * 5


def test_every_row_is_held_out_once_and_trained_on_otherwise() -> None:
    folds = stratified_folds(LABELS, 5, seed=1)
    assert sorted(row for fold in folds for row in fold.held_out) == list(range(len(LABELS)))
    assert all(sorted(fold.train + fold.held_out) == list(range(len(LABELS))) for fold in folds)


def test_every_fold_has_its_share_of_every_class() -> None:
    counts = [Counter(LABELS[row] for row in fold.held_out) for fold in stratified_folds(LABELS, 5, seed=1)]
    for label, whole in Counter(LABELS).items():
        assert {count[label] for count in counts} <= {whole // 5, -(-whole // 5)}


def test_the_seed_shuffles() -> None:
    assert stratified_folds(LABELS, 5, seed=1) == stratified_folds(LABELS, 5, seed=1)
    assert stratified_folds(LABELS, 5, seed=1) != stratified_folds(LABELS, 5, seed=2)
    assert stratified_folds(LABELS, 5, seed=1)[0].held_out != sorted(range(0, len(LABELS), 5))


def test_more_folds_than_a_class_has_rows_are_refused_with_the_most_that_work() -> None:
    with pytest.raises(InputError, match=r"`rare` has 5(.|\n)*nearest that works: 5"):
        stratified_folds(LABELS, 6, seed=1)


def test_mean_and_deviation_are_those_of_a_sample() -> None:
    folds = [{"f1": value, "loss": 2 * value} for value in (0.1, 0.4, 0.7, 0.2)]
    over = mean_and_deviation(folds)
    assert over["f1"] == {"mean": pytest.approx(0.35), "std": pytest.approx(np.std([0.1, 0.4, 0.7, 0.2], ddof=1))}
    assert over["loss"]["std"] == pytest.approx(stdev([0.2, 0.8, 1.4, 0.4]))
