"""The estimate of GPU memory: weights against published counts, activations against bytes counted on a CPU."""

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from pipeline.network.adapters import make_trainable
from pipeline.params import Causal, Params
from pipeline.tuning.gpu_memory import GIB, Shape, estimate, largest_batch, layer_bytes, logit_bytes

LLAMA_2_7B = Shape(32000, 4096, 11008, 32, 32, 32, False)
MISTRAL_7B = Shape(32000, 4096, 14336, 32, 32, 8, False)
TINY = {"vocab_size": 64, "hidden_size": 64, "intermediate_size": 160, "num_attention_heads": 4}
BATCH, LENGTH = 3, 32


@pytest.mark.parametrize(("shape", "published"), [(LLAMA_2_7B, 6_738_415_616), (MISTRAL_7B, 7_241_732_096)])
def test_weights_are_those_of_the_published_models(shape: Shape, published: int) -> None:
    assert shape.linear_weights() + shape.other_weights() == published


def counted(causal: Causal, layers: int, kv_heads: int) -> int:
    """Count the bytes that a forward pass in bf16 autocast stores for the backward pass, without weights."""
    torch.manual_seed(1)
    config = LlamaConfig(**TINY, num_hidden_layers=layers, num_key_value_heads=kv_heads)
    model = make_trainable(LlamaForCausalLM(config).to(torch.bfloat16).requires_grad_(False), causal).train()
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    saved: dict[int, Tensor] = {}

    def record(tensor: Tensor) -> Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    ids = torch.randint(0, 64, (BATCH, LENGTH))
    with torch.autograd.graph.saved_tensors_hooks(record, lambda tensor: tensor), torch.autocast("cpu", torch.bfloat16):
        model(input_ids=ids, use_cache=False)
    return sum(tensor.untyped_storage().nbytes() for address, tensor in saved.items() if address not in weights)


@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("changes", [{}, {"lora_targets": "all-linear"}], ids=str)
def test_a_layers_activations_are_those_counted_on_a_cpu(params: Params, changes: dict[str, object], kv_heads: int) -> None:
    """Three layers minus two are one layer; rotary tables, masks and the head cancel out."""
    causal = params.causal.model_copy(update={"lora_dropout": 0.0, **changes})  # a mask has 1 byte a number on a GPU, 4 here
    shape = Shape.from_config(TINY | {"num_hidden_layers": 2, "num_key_value_heads": kv_heads})
    per_piece = (counted(causal, 3, kv_heads) - counted(causal, 2, kv_heads)) / (BATCH * LENGTH)
    assert layer_bytes(shape, causal) == pytest.approx(per_piece, rel=0.1)


def test_the_largest_batch_fits_and_one_more_row_does_not(params: Params) -> None:
    causal = params.causal.model_copy(update={"quantise": "4bit", "checkpointing": "layers"})
    rows = largest_batch(LLAMA_2_7B, causal, 512, 12 * GIB)
    available = 0.95 * 12 * GIB
    assert estimate(LLAMA_2_7B, causal, rows, 512).total <= available < estimate(LLAMA_2_7B, causal, rows + 1, 512).total


def test_a_card_that_cannot_hold_the_weights_holds_no_row(params: Params) -> None:
    assert largest_batch(LLAMA_2_7B, params.causal, 512, 12 * GIB) == 0  # 12.6 GiB in 16 bits


def test_fewer_bits_and_recomputed_activations_fit_more_rows(params: Params) -> None:
    changes = [{}, {"quantise": "8bit"}, {"quantise": "4bit"}, {"quantise": "4bit", "checkpointing": "layers"}]
    rows = [largest_batch(MISTRAL_7B, params.causal.model_copy(update=change), 512, 24 * GIB) for change in changes]
    assert rows == sorted(rows)
    assert len(set(rows)) == len(rows)


def test_logits_count_for_each_piece(params: Params) -> None:
    wider = LLAMA_2_7B._replace(vocab=64000)
    narrow_bytes, wide_bytes = (estimate(shape, params.causal, 1, 100).logits for shape in (LLAMA_2_7B, wider))
    assert wide_bytes - narrow_bytes == 100 * 14 * 32000
    assert narrow_bytes == 100 * logit_bytes(LLAMA_2_7B)
