"""Sequence packing: several short sequences in one row, masked from each other."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.network.batching import Pieces

IGNORE_INDEX = -100  # the default `ignore_index` of torch's cross-entropy


class Sequences(NamedTuple):
    """Pieces of each sequence, and the position of its first target (0: all pieces but the first are targets)."""

    pieces: Pieces
    starts: Sequence[int]


def pack(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Return the sequences of each row, at most `capacity` pieces a row, by best-fit decreasing.

    It needs at most 11/9 of the optimal number of rows plus a constant (Johnson et al. 1974). A longer sequence gets its own row.
    """
    rows: list[list[int]] = []
    free: list[int] = []  # pieces
    for sequence in sorted(range(len(lengths)), key=lambda number: -lengths[number]):
        fitting = [row for row, space in enumerate(free) if space >= lengths[sequence]]
        if fitting:
            row = min(fitting, key=lambda number: free[number])
            rows[row].append(sequence)
            free[row] -= lengths[sequence]
        else:
            rows.append([sequence])
            free.append(capacity - lengths[sequence])
    return rows


def packed_batch(sequences: Sequences, packs: Sequence[Sequence[int]], multiple: int = 1) -> dict[str, Tensor]:
    """Return a batch of packed rows, all (B, T) int64; T is the longest row rounded up to a multiple.

    `attention_mask` numbers the sequences of a row from 1, 0 is padding; `position_ids` restart with each sequence; `labels`
    are the target pieces, `IGNORE_INDEX` elsewhere.
    """
    widest = max(sum(len(sequences.pieces[sequence]) for sequence in pack) for pack in packs)
    shape = (len(packs), -(-widest // multiple) * multiple)
    batch = {name: torch.zeros(shape, dtype=torch.int64) for name in ("input_ids", "attention_mask", "position_ids")}
    batch["labels"] = torch.full(shape, IGNORE_INDEX)
    for row, pack in enumerate(packs):
        start = 0
        for number, sequence in enumerate(pack, start=1):
            pieces = torch.tensor(sequences.pieces[sequence])
            span = slice(start, start + len(pieces))
            batch["input_ids"][row, span] = pieces
            batch["attention_mask"][row, span] = number
            batch["position_ids"][row, span] = torch.arange(len(pieces))
            first = max(1, sequences.starts[sequence])
            batch["labels"][row, start + first : span.stop] = pieces[first:]
            start = span.stop
    return batch


def causal_mask(segments: Tensor) -> Tensor:
    """(B, T) sequence numbers → (B, 1, T, T), true where a piece may attend: to earlier pieces of its sequence and itself."""
    same = segments[:, None, :, None] == segments[:, None, None, :]
    return same & torch.ones(same.shape[-2:], dtype=torch.bool, device=segments.device).tril()
