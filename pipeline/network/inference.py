"""Passes without gradients: embeddings and logits of many texts, sorted by length, given back in the callers' order."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from tqdm import tqdm

from pipeline.network.batching import Pieces, pad, sorted_batches
from pipeline.network.precision import Precision, autocast

Collate = Callable[[Sequence[int]], dict[str, Tensor]]  # rows → `input_ids` or what stands for them, `attention_mask`
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
    """`forward(input_ids, attention_mask)` over all rows → (N, …) fp32 on the CPU, in their order; `device` is the model's.

    With `progress` a bar of that name is shown.
    """
    outputs: list[Tensor] = []
    rows: list[int] = []
    with torch.inference_mode(), autocast(device.type, precision):
        batches = sorted_batches([len(own) for own in pieces], batch_size)
        for batch in tqdm(batches, desc=progress, unit="batch", mininterval=1.0, dynamic_ncols=True, disable=progress is None):
            padded = collate(batch) if collate else pad(pieces, batch)
            outputs.append(forward(padded["input_ids"].to(device), padded["attention_mask"].to(device)).float().cpu())
            rows += batch
    back = torch.empty(len(rows), dtype=torch.int64)
    back[torch.tensor(rows, dtype=torch.int64)] = torch.arange(len(rows))
    return torch.cat(outputs)[back].clone()
