"""Learning rate over a run, as a factor on every group's peak: warm-up, then one of six ways down."""

from math import cos, inf, pi
from typing import NamedTuple

from pipeline.params import Train


class RunLength(NamedTuple):
    """How long a run is, in steps."""

    total: int
    an_epoch: int

    @classmethod
    def of(cls, rows: int, train: Train) -> "RunLength":
        """The span of so many epochs over so many rows; the last batch of an epoch may be small."""
        an_epoch = -(-rows // train.batch_size)
        return cls(an_epoch * train.epochs, an_epoch)


class Plateau(NamedTuple):
    """What reduce-on-plateau remembers; the score is one that should rise."""

    best: float = -inf
    since: int = 0  # epochs without a better score
    factor: float = 1.0


def lr_factor(step: int, span: RunLength, train: Train) -> float:
    """Factor on the peak rate at `step` (from 0): linear to 1 over the warm-up, then down as `train.schedule` says.

    Cosine is annealing without restarts (Loshchilov & Hutter 2017); `final_lr_share` is its eta_min over the peak.
    """
    warmup = max(1, round(span.total * train.warmup_share)) if train.warmup_share else 0
    if step < warmup:
        return (step + 1) / warmup
    since, left, final = step - warmup, max(1, span.total - warmup), train.final_lr_share
    intervals = since / (train.decay_every_epochs * span.an_epoch)
    match train.schedule:
        case "cosine":
            return final + (1 - final) * 0.5 * (1 + cos(pi * since / left))
        case "linear":
            return final + (1 - final) * (1 - since / left)
        case "step":
            return max(final, train.decay_factor ** int(intervals))
        case "exponential":
            return float(max(final, train.decay_factor**intervals))
        case _:  # constant; plateau falls by `after_epoch`
            return 1.0


def plateau_after_epoch(plateau: Plateau, score: float, train: Train) -> Plateau:
    """The rate falls by `decay_factor` when the score has not risen by `min_delta` for more than `plateau_patience` epochs."""
    if train.schedule != "plateau":
        return plateau
    if score > plateau.best + train.min_delta:
        return Plateau(score, 0, plateau.factor)
    if plateau.since < train.plateau_patience:
        return Plateau(plateau.best, plateau.since + 1, plateau.factor)
    return Plateau(plateau.best, 0, max(train.final_lr_share, plateau.factor * train.decay_factor))


def lr_curve(span: RunLength, train: Train) -> list[float]:
    """The factor at each step of the whole run, as far as it is known before the run."""
    return [lr_factor(step, span, train) for step in range(span.total)]
