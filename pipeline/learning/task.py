"""A task: what the training loop has to know of what is learnt, and nothing else."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import Tensor, nn

from pipeline.network.batching import Batch
from pipeline.network.precision import Precision


class Task(NamedTuple):
    """What is learnt, as the loop sees it: rows are numbers from 0, and batches are whatever `loss` understands."""

    model: nn.Module  # trained in place, where its parameters require gradients
    lengths: Sequence[int]  # pieces of each training row
    val_rows: int  # by which scores that are shares are uncertain
    batch: Callable[[list[int]], Batch]  # on the CPU; `attention_mask` (B, T) is one of its tensors
    loss: Callable[[nn.Module, Batch], Tensor]  # the mean over what `count` counts
    validate: Callable[[], dict[str, float]]  # what `train.watch` names, and whatever else is to be told
    count: Callable[[Batch], int] = lambda batch: len(batch["attention_mask"])
    prepare: Sequence[Callable[[], None]] = ()  # before each step, in any order and in any thread
    precision: Precision = "fp32"  # that `loss` computes in
    lanes: int = 1  # parts of a batch computed at a time; `loss` has to bear threads where there are several
