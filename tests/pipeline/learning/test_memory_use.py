"""Memory by part, against hand counts."""

import torch
from torch import nn

from pipeline.learning.memory_use import memory_by_part


def test_parts_are_counted_in_bytes_and_add_up_to_the_peak() -> None:
    model = nn.Sequential(nn.Linear(10, 20, bias=False), nn.Linear(20, 3, bias=False))
    model[0].to(torch.bfloat16).requires_grad_(False)
    optimizer = torch.optim.AdamW(model[1].parameters())
    model[1](torch.ones(20)).sum().backward()
    optimizer.step()
    parts = memory_by_part(model, optimizer)
    assert parts["frozen"] == 2 * 10 * 20
    assert parts["trained"] == parts["gradients"] == 4 * 20 * 3
    assert parts["optimizer"] == 2 * 4 * 20 * 3 + 4  # two moments, and the step count
    assert parts["peak"] == sum(size for name, size in parts.items() if name != "peak")
    assert parts["peak"] > 50_000_000  # torch itself
