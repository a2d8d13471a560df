"""The interface between the training loop and a learning problem."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import Tensor, nn

from pipeline.network.batching import Batch
from pipeline.network.precision import Precision


class Task(NamedTuple):
    """A learning problem as the loop sees it: rows are numbered from 0, and a batch is whatever `loss` accepts."""

    model: nn.Module  # parameters that require gradients are trained in place
    lengths: Sequence[int]  # pieces of each training row
    val_rows: int  # for the standard error of scores that are shares
    batch: Callable[[list[int]], Batch]  # on the CPU; `attention_mask` (B, T) is one of its tensors
    loss: Callable[[nn.Module, Batch], Tensor]  # the mean over what `count` counts
    validate: Callable[[], dict[str, float]]  # the score that `train.watch` names, and others to log
    count: Callable[[Batch], int] = lambda batch: len(batch["attention_mask"])
    prepare: Sequence[Callable[[], None]] = ()  # before each step, in any order and in any thread
    precision: Precision = "fp32"  # of the computation in `loss`
    workers: int = 1  # micro-batches computed in parallel; above 1, `loss` must be thread-safe
