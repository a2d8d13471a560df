"""Estimates the GPU memory of a LoRA fine-tuning of a Llama-shaped model, and the largest batch that a card holds.

Memory is counted operation by operation for transformers' modules: fused attention (no T x T matrix is stored), adapters in
fp32 under bf16 autocast, AdamW. A test compares the activations with bytes counted on a CPU; no GPU has confirmed the sum.
"""

import argparse
import json
from pathlib import Path
from typing import Any, NamedTuple, Self

from rich.table import Table

from pipeline.errors import InputError, run_stage
from pipeline.output.terminal import Terminal
from pipeline.params import Causal, load_params

GIB = 2**30
CARDS_GIB = (12, 24)
CONTEXT_BYTES = GIB // 2  # of CUDA and its libraries
SLACK = 0.05  # share of a card that the allocator cannot use
QUANTISED_BITS = {"none": 16.0, "8bit": 8.0, "4bit": 4.127}  # of a weight; NF4 with its constants quantised too (QLoRA, 2023)


class Shape(NamedTuple):
    """The sizes of a Llama-shaped model."""

    vocab: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    tied: bool

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Read a model's config.json; raise `KeyError` for another kind of model."""
        heads = config["num_attention_heads"]
        sizes = [int(config[name]) for name in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")]
        tied = bool(config.get("tie_word_embeddings", False))
        return cls(sizes[0], sizes[1], sizes[2], sizes[3], heads, config.get("num_key_value_heads") or heads, tied)

    @property
    def kv_width(self) -> int:
        """Return the width of keys, and of values."""
        return self.hidden // self.heads * self.kv_heads

    def linear_maps(self) -> dict[str, tuple[int, int]]:
        """Return (in, out) of each linear map of a layer."""
        h, f = self.hidden, self.intermediate
        attention = {"q_proj": (h, h), "k_proj": (h, self.kv_width), "v_proj": (h, self.kv_width), "o_proj": (h, h)}
        return attention | {"gate_proj": (h, f), "up_proj": (h, f), "down_proj": (f, h)}

    def linear_weights(self) -> int:
        """Count the weights of the linear maps of all layers, which are quantised."""
        return self.layers * sum(inner * outer for inner, outer in self.linear_maps().values())

    def other_weights(self) -> int:
        """Count the weights of embedding, head and norms, which are not quantised."""
        return (1 if self.tied else 2) * self.vocab * self.hidden + (2 * self.layers + 1) * self.hidden


class Memory(NamedTuple):
    """Bytes by part."""

    weights: int
    adapters: int  # with gradients and two moments, all in fp32
    activations: int
    logits: int
    context: int

    @property
    def total(self) -> int:
        """Return the sum of all parts."""
        return sum(self)


def adapted_maps(causal: Causal, shape: Shape) -> list[str]:
    """Return the linear maps that have adapters."""
    names = list(shape.linear_maps())
    return names if causal.lora_targets == "all-linear" else [name for name in names if name in causal.lora_targets.split(",")]


def estimate(shape: Shape, causal: Causal, batch: int, length: int) -> Memory:
    """Estimate the memory of one step with `batch` rows of `length` pieces."""
    tokens = batch * length
    linear = shape.linear_weights() * QUANTISED_BITS[causal.quantise] / 8
    rank = causal.lora_rank
    adapters = shape.layers * sum(rank * sum(shape.linear_maps()[name]) for name in adapted_maps(causal, shape))
    layer = tokens * layer_bytes(shape, causal)
    activations = shape.layers * layer
    if causal.checkpointing == "layers":
        activations = shape.layers * tokens * 2 * shape.hidden + layer  # inputs of all layers, activations inside one
    return Memory(int(linear) + 2 * shape.other_weights(), 16 * adapters, activations, tokens * logit_bytes(shape), CONTEXT_BYTES)


def layer_bytes(shape: Shape, causal: Causal) -> int:
    """Count the bytes that one layer stores for the backward pass, for each piece.

    A frozen map stores nothing. The two norms store their input in fp32 and its scale. Attention stores query, key, value, its
    output and one sum for each head. SwiGLU (Shazeer 2020) stores both factors and the input of its activation. An adapter
    stores its input, its dropout mask and the values between its two maps.
    """
    h, f = shape.hidden, shape.intermediate
    norms = 2 * (4 * h + 4)
    attention = 2 * (h + 2 * h + h) + 4 * shape.heads  # keys and values are repeated up to the queries' heads
    feed_forward = 3 * 2 * f
    dropped = 1 if causal.lora_dropout > 0 else 0
    widths = [shape.linear_maps()[name][0] for name in adapted_maps(causal, shape)]
    adapters = sum((2 + dropped) * width + 2 * causal.lora_rank for width in widths)
    return norms + attention + feed_forward + adapters


def logit_bytes(shape: Shape) -> int:
    """Count the bytes for each piece: logits in 16 bits and fp32, their logarithm and gradient, and the last norm's input."""
    return (2 + 4 + 4 + 4) * shape.vocab + 4 * shape.hidden


def largest_batch(shape: Shape, causal: Causal, length: int, card_bytes: int) -> int:
    """Return how many rows of `length` pieces fit; 0 when the weights alone do not fit."""
    available = int(card_bytes * (1 - SLACK))
    one_row, two_rows = (estimate(shape, causal, batch, length).total for batch in (1, 2))
    return max(0, 1 + (available - one_row) // (two_rows - one_row))


def table(shape: Shape, causal: Causal, length: int) -> Table:
    """Return the largest batch on each card, for every way to hold the base and the activations."""
    rows = Table("base", "activations", *(f"{card} GB: rows of {length}" for card in CARDS_GIB), "GiB at batch 8")
    for bits in QUANTISED_BITS:
        for checkpointing in ("none", "layers"):
            settings = causal.model_copy(update={"quantise": bits, "checkpointing": checkpointing})
            fits = [str(largest_batch(shape, settings, length, card * GIB)) for card in CARDS_GIB]
            total = estimate(shape, settings, 8, length).total / GIB
            activations = "stored" if checkpointing == "none" else "recomputed"
            rows.add_row("16 bit" if bits == "none" else bits, activations, *fits, f"{total:.1f}")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path, help="config.json of a Llama-shaped model")
    parser.add_argument("--length", type=int, default=None, help="tokens in a row; by default causal.packed_pieces")
    args = parser.parse_args()
    causal = load_params().causal
    length = args.length or causal.packed_pieces
    try:
        shape = Shape.from_config(json.loads(args.config.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError) as error:
        what = f"this is not the config of a Llama-shaped model: {error!r}"
        raise InputError(str(args.config), what, "give the config.json of one") from None
    Terminal().print(table(shape, causal, length), "estimated, not confirmed on a GPU", sep="\n")


if __name__ == "__main__":
    run_stage(main)
