"""How rows go into runs: packed one after the other without padding, or padded beside rows of like length."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

RUN_COST = 5  # padded pieces whose arithmetic takes as long as starting one more run (EXPERIMENTS: micro-batches)
MAX_ROWS = 64  # in one run; more brings nothing
PACK_PIECES = 128  # pieces in one packed run: more brings nothing, and attention costs their square (EXPERIMENTS: packing)
LENGTH_MULTIPLE = 8  # packed runs are as long as a multiple of this: an engine prepares itself for each new length


def micro_batches(lengths: Sequence[int], token_budget: int) -> list[list[int]]:
    """Rows by batch, shortest first, so cut that padding and runs together cost least.

    A run of n rows, T the longest, costs n * T + START; the cuts of the sorted rows with the smallest sum are found by dynamic
    programming. n * T stays within `token_budget` (one row always fits).
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
    """`input_ids` and `attention_mask`, (B, T) with T the longest row's pieces; padding is 0 in both."""
    width = max(len(own) for own in pieces)
    ids = np.zeros((len(pieces), width), dtype=np.int64)
    mask = np.zeros_like(ids)
    for line, own in enumerate(pieces):
        ids[line, : len(own)] = own
        mask[line, : len(own)] = 1
    return {"input_ids": ids, "attention_mask": mask}


def plan_packs(lengths: Sequence[int], most: int = PACK_PIECES) -> list[list[int]]:
    """Rows by packed run, in their order: as few runs as hold `most` pieces each on average, as equal as rows allow."""
    ends = np.cumsum(lengths)
    runs = -(-int(ends[-1]) // most)
    middles = ends - np.array(lengths) / 2
    run_of = (middles * runs / ends[-1]).astype(int)
    return [np.flatnonzero(run_of == run).tolist() for run in np.unique(run_of)]


def pack(pieces: Sequence[Sequence[int]]) -> dict[str, NDArray[np.int64]]:
    """B rows after one another, (P,) each: `input_ids`, `position_ids` within the row, and the row's number in `segments`.

    P is a multiple of `STEP`; what fills it up is one more row, whose answer nobody reads.
    """
    lengths = [len(own) for own in pieces]
    fill = -sum(lengths) % LENGTH_MULTIPLE
    ids = np.array([one for own in pieces for one in own] + [0] * fill, dtype=np.int64)
    positions = np.concatenate([np.arange(length, dtype=np.int64) for length in (*lengths, fill)])
    segments = np.repeat(np.arange(len(lengths) + 1, dtype=np.int64), [*lengths, fill])
    return {"input_ids": ids, "position_ids": positions, "segments": segments}
