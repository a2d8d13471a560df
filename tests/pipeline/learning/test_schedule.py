"""The learning rate over a run: against torch's schedulers, hand values and its shape."""

from collections.abc import Callable
from math import sqrt
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim import lr_scheduler

from pipeline.learning.schedule import Plateau, RunLength, lr_curve, lr_factor, plateau_after_epoch
from pipeline.params import Params, Train, load_params
from tests.conftest import ROOT

PLAIN = {"schedule": "cosine", "warmup_share": 0.0, "final_lr_share": 0.0, "decay_factor": 0.5, "decay_every_epochs": 2}
TRAIN = load_params(ROOT / "params.yaml").train
RUNS = st.tuples(
    st.integers(1, 500), st.floats(0, 0.99), st.sampled_from(["cosine", "linear", "step", "exponential", "constant"])
)
LENGTH = RunLength(60, 10)


def setting(**changes: Any) -> Train:
    return TRAIN.model_copy(update=PLAIN | changes)


def by_torch(make: Callable[[torch.optim.Optimizer], Any], steps: int) -> list[float]:
    """Return the rates of one of torch's schedulers at a peak of 1."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler, rates = make(optimizer), []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def warmed_up(optimizer: torch.optim.Optimizer, main: Any) -> Any:
    """Chain six steps of warm-up and `main`."""
    first = lr_scheduler.LinearLR(optimizer, start_factor=1 / 6, total_iters=5)
    return lr_scheduler.SequentialLR(optimizer, [first, main], milestones=[6])


@pytest.mark.parametrize(
    ("changes", "make"),
    [
        ({}, lambda o: lr_scheduler.CosineAnnealingLR(o, 60)),
        ({"final_lr_share": 0.1}, lambda o: lr_scheduler.CosineAnnealingLR(o, 60, eta_min=0.1)),
        ({"schedule": "linear"}, lambda o: lr_scheduler.LinearLR(o, 1.0, 0.0, 60)),
        ({"schedule": "linear", "final_lr_share": 0.2}, lambda o: lr_scheduler.LinearLR(o, 1.0, 0.2, 60)),
        ({"schedule": "step"}, lambda o: lr_scheduler.StepLR(o, 20, 0.5)),
        ({"schedule": "step", "decay_every_epochs": 1, "decay_factor": 0.1}, lambda o: lr_scheduler.StepLR(o, 10, 0.1)),
        ({"schedule": "exponential"}, lambda o: lr_scheduler.ExponentialLR(o, 0.5 ** (1 / 20))),
        ({"schedule": "constant"}, lambda o: lr_scheduler.ConstantLR(o, 1.0)),
        ({"warmup_share": 0.1}, lambda o: warmed_up(o, lr_scheduler.CosineAnnealingLR(o, 54))),
        ({"warmup_share": 0.1, "schedule": "linear"}, lambda o: warmed_up(o, lr_scheduler.LinearLR(o, 1.0, 0.0, 54))),
    ],
    ids=lambda value: " ".join(map(str, value.values())) or "cosine" if isinstance(value, dict) else "",
)
@pytest.mark.filterwarnings("ignore::UserWarning")  # torch's chained schedulers warn about themselves
def test_rates_are_those_of_torch(changes: dict[str, Any], make: Callable[[torch.optim.Optimizer], Any]) -> None:
    assert lr_curve(LENGTH, setting(**changes)) == pytest.approx(by_torch(make, 60), abs=1e-9)


@pytest.mark.parametrize(
    ("step", "expected"),
    [(0, 0.25), (1, 0.5), (3, 1.0), (4, 1.0), (13, 0.5 * (1 + sqrt(0.5))), (22, 0.5), (40, 0.0)],
)
def test_it_rises_linearly_and_falls_along_half_a_cosine(step: int, expected: float) -> None:
    assert lr_factor(step, RunLength(40, 10), setting(warmup_share=0.1)) == pytest.approx(expected, abs=1e-12)


def test_endless_decays_stop_at_the_final_share() -> None:
    for schedule in ("step", "exponential"):
        rates = lr_curve(LENGTH, setting(schedule=schedule, final_lr_share=0.3))
        assert min(rates) == 0.3
        assert 0.3 not in rates[:20]


@given(RUNS)
def test_it_stays_in_bounds_rises_then_never_rises_again(run: tuple[int, float, str]) -> None:
    total, share, schedule = run
    rates = lr_curve(RunLength(total, max(1, total // 6)), setting(warmup_share=share, schedule=schedule))
    peak = rates.index(max(rates))
    assert max(rates) == 1.0
    assert rates[0] > 0
    assert min(rates) >= 0
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)


def test_an_epoch_counts_its_last_small_batch(params: Params) -> None:
    assert RunLength.of(65, params.train.model_copy(update={"batch_size": 32, "epochs": 4})) == RunLength(12, 3)


@pytest.mark.parametrize("patience", [0, 2])
@pytest.mark.parametrize("seed", range(5))
def test_reduce_on_plateau_does_what_torch_does(seed: int, patience: int) -> None:
    scores = np.maximum.accumulate(np.random.default_rng(seed).normal(size=60)) + np.random.default_rng(seed + 100).normal(
        0, 0.1, 60
    )
    train = setting(schedule="plateau", plateau_patience=patience, min_delta=0.01, final_lr_share=0.05)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    reference = lr_scheduler.ReduceLROnPlateau(
        optimizer, mode="max", factor=0.5, patience=patience, threshold=0.01, threshold_mode="abs", min_lr=0.05
    )
    plateau, ours, theirs = Plateau(), [], []
    for score in scores:
        plateau = plateau_after_epoch(plateau, float(score), train)
        reference.step(float(score))
        ours.append(plateau.factor)
        theirs.append(optimizer.param_groups[0]["lr"])
    assert ours == pytest.approx(theirs)
    assert ours[-1] < 1.0


def test_other_schedules_ignore_the_score() -> None:
    assert plateau_after_epoch(Plateau(), 0.1, setting(schedule="cosine")) == Plateau()
