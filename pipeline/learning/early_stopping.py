"""When to stop: the best validation score so far, and how long ago it was."""

from typing import NamedTuple


class Progress(NamedTuple):
    """Best score, the epoch it came from, and epochs since; `improved` tells whether the last epoch set it."""

    best: float = float("-inf")
    best_epoch: int = 0
    since: int = 0
    improved: bool = False


def advance(progress: Progress, epoch: int, score: float) -> Progress:
    """The progress after one more epoch; only a strictly better score counts."""
    if score > progress.best:
        return Progress(score, epoch, 0, True)
    return Progress(progress.best, progress.best_epoch, progress.since + 1, False)


def should_stop(progress: Progress, patience: int) -> bool:
    """True after `patience` epochs without a better score."""
    return progress.since >= patience
