"""Texts to padded batches: pieces once, rows of like length together, so that little padding is computed."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.runtime.batches import pad as runtime_pad

Pieces = list[list[int]]
Batch = dict[str, Tensor]  # `input_ids` and `attention_mask`, (B, T), and what a task adds


def bucketed_batches(lengths: Sequence[int], batch_size: int, bucket_batches: int, rng: np.random.Generator) -> list[list[int]]:
    """Row indices by batch for one epoch: shuffled, sorted by length in chunks of `bucket_batches` batches, batches shuffled."""
    order = rng.permutation(len(lengths))
    chunk = batch_size * bucket_batches
    batches = []
    for start in range(0, len(order), chunk):
        by_length = sorted(order[start : start + chunk].tolist(), key=lambda row: lengths[row])
        batches += [by_length[i : i + batch_size] for i in range(0, len(by_length), batch_size)]
    return [batches[i] for i in rng.permutation(len(batches))]


def sorted_batches(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Row indices by batch, longest first: the least padding, for passes where order does not matter."""
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]


def pad(pieces: Pieces, rows: Sequence[int], multiple: int = 1) -> Batch:
    """`input_ids` and `attention_mask` of these rows, both (B, T) int64 with T the longest row's pieces, or the next multiple."""
    made = {name: torch.from_numpy(array) for name, array in runtime_pad([pieces[row] for row in rows]).items()}
    more = -made["input_ids"].shape[1] % multiple
    return {name: F.pad(tensor, (0, more)) for name, tensor in made.items()} if more else made
