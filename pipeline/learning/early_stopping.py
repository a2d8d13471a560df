"""When to stop, and which epoch to keep: the moving average of the validation score, the best so far, and how long ago it was."""

from math import isfinite
from typing import NamedTuple

from pipeline.params import Train


class Progress(NamedTuple):
    """Of the smoothed score; `improved` tells whether the last epoch is the one to keep."""

    smoothed: float | None = None  # exponential moving average; None before the first epoch
    best: float = float("-inf")  # smoothed
    best_epoch: int = 0
    since: int = 0  # epochs
    improved: bool = False


def watched_score(scores: dict[str, float], train: Train) -> float:
    """The score that is watched, turned so that more is better."""
    return -scores["loss"] if train.watch == "loss" else scores[train.watch]


def advance(progress: Progress, epoch: int, score: float, train: Train, tolerance: float = 0.0) -> Progress:
    """The progress after one more epoch: it is kept when its smoothed score beats the best by `min_delta`, less the tolerance.

    With one standard error as tolerance (Breiman et al. 1984), the later of two epochs that validation cannot tell apart is
    kept: its learning rate was lower. A score that is no number counts as worse and leaves the average alone.
    """
    if not isfinite(score):
        return progress._replace(since=progress.since + 1, improved=False)
    before = score if progress.smoothed is None else progress.smoothed
    smoothed = train.ema_decay * before + (1 - train.ema_decay) * score
    if smoothed > progress.best + train.min_delta - tolerance:
        return Progress(smoothed, max(smoothed, progress.best), epoch, 0, True)
    return Progress(smoothed, progress.best, progress.best_epoch, progress.since + 1, False)


def should_stop(progress: Progress, patience: int) -> bool:
    """True after `patience` epochs without a better score."""
    return progress.since >= patience
