"""The learning rate schedule as a factor on each group's peak rate: warm-up, then one of six decays."""

from math import cos, inf, pi
from typing import NamedTuple

from pipeline.params import Train


class RunLength(NamedTuple):
    """The length of a run in steps."""

    total: int
    per_epoch: int

    @classmethod
    def of(cls, rows: int, train: Train) -> "RunLength":
        """Return the length of `train.epochs` epochs over so many rows; the last batch of an epoch may be smaller."""
        per_epoch = -(-rows // train.batch_size)
        return cls(per_epoch * train.epochs, per_epoch)


class Plateau(NamedTuple):
    """State of reduce-on-plateau; higher scores are better."""

    best: float = -inf
    epochs_since_best: int = 0
    factor: float = 1.0


def lr_factor(step: int, length: RunLength, train: Train) -> float:
    """Return the factor on the peak rate at `step` (from 0): linear warm-up to 1, then the decay that `train.schedule` names.

    Cosine is annealing without restarts (Loshchilov & Hutter 2017); `final_lr_share` is its eta_min over the peak.
    """
    warmup = max(1, round(length.total * train.warmup_share)) if train.warmup_share else 0
    if step < warmup:
        return (step + 1) / warmup
    since, left, final = step - warmup, max(1, length.total - warmup), train.final_lr_share
    intervals = since / (train.decay_every_epochs * length.per_epoch)
    match train.schedule:
        case "cosine":
            return final + (1 - final) * 0.5 * (1 + cos(pi * since / left))
        case "linear":
            return final + (1 - final) * (1 - since / left)
        case "step":
            return max(final, train.decay_factor ** int(intervals))
        case "exponential":
            return float(max(final, train.decay_factor**intervals))
        case _:  # constant; `plateau_after_epoch` lowers the rate of plateau
            return 1.0


def plateau_after_epoch(plateau: Plateau, score: float, train: Train) -> Plateau:
    """Lower the rate by `decay_factor` if the score has not risen by `min_delta` for more than `plateau_patience` epochs."""
    if train.schedule != "plateau":
        return plateau
    if score > plateau.best + train.min_delta:
        return Plateau(score, 0, plateau.factor)
    if plateau.epochs_since_best < train.plateau_patience:
        return Plateau(plateau.best, plateau.epochs_since_best + 1, plateau.factor)
    return Plateau(plateau.best, 0, max(train.final_lr_share, plateau.factor * train.decay_factor))


def lr_curve(length: RunLength, train: Train) -> list[float]:
    """Return the factor at each step of the run, as far as it is known before the run."""
    return [lr_factor(step, length, train) for step in range(length.total)]
