"""When training stops, to the epoch."""

from itertools import count

import pytest

from pipeline.learning.early_stopping import Progress, advance, should_stop


def run(scores: list[float], patience: int) -> tuple[int, Progress]:
    """The last epoch that is trained, and the progress after it."""
    progress = Progress()
    for epoch, score in zip(count(1), scores, strict=False):
        progress = advance(progress, epoch, score)
        if should_stop(progress, patience):
            return epoch, progress
    return len(scores), progress


@pytest.mark.parametrize(
    ("scores", "patience", "stops_after", "best_epoch"),
    [
        ([0.5, 0.6, 0.7], 1, 3, 3),  # better each time: to the end
        ([0.5, 0.4, 0.9], 1, 2, 1),  # one worse epoch is too many
        ([0.5, 0.4, 0.9, 0.8, 0.8], 2, 5, 3),  # a better one starts the count anew
        ([0.5, 0.5, 0.5, 0.5], 2, 3, 1),  # equal is not better
        ([0.9, 0.1, 0.2, 0.3, 0.4], 3, 4, 1),  # climbing back counts only above the best
        ([float("nan"), float("nan"), 0.5], 2, 2, 0),  # never a number: stops as if worse
    ],
)
def test_training_stops_after_so_many_epochs_without_a_better_score(
    scores: list[float], patience: int, stops_after: int, best_epoch: int
) -> None:
    last, progress = run(scores, patience)
    assert (last, progress.best_epoch) == (stops_after, best_epoch)


def test_improved_tells_of_the_last_epoch_alone() -> None:
    better = advance(Progress(), 1, 0.5)
    worse = advance(better, 2, 0.4)
    assert (better.improved, worse.improved) == (True, False)
    assert worse == Progress(best=0.5, best_epoch=1, since=1, improved=False)
