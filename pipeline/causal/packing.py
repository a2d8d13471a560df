"""Sequence packing: short sequences one after the other in a row, none of which sees another."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.network.batching import Pieces

IGNORE_INDEX = -100  # as torch's cross-entropy has it


class Sequences(NamedTuple):
    """Pieces of each sequence, and from which of them on they are to be predicted (0: all but the first)."""

    pieces: Pieces
    starts: Sequence[int]


def pack(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Sequences by row, at most `capacity` pieces each: the longest first, each where the least room stays (best-fit decreasing).

    At most 11/9 of the fewest rows possible, and a few, are needed (Johnson et al. 1974). A longer sequence has a row of its own.
    """
    rows: list[list[int]] = []
    rooms: list[int] = []
    for one in sorted(range(len(lengths)), key=lambda number: -lengths[number]):
        fitting = [row for row, room in enumerate(rooms) if room >= lengths[one]]
        if fitting:
            row = min(fitting, key=lambda number: rooms[number])
            rows[row].append(one)
            rooms[row] -= lengths[one]
        else:
            rows.append([one])
            rooms.append(capacity - lengths[one])
    return rows


def packed_batch(sequences: Sequences, packs: Sequence[Sequence[int]], multiple: int = 1) -> dict[str, Tensor]:
    """A batch of packs, all (B, T) int64, T the longest one's pieces rounded up to a multiple.

    `attention_mask` numbers the sequences of a row from 1, 0 is padding; `position_ids` begin anew with each; `labels` are the
    pieces to be predicted from what stands before them in their own sequence.
    """
    widest = max(sum(len(sequences.pieces[one]) for one in pack) for pack in packs)
    shape = (len(packs), -(-widest // multiple) * multiple)
    batch = {name: torch.zeros(shape, dtype=torch.int64) for name in ("input_ids", "attention_mask", "position_ids")}
    batch["labels"] = torch.full(shape, IGNORE_INDEX)
    for row, pack in enumerate(packs):
        at = 0
        for number, one in enumerate(pack, start=1):
            pieces = torch.tensor(sequences.pieces[one])
            here = slice(at, at + len(pieces))
            batch["input_ids"][row, here] = pieces
            batch["attention_mask"][row, here] = number
            batch["position_ids"][row, here] = torch.arange(len(pieces))
            first = max(1, sequences.starts[one])
            batch["labels"][row, at + first : here.stop] = pieces[first:]
            at = here.stop
    return batch


def causal_mask(segments: Tensor) -> Tensor:
    """(B, T) numbers of sequences → (B, 1, T, T), True where a piece may look: back, and within its own sequence."""
    same = segments[:, None, :, None] == segments[:, None, None, :]
    return same & torch.ones(same.shape[-2:], dtype=torch.bool, device=segments.device).tril()
