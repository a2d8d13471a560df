"""Inference returns results in the caller's order."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pipeline.network.inference import infer_in_batches
from pipeline.network.precision import Precision

PIECES = st.lists(st.lists(st.integers(1, 1000), min_size=1, max_size=30), min_size=1, max_size=50)


def sums(input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """(B, T) → (B, 2): the sum and the number of the real pieces."""
    return torch.stack([(input_ids * attention_mask).sum(dim=1), attention_mask.sum(dim=1)], dim=1)


@given(PIECES, st.integers(1, 60))
@settings(deadline=None)
def test_rows_come_back_in_the_callers_order_for_any_batch_size(pieces: list[list[int]], batch_size: int) -> None:
    outputs = infer_in_batches(sums, pieces, batch_size=batch_size, precision="fp32")
    assert outputs.tolist() == [[sum(text), len(text)] for text in pieces]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_outputs_are_fp32_and_need_no_gradient(precision: Precision) -> None:
    weight = torch.ones(3, 2, requires_grad=True)

    def forward(input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return (input_ids * attention_mask).float() @ weight

    outputs = infer_in_batches(forward, [[1, 2, 3], [4, 5, 6]], batch_size=1, precision=precision)
    assert outputs.dtype == torch.float32
    assert not outputs.requires_grad
    assert outputs.tolist() == [[6, 6], [15, 15]]


def test_bf16_multiplies_in_bf16_and_fp32_does_not() -> None:
    dtypes: list[torch.dtype] = []

    def forward(input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        product = input_ids.float() @ attention_mask.float().T
        dtypes.append(product.dtype)
        return product

    for precision in ("bf16", "fp32"):
        infer_in_batches(forward, [[1, 2]], batch_size=1, precision=precision)
    assert dtypes == [torch.bfloat16, torch.float32]
