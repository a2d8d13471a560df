"""Inference without gradients over many texts, sorted by length; results are in the caller's order."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pipeline.network.batching import Pieces, pad, sorted_batches
from pipeline.network.precision import Precision, autocast
from pipeline.output.progress import progress_bar

Collate = Callable[[Sequence[int]], dict[str, Tensor]]  # rows → `input_ids` (or hidden states), `attention_mask`
CPU = torch.device("cpu")


def infer_in_batches(
    forward: Callable[[Tensor, Tensor], Tensor],
    pieces: Pieces,
    *,
    batch_size: int,
    precision: Precision,
    device: torch.device = CPU,
    collate: Collate | None = None,
    progress: str | None = None,
) -> Tensor:
    """Return `forward(input_ids, attention_mask)` of all rows as (N, …) fp32 on the CPU; `device` is the model's.

    `progress` shows a bar of that name.
    """
    outputs: list[Tensor] = []
    rows: list[int] = []
    with torch.inference_mode(), autocast(device.type, precision):
        batches = sorted_batches([len(text) for text in pieces], batch_size)
        for batch in progress_bar(batches, desc=progress, unit="batch", disable=progress is None):
            padded = collate(batch) if collate else pad(pieces, batch)
            outputs.append(forward(padded["input_ids"].to(device), padded["attention_mask"].to(device)).float().cpu())
            rows += batch
    position = torch.empty(len(rows), dtype=torch.int64)
    position[torch.tensor(rows, dtype=torch.int64)] = torch.arange(len(rows))
    return torch.cat(outputs)[position].clone()
