"""Memory by parts, against hand counts."""

import torch
from torch import nn

from pipeline.learning.memory_use import memory_by_part


def test_parts_are_counted_in_bytes_and_add_up_to_the_peak() -> None:
    model = nn.Sequential(nn.Linear(10, 20, bias=False), nn.Linear(20, 3, bias=False))
    model[0].to(torch.bfloat16).requires_grad_(False)
    optimizer = torch.optim.AdamW(model[1].parameters())
    model[1](torch.ones(20)).sum().backward()
    optimizer.step()
    found = memory_by_part(model, optimizer)
    assert found["frozen"] == 2 * 10 * 20
    assert found["trained"] == found["gradients"] == 4 * 20 * 3
    assert found["optimizer"] == 2 * 4 * 20 * 3 + 4  # two moments, and the step's number
    assert found["peak"] == sum(size for name, size in found.items() if name != "peak")
    assert found["peak"] > 50_000_000  # torch itself
