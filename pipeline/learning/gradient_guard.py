"""The gradient guard: classifies a step by its gradient norm as good, exploded or not finite, and adjusts the learning rate.

This module only decides. The loop measures loss and norm, and carries out the verdict.
"""

from math import inf, isfinite
from statistics import median
from typing import NamedTuple

from pipeline.errors import RefusedError
from pipeline.params import Train

MIN_NORMS = 20  # good norms needed before their median limits the next one


class GuardState(NamedTuple):
    """State of the guard between steps."""

    norms: tuple[float, ...] = ()  # of the last `explosion_window` good steps
    rate: float = 1.0  # factor on every learning rate
    bad_in_a_row: int = 0
    bad_steps: int = 0  # in the whole run


class StepVerdict(NamedTuple):
    """The verdict on a step, and whether the optimiser takes it."""

    name: str  # good | exploded | not finite | loss scale
    is_taken: bool


GOOD = StepVerdict("good", True)
SCALED_DOWN = StepVerdict(
    "loss scale", True
)  # taken, so that the scaler sees its overflow: it skips the step and halves its scale


def evaluate_step(
    guard: GuardState, loss: float, norm: float, train: Train, loss_scale: float = 1.0
) -> tuple[GuardState, StepVerdict]:
    """Compare the global gradient norm (before clipping) with the limit; a bad step lowers the rate, good ones raise it again.

    An overflow at a loss scale above 1 (fp16, Micikevicius et al. 2018) is not a bad step: the scaler lowers its scale. At
    scale 1 it cannot go lower, and the step is bad.
    """
    if isfinite(loss) and isfinite(norm):
        if norm <= norm_limit(guard, train):
            return _after_good(guard, norm, train), GOOD
        verdict = StepVerdict("exploded", train.on_explosion == "clip")
    elif isfinite(loss) and loss_scale > 1:
        return guard, SCALED_DOWN
    else:
        verdict = StepVerdict("not finite", False)
    lowered = guard.rate * train.explosion_backoff
    return GuardState(guard.norms, lowered, guard.bad_in_a_row + 1, guard.bad_steps + 1), verdict


def norm_limit(guard: GuardState, train: Train) -> float:
    """Return the norm above which a step has exploded: absolute, or a multiple of the median good norm; infinite at first."""
    if train.explosion == "absolute":
        return train.explosion_norm
    return train.explosion_norm * median(guard.norms) if len(guard.norms) >= MIN_NORMS else inf


def refuse_after_bad_steps(guard: GuardState, verdict: StepVerdict, step: int, loss: float, norm: float, train: Train) -> None:
    """Raise `RefusedError` after `max_bad_steps` bad steps in a row."""
    if guard.bad_in_a_row >= train.max_bad_steps:
        what = f"{guard.bad_in_a_row} bad steps in a row; the last one: {verdict.name}, loss {loss:.4g}, gradient norm {norm:.4g}"
        do = "lower train.encoder_lr and train.head_lr, or lengthen train.warmup_share; nothing was written"
        raise RefusedError(f"the training, step {step}", what, do)


def _after_good(guard: GuardState, norm: float, train: Train) -> GuardState:
    """Raise the rate so that `recovery_steps` good steps undo one bad step; with 0 the rate stays lowered."""
    risen = guard.rate * (1 / train.explosion_backoff) ** (1 / train.recovery_steps) if train.recovery_steps else guard.rate
    return GuardState((*guard.norms, norm)[-train.explosion_window :], min(1.0, risen), 0, guard.bad_steps)
