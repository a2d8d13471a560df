"""The gradient guard on streams of norms: the exact bad steps, and the rate after them."""

from math import inf, nan

import pytest
import torch

from pipeline.errors import EXIT_REFUSED, RefusedError
from pipeline.learning.gradient_guard import (
    GOOD,
    SCALED_DOWN,
    GuardState,
    StepVerdict,
    evaluate_step,
    norm_limit,
    refuse_after_bad_steps,
)
from pipeline.params import Params, Train

EXPLODED, NOT_FINITE = StepVerdict("exploded", False), StepVerdict("not finite", False)


@pytest.fixture
def train(params: Params) -> Train:
    fixed = {"explosion": "relative", "explosion_norm": 10.0, "explosion_window": 30, "on_explosion": "skip"}
    return params.train.model_copy(update={**fixed, "explosion_backoff": 0.5, "recovery_steps": 4, "max_bad_steps": 3})


def guarded(norms: list[float], train: Train) -> tuple[list[int], GuardState]:
    """Return the bad steps (from 0), and the guard at the end."""
    guard, bad = GuardState(), []
    for step, norm in enumerate(norms):
        guard, verdict = evaluate_step(guard, 1.0, norm, train)
        bad += [] if verdict == GOOD else [step]
    return bad, guard


def test_a_norm_above_ten_running_medians_is_an_explosion(train: Train) -> None:
    bad, guard = guarded([1.0] * 30 + [9.9, 10.1, 1.0], train)
    assert bad == [31]
    assert guard.bad_steps == 1


def test_the_median_follows_the_norms_and_exploded_ones_do_not_move_it(train: Train) -> None:
    assert guarded([1.0] * 30 + [4.0] * 20 + [39.0, 41.0], train)[0] == [51]
    before = guarded([1.0] * 30, train)[1]
    assert norm_limit(guarded([1.0] * 30 + [100.0] * 2, train)[1], train) == norm_limit(before, train) == 10.0


def test_nothing_explodes_before_there_are_enough_norms_for_a_median(train: Train) -> None:
    assert guarded([1.0] * 19 + [1e6], train)[0] == []
    assert guarded([1.0] * 20 + [1e6], train)[0] == [20]


def test_an_absolute_limit_holds_from_the_first_step(train: Train) -> None:
    literal = train.model_copy(update={"explosion": "absolute", "explosion_norm": 1.0, "recovery_steps": 0})
    bad, guard = guarded([1.5, 0.9, 1.1, 1.0], literal)
    assert bad == [0, 2]
    assert guard.rate == 0.25  # halved each time, and never raised again


def test_the_rate_is_halved_and_rises_back_over_the_good_steps_that_params_name(train: Train) -> None:
    rates = []
    guard = GuardState(norms=(1.0,) * 20)
    for norm in [99.0, 99.0, *[1.0] * 9]:
        guard, _ = evaluate_step(guard, 1.0, norm, train)
        rates.append(guard.rate)
    halves = [0.5 ** (n / 4) for n in (4, 8, 7, 6, 5, 4, 3, 2, 1, 0, 0)]
    assert rates == pytest.approx(halves)
    assert max(rates) == 1.0


@pytest.mark.parametrize(("loss", "norm"), [(nan, 1.0), (inf, 1.0), (1.0, nan), (1.0, inf), (-inf, nan)])
def test_a_step_that_is_not_finite_is_never_taken(loss: float, norm: float, train: Train) -> None:
    guard, verdict = evaluate_step(GuardState(), loss, norm, train.model_copy(update={"on_explosion": "clip"}))
    assert verdict == NOT_FINITE
    assert (guard.rate, guard.norms, guard.bad_in_a_row) == (0.5, (), 1)


def test_params_say_whether_an_exploded_step_is_taken(train: Train) -> None:
    full = GuardState(norms=(1.0,) * 20)
    assert evaluate_step(full, 1.0, 99.0, train)[1].is_taken is False
    assert evaluate_step(full, 1.0, 99.0, train.model_copy(update={"on_explosion": "clip"}))[1].is_taken is True


def test_bad_steps_in_a_row_end_the_training_and_a_good_one_between_restarts_the_count(train: Train) -> None:
    guard = GuardState(norms=(1.0,) * 20)
    for norm in (nan, 99.0, 1.0, nan, 99.0):
        guard, verdict = evaluate_step(guard, 1.0, norm, train)
        refuse_after_bad_steps(guard, verdict, 7, 1.0, norm, train)
    guard, verdict = evaluate_step(guard, 1.0, inf, train)
    with pytest.raises(RefusedError, match="step 7: 3 bad steps in a row; the last one: not finite") as caught:
        refuse_after_bad_steps(guard, verdict, 7, 1.0, inf, train)
    assert caught.value.exit_code == EXIT_REFUSED


def test_an_overflow_that_the_loss_scaler_handles_is_not_a_bad_step(train: Train) -> None:
    """The real scaler, on the CPU: its overflow halves the scale and no rate; at scale 1 the same gradient is a bad step."""
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    guard, verdicts = GuardState(), []
    for _ in range(2):
        scale = scaler.get_scale()
        scaler.scale((weight * 3e38 * 1.5).sum()).backward()
        scaler.unscale_(optimizer)
        guard, verdict = evaluate_step(guard, 1.0, weight.grad.norm().item(), train, scale)
        verdicts.append((scale, verdict))
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
    assert verdicts == [(2.0, SCALED_DOWN), (1.0, NOT_FINITE)]
    assert weight.item() == 0.0  # the scaler skipped
    assert guard == GuardState(rate=0.5, bad_in_a_row=1, bad_steps=1)
