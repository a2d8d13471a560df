"""Early stopping: smooths the validation score, tracks the best epoch and decides when training ends."""

from math import isfinite
from typing import NamedTuple

from pipeline.params import Train


class Progress(NamedTuple):
    """The smoothed validation score so far; `improved` is true when the last epoch is the one to keep."""

    smoothed: float | None = None  # exponential moving average; None before the first epoch
    best: float = float("-inf")  # smoothed
    best_epoch: int = 0
    epochs_since_best: int = 0
    improved: bool = False


def watched_score(scores: dict[str, float], train: Train) -> float:
    """Return the score that `train.watch` names, signed so that higher is better."""
    return -scores["loss"] if train.watch == "loss" else scores[train.watch]


def advance(progress: Progress, epoch: int, score: float, train: Train, tolerance: float = 0.0) -> Progress:
    """Return the progress after one more epoch, which is kept if it beats the best smoothed score by `min_delta - tolerance`.

    With one standard error as tolerance (Breiman et al. 1984), the later of two epochs that validation cannot tell apart is
    kept: its learning rate was lower. A score that is not finite counts as worse and does not change the average.
    """
    if not isfinite(score):
        return progress._replace(epochs_since_best=progress.epochs_since_best + 1, improved=False)
    previous = score if progress.smoothed is None else progress.smoothed
    smoothed = train.ema_decay * previous + (1 - train.ema_decay) * score
    if smoothed > progress.best + train.min_delta - tolerance:
        return Progress(smoothed, max(smoothed, progress.best), epoch, 0, True)
    return Progress(smoothed, progress.best, progress.best_epoch, progress.epochs_since_best + 1, False)


def should_stop(progress: Progress, patience: int) -> bool:
    """Return true after `patience` epochs without a better score."""
    return progress.epochs_since_best >= patience
