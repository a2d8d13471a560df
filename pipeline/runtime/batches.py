"""Rows of like length together, padded: the arithmetic of batches."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def micro_batches(lengths: Sequence[int], token_budget: int) -> list[list[int]]:
    """Rows by batch, shortest first; a batch's longest row times its size stays within `token_budget` (one row always fits)."""
    batches: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda row: lengths[row]):
        if batches and lengths[row] * (len(batches[-1]) + 1) <= token_budget:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches


def pad(pieces: Sequence[Sequence[int]]) -> dict[str, NDArray[np.int64]]:
    """`input_ids` and `attention_mask`, (B, T) with T the longest row's pieces; padding is 0 in both."""
    width = max(len(own) for own in pieces)
    ids = np.zeros((len(pieces), width), dtype=np.int64)
    mask = np.zeros_like(ids)
    for line, own in enumerate(pieces):
        ids[line, : len(own)] = own
        mask[line, : len(own)] = 1
    return {"input_ids": ids, "attention_mask": mask}
