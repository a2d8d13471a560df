"""Passes without gradients: embeddings and logits of many texts, sorted by length, given back in the callers' order."""

from collections.abc import Callable

import torch
from torch import Tensor

from pipeline.learning.batching import Pieces, pad, sorted_batches
from pipeline.learning.precision import Precision

CPU = torch.device("cpu")


def in_batches(
    forward: Callable[[Tensor, Tensor], Tensor],
    pieces: Pieces,
    *,
    batch_size: int,
    precision: Precision,
    device: torch.device = CPU,
) -> Tensor:
    """`forward(input_ids, attention_mask)` over all rows → (N, …) fp32 on the CPU, in their order; `device` is the model's."""
    outputs: list[Tensor] = []
    rows: list[int] = []
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        for batch in sorted_batches([len(own) for own in pieces], batch_size):
            padded = pad(pieces, batch)
            outputs.append(forward(padded["input_ids"].to(device), padded["attention_mask"].to(device)).float().cpu())
            rows += batch
    back = torch.empty(len(rows), dtype=torch.int64)
    back[torch.tensor(rows, dtype=torch.int64)] = torch.arange(len(rows))
    return torch.cat(outputs)[back].clone()
