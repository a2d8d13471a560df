"""A step's gradients from parts of its batch: side by side on a CPU's cores, one after the other when memory is short.

The mean over the batch is the sum of the parts' means, each weighted by what it is a mean over, so that parts of any size add up
to the gradient of the whole batch. Processes of a distributed run are parts too.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from itertools import pairwise
from statistics import median
from time import perf_counter
from typing import NamedTuple, Self, TypeVar

import structlog
import torch
from accelerate import Accelerator, PartialState
from torch import Tensor, nn

from pipeline.cores import available_cores
from pipeline.learning.task import Task
from pipeline.network.batching import Batch

Result = TypeVar("Result")
log = structlog.get_logger()


class MicroBatch(NamedTuple):
    """A micro-batch, and its share of the batch's mean."""

    batch: Batch
    weight: float


class WorkerPool:
    """So many threads that each compute a part with their share of the cores; one lane is the calling thread itself."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._threads = max(1, available_cores() // count)
        self._pool = ThreadPoolExecutor(count, "lane", torch.set_num_threads, (self._threads,)) if count > 1 else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown()

    def run(self, calls: Sequence[Callable[[], Result]]) -> list[Result]:
        """All results, in the order of the calls."""
        if self._pool is None:
            return [call() for call in calls]
        before = torch.get_num_threads()
        torch.set_num_threads(self._threads)
        try:
            return [future.result() for future in [self._pool.submit(call) for call in calls]]
        finally:
            torch.set_num_threads(before)


class GradientAccumulator:
    """Adds the gradients of a step; where memory runs out it halves the micro-batch, once."""

    def __init__(self, task: Task, model: nn.Module, accelerator: Accelerator, lanes: WorkerPool, rounds: int) -> None:
        self.task, self.model, self.accelerator, self.lanes = task, model, accelerator, lanes
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.rounds = rounds  # micro-batches one after the other
        self.has_halved = False

    def __call__(self, rows: list[int]) -> tuple[float, int]:
        """Of these rows' mean loss; the loss, and the pieces it was computed on, padding included."""
        try:
            return self._add(rows)
        except torch.OutOfMemoryError:
            if self.has_halved:
                raise
        self.has_halved = True
        self.rounds *= 2
        log.warning("out_of_memory", now=f"the micro-batch is halved: {self.rounds} a step, added up", rows=len(rows))
        for p in self.parameters:
            p.grad = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return self._add(rows)

    def _add(self, rows: list[int]) -> tuple[float, int]:
        parts = self._parts(rows)
        self.lanes.run(self.task.prepare)
        if self.lanes.count > 1:
            losses = self._side_by_side(parts)
        else:
            losses = [self._one(part, is_last=part is parts[-1]) for part in parts]
        loss = torch.tensor(sum(losses), device=self.accelerator.device)
        if self.accelerator.num_processes > 1:
            loss = self.accelerator.reduce(loss, "sum")  # a part's loss is weighted by its share of all processes' rows
        return float(loss), sum(part.batch["attention_mask"].numel() for part in parts)

    def _parts(self, rows: list[int]) -> list[MicroBatch]:
        """This process's parts; one that has a part less than others computes one at weight 0, because they wait for it."""
        distributed_state, here = self.accelerator.num_processes, self.accelerator.process_index
        split = split_evenly(rows, self.task.lengths, distributed_state * self.rounds * self.lanes.count)
        batches = [self.task.batch(own) for own in split]
        counts = [self.task.count(batch) for batch in batches]
        parts = [MicroBatch(batch, count / sum(counts)) for batch, count in zip(batches, counts, strict=True)]
        rounds = -(-len(parts) // distributed_state)
        own = parts[here::distributed_state]
        return own if len(own) == rounds else [*own, MicroBatch(parts[0].batch, 0.0)]

    def _one(self, part: MicroBatch, is_last: bool) -> float:
        """Backward through one part; processes are reconciled with the last one."""
        with nullcontext() if is_last else self.accelerator.no_sync(self.model):
            loss = self.task.loss(self.model, self._here(part.batch)) * part.weight
            self.accelerator.backward(loss * self.accelerator.num_processes)  # their gradients are averaged
        return loss.item()

    def _side_by_side(self, parts: Sequence[MicroBatch]) -> list[float]:
        """Each part in a lane; gradients are added in the parts' order, so that the sum is always the same."""

        def one(part: MicroBatch) -> tuple[float, tuple[Tensor | None, ...]]:
            loss = self.task.loss(self.model, part.batch) * part.weight
            return loss.item(), torch.autograd.grad(loss, self.parameters, allow_unused=True)

        found = self.lanes.run([lambda part=part: one(part) for part in parts])  # type: ignore[misc]
        for number, parameter in enumerate(self.parameters):
            for _, grads in found:
                own = grads[number]
                if own is not None:
                    parameter.grad = own if parameter.grad is None else parameter.grad.add_(own)
        return [loss for loss, _ in found]

    def _here(self, batch: Batch) -> Batch:
        return {name: tensor.to(self.accelerator.device) for name, tensor in batch.items()}


def distributed_state() -> PartialState:
    """Of this run: one, or those that `torchrun` or `accelerate launch` started; without a GPU they talk through gloo."""
    return PartialState(cpu=not torch.cuda.is_available())


def median_step_seconds(task: Task, rows: list[int], steps: int) -> float:
    """Median seconds of the gradients of these rows, after one step that does not count; nothing is changed by it."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    parameters = [p for p in task.model.to(device).parameters() if p.requires_grad]

    def one(batch: Batch) -> None:
        loss = task.loss(task.model, {name: tensor.to(device) for name, tensor in batch.items()})
        torch.autograd.grad(loss, parameters, allow_unused=True)

    taken = []
    with WorkerPool(task.lanes) as lanes, torch.random.fork_rng():
        batches = [task.batch(own) for own in split_evenly(rows, task.lengths, lanes.count)]
        for _ in range(steps + 1):
            began = perf_counter()
            lanes.run([lambda batch=batch: one(batch) for batch in batches])  # type: ignore[misc]
            if device.type == "cuda":
                torch.cuda.synchronize()
            taken.append(perf_counter() - began)
    return median(taken[1:])


def split_evenly(rows: Sequence[int], lengths: Sequence[int], parts: int) -> list[list[int]]:
    """Up to so many runs of rows of like length, equally many rows each but for one; none is empty.

    Not equally many pieces: oneDNN prepares its kernels for each new size of a product, and sizes repeat when the rows do.
    """
    order = sorted(rows, key=lambda row: lengths[row])
    count = min(parts, len(order))
    ends = [len(order) * number // count for number in range(count + 1)]
    return [order[begin:end] for begin, end in pairwise(ends)]
