"""Batches for inference: rows packed one after another without padding, or padded with rows of similar length."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

RUN_COST = 5  # overhead of a run, in padded pieces (docs/experiments/serving.md)
MAX_ROWS = 64  # per run; more is not faster
PACK_PIECES = 128  # per packed run: more is not faster, and attention is quadratic (docs/experiments/serving.md)
LENGTH_MULTIPLE = 8  # of packed runs: an engine compiles for each new length


def micro_batches(lengths: Sequence[int], token_budget: int) -> list[list[int]]:
    """Return the rows of each batch, shortest first, at the lowest total cost of padding and runs.

    A run of n rows of at most T pieces costs n * T + RUN_COST; dynamic programming finds the cheapest cuts of the sorted rows.
    n * T stays within `token_budget` (one row always fits).
    """
    order = sorted(range(len(lengths)), key=lambda row: lengths[row])
    least, cut = [0], [0]  # for the first k rows: cost, and where their last batch begins
    for end in range(1, len(order) + 1):
        longest = lengths[order[end - 1]]
        most = max(1, min(MAX_ROWS, token_budget // longest))
        cost, begin = min((least[begin] + (end - begin) * longest, begin) for begin in range(max(0, end - most), end))
        least.append(cost + RUN_COST)
        cut.append(begin)
    batches: list[list[int]] = []
    end = len(order)
    while end:
        batches.append(order[cut[end] : end])
        end = cut[end]
    return batches[::-1]


def pad(pieces: Sequence[Sequence[int]]) -> dict[str, NDArray[np.int64]]:
    """Return `input_ids` and `attention_mask`, (B, T) with T the longest row; padding is 0 in both."""
    width = max(len(row) for row in pieces)
    ids = np.zeros((len(pieces), width), dtype=np.int64)
    mask = np.zeros_like(ids)
    for number, row in enumerate(pieces):
        ids[number, : len(row)] = row
        mask[number, : len(row)] = 1
    return {"input_ids": ids, "attention_mask": mask}


def plan_packs(lengths: Sequence[int], most: int = PACK_PIECES) -> list[list[int]]:
    """Return the rows of each packed run, in order: as few runs as average at most `most` pieces, as equal as rows allow."""
    ends = np.cumsum(lengths)
    runs = -(-int(ends[-1]) // most)
    middles = ends - np.array(lengths) / 2
    run_of = (middles * runs / ends[-1]).astype(int)
    return [np.flatnonzero(run_of == run).tolist() for run in np.unique(run_of)]


def pack(pieces: Sequence[Sequence[int]]) -> dict[str, NDArray[np.int64]]:
    """Concatenate B rows; return `input_ids`, `position_ids` within the row and `segments` (the row's number), each (P,).

    P is a multiple of `LENGTH_MULTIPLE`; the fill is one more row, whose output is ignored.
    """
    lengths = [len(row) for row in pieces]
    fill = -sum(lengths) % LENGTH_MULTIPLE
    ids = np.array([piece for row in pieces for piece in row] + [0] * fill, dtype=np.int64)
    positions = np.concatenate([np.arange(length, dtype=np.int64) for length in (*lengths, fill)])
    segments = np.repeat(np.arange(len(lengths) + 1, dtype=np.int64), [*lengths, fill])
    return {"input_ids": ids, "position_ids": positions, "segments": segments}
