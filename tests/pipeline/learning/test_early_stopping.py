"""The exact epoch at which training stops, and the epoch it keeps."""

from itertools import count
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipeline.learning.early_stopping import Progress, advance, should_stop, watched_score
from pipeline.params import Params, Train

PLAIN = {"ema_decay": 0.0, "min_delta": 0.0, "patience": 2, "watch": "f1_macro"}


@pytest.fixture
def plain(params: Params) -> Train:
    return params.train.model_copy(update=PLAIN)


def run(scores: list[float], train: Train, **changes: Any) -> tuple[int, Progress]:
    """Return the last trained epoch and the progress after it."""
    progress, settings = Progress(), train.model_copy(update=changes)
    for epoch, score in zip(count(1), scores, strict=False):
        progress = advance(progress, epoch, score, settings)
        if should_stop(progress, settings.patience):
            return epoch, progress
    return len(scores), progress


@pytest.mark.parametrize(
    ("scores", "patience", "stops_after", "best_epoch"),
    [
        ([0.5, 0.6, 0.7], 1, 3, 3),  # better each time: to the end
        ([0.5, 0.4, 0.9], 1, 2, 1),  # one worse epoch is too many
        ([0.5, 0.4, 0.9, 0.8, 0.8], 2, 5, 3),  # a better one restarts the count
        ([0.5, 0.5, 0.5, 0.5], 2, 3, 1),  # equal is not better
        ([0.9, 0.1, 0.2, 0.3, 0.4], 3, 4, 1),  # climbing back counts only above the best
        ([float("nan"), float("nan"), 0.5], 2, 2, 0),  # not finite counts as worse
    ],
)
def test_training_stops_after_so_many_epochs_without_a_better_score(
    scores: list[float], patience: int, stops_after: int, best_epoch: int, plain: Train
) -> None:
    last, progress = run(scores, plain, patience=patience)
    assert (last, progress.best_epoch) == (stops_after, best_epoch)


def test_a_gain_below_min_delta_does_not_count(plain: Train) -> None:
    assert run([0.5, 0.50005, 0.50009, 0.9], plain, min_delta=1e-4)[0] == 3
    assert run([0.5, 0.50005, 0.50011, 0.9], plain, min_delta=1e-4)[0] == 4


def test_the_average_is_that_of_pandas(plain: Train) -> None:
    scores = np.random.default_rng(1).normal(size=12)
    expected = pd.Series(scores).ewm(alpha=0.3, adjust=False).mean()
    progress, smoothed = Progress(), []
    for epoch, score in enumerate(scores, start=1):
        progress = advance(progress, epoch, float(score), plain.model_copy(update={"ema_decay": 0.7}))
        smoothed.append(progress.smoothed)
    assert smoothed == pytest.approx(list(expected))
    assert progress.best == pytest.approx(expected.max())
    assert progress.best_epoch == 1 + int(expected.argmax())


def test_one_lucky_epoch_neither_stops_a_smoothed_training_nor_is_kept(plain: Train) -> None:
    """A single peak at epoch 2; afterwards the score goes on rising slowly from where it was."""
    scores = [0.50, 0.70, 0.52, 0.55, 0.58, 0.62, 0.66, 0.69]
    assert run(scores, plain, patience=3)[0] == 5
    last, progress = run(scores, plain, patience=3, ema_decay=0.8)
    assert (last, progress.best_epoch) == (8, 8)


def test_within_the_tolerance_the_later_epoch_is_kept(plain: Train) -> None:
    first = advance(Progress(), 1, 0.80, plain)
    assert advance(first, 2, 0.79, plain, tolerance=0.02).best_epoch == 2
    assert advance(first, 2, 0.79, plain, tolerance=0.02).best == 0.80
    assert advance(first, 2, 0.77, plain, tolerance=0.02).best_epoch == 1


def test_a_score_that_is_not_finite_does_not_change_the_average(plain: Train) -> None:
    smooth = plain.model_copy(update={"ema_decay": 0.5})
    progress = advance(advance(Progress(), 1, 0.5, smooth), 2, float("nan"), smooth)
    assert progress == Progress(smoothed=0.5, best=0.5, best_epoch=1, epochs_since_best=1, improved=False)


def test_a_loss_is_watched_downwards(plain: Train) -> None:
    scores = {"loss": 2.0, "accuracy": 0.5, "f1_macro": 0.4}
    assert {name: watched_score(scores, plain.model_copy(update={"watch": name})) for name in scores} == {
        "loss": -2.0, "accuracy": 0.5, "f1_macro": 0.4,
    }  # fmt: skip


def test_improved_is_about_the_last_epoch_only(plain: Train) -> None:
    better = advance(Progress(), 1, 0.5, plain)
    worse = advance(better, 2, 0.4, plain)
    assert (better.improved, worse.improved) == (True, False)
