"""What a gradient's norm says about the step: good, exploded or not a number, and what then becomes of the learning rate.

Decides only: the loop measures loss and norm, and carries out what is decided here.
"""

from math import inf, isfinite
from statistics import median
from typing import NamedTuple

from pipeline.errors import RefusedError
from pipeline.params import Train

MIN_NORMS = 20  # norms that a median needs before a norm is held against it


class GuardState(NamedTuple):
    """What the guard remembers from step to step."""

    norms: tuple[float, ...] = ()  # of good steps, the last `explosion_window`
    rate: float = 1.0  # factor on every learning rate
    bad_in_a_row: int = 0
    acts: int = 0  # bad steps in all


class Verdict(NamedTuple):
    """On one step: its name, and whether the optimiser may take it."""

    name: str  # good | exploded | not finite | loss scale
    is_taken: bool


GOOD = Verdict("good", True)
SCALED_DOWN = Verdict("loss scale", True)  # taken, so that the scaler sees its overflow: it skips the step and halves its scale


def evaluate_step(
    guard: GuardState, loss: float, norm: float, train: Train, loss_scale: float = 1.0
) -> tuple[GuardState, Verdict]:
    """Hold the global gradient norm (before clipping) against the limit; a bad step lowers the rate, good ones raise it again.

    An overflow under a loss scale above 1 (fp16, Micikevicius et al. 2018) is the scale's fault, and the scaler's to mend: it is
    no bad step. At scale 1 nothing is left to lower, and it is one.
    """
    if isfinite(loss) and isfinite(norm):
        if norm <= norm_limit(guard, train):
            return _after_good(guard, norm, train), GOOD
        verdict = Verdict("exploded", train.on_explosion == "clip")
    elif isfinite(loss) and loss_scale > 1:
        return guard, SCALED_DOWN
    else:
        verdict = Verdict("not finite", False)
    lowered = guard.rate * train.explosion_backoff
    return GuardState(guard.norms, lowered, guard.bad_in_a_row + 1, guard.acts + 1), verdict


def norm_limit(guard: GuardState, train: Train) -> float:
    """The norm above which a step has exploded: a number, or so many times the median of the good ones; infinite at first."""
    if train.explosion == "absolute":
        return train.explosion_norm
    return train.explosion_norm * median(guard.norms) if len(guard.norms) >= MIN_NORMS else inf


def refuse_after_bad_steps(guard: GuardState, verdict: Verdict, step: int, loss: float, norm: float, train: Train) -> None:
    """Raise `RefusedError` after `max_bad_steps` bad steps in a row."""
    if guard.bad_in_a_row >= train.max_bad_steps:
        what = f"{guard.bad_in_a_row} bad steps in a row; the last one: {verdict.name}, loss {loss:.4g}, gradient norm {norm:.4g}"
        do = "lower train.encoder_lr and train.head_lr, or lengthen train.warmup_share; nothing was written"
        raise RefusedError(f"the training, step {step}", what, do)


def _after_good(guard: GuardState, norm: float, train: Train) -> GuardState:
    """One halving is undone in `recovery_steps` good steps; with 0 the rate stays where it is."""
    risen = guard.rate * (1 / train.explosion_backoff) ** (1 / train.recovery_steps) if train.recovery_steps else guard.rate
    return GuardState((*guard.norms, norm)[-train.explosion_window :], min(1.0, risen), 0, guard.acts)
