"""Micro-batches: complete, balanced, and their gradients add up, in threads, in sequence and across processes."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor, nn

from pipeline.learning.accumulation import GradientAccumulator, WorkerPool, split_evenly
from pipeline.learning.task import Task
from pipeline.network.batching import Batch
from pipeline.params import Params, Train
from tests.conftest import ROOT
from tests.pipeline.network.tiny_bert import save_tiny_bert

LENGTHS = st.lists(st.integers(1, 128), min_size=1, max_size=60)


@given(LENGTHS, st.integers(1, 9))
@settings(deadline=None)
def test_parts_hold_every_row_once_and_none_is_empty(lengths: list[int], parts: int) -> None:
    split = split_evenly(range(len(lengths)), lengths, parts)
    assert sorted(row for part in split for row in part) == list(range(len(lengths)))
    assert max(map(len, split)) - min(map(len, split)) <= 1
    assert len(split) == min(parts, len(lengths))


def test_parts_are_rows_of_like_length_and_equally_many() -> None:
    short, long = split_evenly(range(6), [4, 30, 5, 28, 6, 31], 2)
    assert sorted(short) == [0, 2, 4]
    assert sorted(long) == [1, 3, 5]


class Line(nn.Module):
    """One weight per column."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.3, -0.2, 0.1]))

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x @ self.weight)


X = torch.randn(7, 3, generator=torch.Generator().manual_seed(1))


def task(model: nn.Module, workers: int = 1, fail: Sequence[bool] = ()) -> Task:
    """Return a task of mean squares over 7 rows; calls of the loss that `fail` marks run out of memory."""
    failing = iter(fail)

    def loss(called: nn.Module, batch: Batch) -> Tensor:
        if next(failing, False):
            raise torch.OutOfMemoryError("no memory is left")
        return called(batch["x"]).square().mean()

    def batch(rows: list[int]) -> Batch:
        return {"x": X[rows], "attention_mask": torch.ones(len(rows), 1)}

    return Task(model, [5] * 7, 1, batch, loss, dict, workers=workers)


def gradients(workers: int, rounds: int, fail: Sequence[bool] = ()) -> tuple[float, Tensor, GradientAccumulator]:
    model = Line()
    with WorkerPool(workers) as pool:
        accumulator = GradientAccumulator(task(model, workers, fail), model, Accelerator(), pool, rounds)
        loss, pieces = accumulator(list(range(7)))
    assert pieces == 7
    assert model.weight.grad is not None
    return loss, model.weight.grad, accumulator


@pytest.mark.parametrize(("workers", "rounds"), [(1, 2), (1, 3), (1, 7), (2, 1), (3, 2), (2, 9)])
def test_the_gradient_of_parts_is_that_of_the_whole_batch_also_when_the_last_is_smaller(workers: int, rounds: int) -> None:
    model = Line()
    whole = model(X).square().mean()
    whole.backward()
    loss, gradient, _ = gradients(workers, rounds)
    assert loss == pytest.approx(whole.item(), abs=1e-6)
    torch.testing.assert_close(gradient, model.weight.grad, atol=1e-6, rtol=0)


def test_threads_give_the_same_sum_to_the_last_bit_each_time() -> None:
    first = gradients(3, 1)[1]
    assert all(torch.equal(gradients(3, 1)[1], first) for _ in range(5))


def test_when_memory_runs_out_the_micro_batch_is_halved_once_and_the_gradient_stays_the_same() -> None:
    expected = gradients(1, 1)
    loss, gradient, accumulator = gradients(1, 1, fail=[True])
    assert accumulator.rounds == 2
    assert loss == pytest.approx(expected[0], abs=1e-6)
    torch.testing.assert_close(gradient, expected[1], atol=1e-6, rtol=0)


def test_what_was_added_before_memory_ran_out_is_not_added_twice() -> None:
    _, expected, _ = gradients(1, 2)
    _, gradient, accumulator = gradients(1, 2, fail=[False, True])
    assert accumulator.rounds == 4
    torch.testing.assert_close(gradient, expected, atol=1e-6, rtol=0)


def test_the_second_time_memory_runs_out_is_the_end() -> None:
    with pytest.raises(torch.OutOfMemoryError):
        gradients(1, 1, fail=[True, True])


def test_workers_share_the_cores_and_give_them_back() -> None:
    before = torch.get_num_threads()
    with WorkerPool(2) as workers:
        inside = workers.run([torch.get_num_threads] * 2)
    assert torch.get_num_threads() == before
    assert len(set(inside)) == 1
    assert 2 * inside[0] <= max(2, before)


def printed_losses(output: str) -> list[Any]:
    (line,) = {line for line in output.splitlines() if line.startswith("[")}
    losses: list[Any] = json.loads(line)
    return losses


def test_two_processes_give_the_losses_of_one_that_accumulates(tmp_path: Path) -> None:
    """`torchrun` and `accelerate launch` start the same loop; processes differ in the micro-batches they compute."""
    script = ["-m", "tests.pipeline.learning.distributed", str(save_tiny_bert(tmp_path))]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--log-dir", str(tmp_path)]
    alone = subprocess.run([sys.executable, *script], cwd=ROOT, capture_output=True, text=True, check=True)
    both = subprocess.run([*launch, *script], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert both.returncode == 0, both.stderr[-2000:]
    assert printed_losses(both.stdout) == pytest.approx(printed_losses(alone.stdout), abs=1e-4)


def test_more_micro_batches_than_rows_are_refused_with_the_nearest_number(params: Params) -> None:
    with pytest.raises(ValidationError, match="set it to 4 or less"):
        Train.model_validate(params.train.model_dump() | {"batch_size": 4, "accumulate": 5})
    Train.model_validate(params.train.model_dump() | {"batch_size": 4, "accumulate": 4})
