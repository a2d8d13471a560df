"""When to stop: the best validation score so far, and how long ago it was."""

from typing import NamedTuple


class Progress(NamedTuple):
    """Best score, the epoch to keep, and epochs since; `improved` tells whether the last epoch is the one to keep."""

    best: float = float("-inf")
    best_epoch: int = 0
    since: int = 0
    improved: bool = False


def advance(progress: Progress, epoch: int, score: float, tolerance: float = 0.0) -> Progress:
    """The progress after one more epoch: it is kept when it beats the best score less `tolerance`.

    With one standard error as tolerance (Breiman et al. 1984), the later of two epochs that validation cannot tell apart is
    kept: its learning rate was lower.
    """
    if score > progress.best - tolerance:
        return Progress(max(score, progress.best), epoch, 0, True)
    return Progress(progress.best, progress.best_epoch, progress.since + 1, False)


def should_stop(progress: Progress, patience: int) -> bool:
    """True after `patience` epochs without a better score."""
    return progress.since >= patience
