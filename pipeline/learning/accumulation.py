"""Gradients of a step from micro-batches: in parallel on a CPU's cores, or in sequence when memory is short.

The batch mean is the sum of the micro-batch means, each weighted by its count, so micro-batches of any size add up to the
gradient of the whole batch. Each process of a distributed run computes some of the micro-batches.
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
    """Part of a batch and its weight in the batch mean."""

    batch: Batch
    weight: float


class WorkerPool:
    """A pool of threads for micro-batches; each thread gets an equal share of the cores. One worker is the calling thread."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._threads = max(1, available_cores() // count)
        self._pool = ThreadPoolExecutor(count, "worker", torch.set_num_threads, (self._threads,)) if count > 1 else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown()

    def run(self, calls: Sequence[Callable[[], Result]]) -> list[Result]:
        """Return the results in the order of the calls."""
        if self._pool is None:
            return [call() for call in calls]
        previous = torch.get_num_threads()
        torch.set_num_threads(self._threads)
        try:
            return [future.result() for future in [self._pool.submit(call) for call in calls]]
        finally:
            torch.set_num_threads(previous)


class GradientAccumulator:
    """Accumulates the gradients of a step; on the first out-of-memory error it halves the micro-batch."""

    def __init__(self, task: Task, model: nn.Module, accelerator: Accelerator, workers: WorkerPool, rounds: int) -> None:
        self.task, self.model, self.accelerator, self.workers = task, model, accelerator, workers
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.rounds = rounds  # micro-batches in sequence
        self.has_halved = False

    def __call__(self, rows: list[int]) -> tuple[float, int]:
        """Add the gradients of the rows' mean loss; return the loss and the number of pieces computed, padding included."""
        try:
            return self._add(rows)
        except torch.OutOfMemoryError:
            if self.has_halved:
                raise
        self.has_halved = True
        self.rounds *= 2
        log.warning("out_of_memory", action=f"halved the micro-batch: {self.rounds} per step, accumulated", rows=len(rows))
        for p in self.parameters:
            p.grad = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return self._add(rows)

    def _add(self, rows: list[int]) -> tuple[float, int]:
        parts = self._parts(rows)
        self.workers.run(self.task.prepare)
        if self.workers.count > 1:
            losses = self._in_parallel(parts)
        else:
            losses = [self._backward(part, is_last=part is parts[-1]) for part in parts]
        loss = torch.tensor(sum(losses), device=self.accelerator.device)
        if self.accelerator.num_processes > 1:
            loss = self.accelerator.reduce(loss, "sum")  # each loss carries its weight in the whole batch
        return float(loss), sum(part.batch["attention_mask"].numel() for part in parts)

    def _parts(self, rows: list[int]) -> list[MicroBatch]:
        """Return this process's micro-batches. A process with one fewer adds one of weight 0, because the others wait for it."""
        processes, rank = self.accelerator.num_processes, self.accelerator.process_index
        split = split_evenly(rows, self.task.lengths, processes * self.rounds * self.workers.count)
        batches = [self.task.batch(part) for part in split]
        counts = [self.task.count(batch) for batch in batches]
        parts = [MicroBatch(batch, count / sum(counts)) for batch, count in zip(batches, counts, strict=True)]
        rounds = -(-len(parts) // processes)
        local = parts[rank::processes]
        return local if len(local) == rounds else [*local, MicroBatch(parts[0].batch, 0.0)]

    def _backward(self, part: MicroBatch, is_last: bool) -> float:
        """Run forward and backward on one micro-batch; gradients are synchronised across processes on the last one."""
        with nullcontext() if is_last else self.accelerator.no_sync(self.model):
            loss = self.task.loss(self.model, self._to_device(part.batch)) * part.weight
            self.accelerator.backward(loss * self.accelerator.num_processes)  # accelerate averages the processes' gradients
        return loss.item()

    def _in_parallel(self, parts: Sequence[MicroBatch]) -> list[float]:
        """Compute each micro-batch in a thread; gradients are added in a fixed order, so the sum is always the same."""

        def differentiate(part: MicroBatch) -> tuple[float, tuple[Tensor | None, ...]]:
            loss = self.task.loss(self.model, part.batch) * part.weight
            return loss.item(), torch.autograd.grad(loss, self.parameters, allow_unused=True)

        results = self.workers.run([lambda part=part: differentiate(part) for part in parts])  # type: ignore[misc]
        for number, parameter in enumerate(self.parameters):
            for _, grads in results:
                grad = grads[number]
                if grad is not None:
                    parameter.grad = grad if parameter.grad is None else parameter.grad.add_(grad)
        return [loss for loss, _ in results]

    def _to_device(self, batch: Batch) -> Batch:
        return {name: tensor.to(self.accelerator.device) for name, tensor in batch.items()}


def distributed_state() -> PartialState:
    """Return accelerate's state of this process and its peers under `torchrun` or `accelerate launch`; gloo without a GPU."""
    return PartialState(cpu=not torch.cuda.is_available())


def median_step_seconds(task: Task, rows: list[int], steps: int) -> float:
    """Return the median seconds to compute the gradients of these rows, after one warm-up step; no state is changed."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    parameters = [p for p in task.model.to(device).parameters() if p.requires_grad]

    def differentiate(batch: Batch) -> None:
        loss = task.loss(task.model, {name: tensor.to(device) for name, tensor in batch.items()})
        torch.autograd.grad(loss, parameters, allow_unused=True)

    seconds = []
    with WorkerPool(task.workers) as workers, torch.random.fork_rng():
        batches = [task.batch(part) for part in split_evenly(rows, task.lengths, workers.count)]
        for _ in range(steps + 1):
            started = perf_counter()
            workers.run([lambda batch=batch: differentiate(batch) for batch in batches])  # type: ignore[misc]
            if device.type == "cuda":
                torch.cuda.synchronize()
            seconds.append(perf_counter() - started)
    return median(seconds[1:])


def split_evenly(rows: Sequence[int], lengths: Sequence[int], parts: int) -> list[list[int]]:
    """Split the rows by length into up to `parts` parts whose row counts differ by at most one; none is empty.

    Rows are balanced, not pieces: oneDNN compiles a kernel for each new matrix size, and equal row counts repeat sizes.
    """
    order = sorted(rows, key=lambda row: lengths[row])
    count = min(parts, len(order))
    ends = [len(order) * number // count for number in range(count + 1)]
    return [order[begin:end] for begin, end in pairwise(ends)]
