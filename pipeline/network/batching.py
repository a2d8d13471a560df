"""Batches of token ids: rows of similar length together, to compute little padding."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.runtime.batches import pad as runtime_pad

Pieces = list[list[int]]
Batch = dict[str, Tensor]  # `input_ids` and `attention_mask`, (B, T), and what a task adds


def bucketed_batches(lengths: Sequence[int], batch_size: int, bucket_batches: int, rng: np.random.Generator) -> list[list[int]]:
    """Return the row indices of each batch of an epoch: shuffled, sorted by length per `bucket_batches` batches, shuffled."""
    order = rng.permutation(len(lengths))
    chunk = batch_size * bucket_batches
    batches = []
    for start in range(0, len(order), chunk):
        by_length = sorted(order[start : start + chunk].tolist(), key=lambda row: lengths[row])
        batches += [by_length[i : i + batch_size] for i in range(0, len(by_length), batch_size)]
    return [batches[i] for i in rng.permutation(len(batches))]


def sorted_batches(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Return the row indices of each batch, longest first: the least padding, for passes where order does not matter."""
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]


def pad(pieces: Pieces, rows: Sequence[int], multiple: int = 1) -> Batch:
    """Return `input_ids` and `attention_mask`, both (B, T) int64; T is the longest row rounded up to a multiple."""
    batch = {name: torch.from_numpy(array) for name, array in runtime_pad([pieces[row] for row in rows]).items()}
    more = -batch["input_ids"].shape[1] % multiple
    return {name: F.pad(tensor, (0, more)) for name, tensor in batch.items()} if more else batch
