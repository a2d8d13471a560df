"""GPU memory that a LoRA fine-tuning of a Llama-shaped model needs, and the largest batch that a card holds.

Counted operation by operation for transformers' modules, attention fused (no T x T matrix is kept), adapters in fp32 under bf16
autocast, AdamW. The counts of activations are held against bytes counted on a CPU by a test; no GPU has confirmed the sum.
"""

import argparse
import json
from pathlib import Path
from typing import Any, NamedTuple, Self

from rich.console import Console
from rich.table import Table

from pipeline.errors import InputError, run_stage
from pipeline.params import Causal, load_params

GIB = 2**30
CARDS_GIB = (12, 24)
CONTEXT_BYTES = GIB // 2  # CUDA's own, and its libraries'
SLACK = 0.05  # of a card: what the allocator cannot use
QUANTISED_BITS = {"none": 16.0, "8bit": 8.0, "4bit": 4.127}  # of a weight; NF4 with its constants quantised too (QLoRA, 2023)


class Shape(NamedTuple):
    """Of a Llama-shaped model."""

    vocab: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    tied: bool

    @classmethod
    def of(cls, config: dict[str, Any]) -> Self:
        """From a model's config.json; raises `KeyError` where it is of another kind."""
        heads = config["num_attention_heads"]
        sizes = [int(config[name]) for name in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")]
        tied = bool(config.get("tie_word_embeddings", False))
        return cls(sizes[0], sizes[1], sizes[2], sizes[3], heads, config.get("num_key_value_heads") or heads, tied)

    @property
    def kv_width(self) -> int:
        """Of keys, and of values."""
        return self.hidden // self.heads * self.kv_heads

    def sides(self) -> dict[str, tuple[int, int]]:
        """(in, out) of each linear map of a layer."""
        h, f = self.hidden, self.intermediate
        attention = {"q_proj": (h, h), "k_proj": (h, self.kv_width), "v_proj": (h, self.kv_width), "o_proj": (h, h)}
        return attention | {"gate_proj": (h, f), "up_proj": (h, f), "down_proj": (f, h)}

    def linear_weights(self) -> int:
        """In all layers: what is quantised."""
        return self.layers * sum(inner * outer for inner, outer in self.sides().values())

    def other_weights(self) -> int:
        """Embedding, head and norms: what is not."""
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
        """All of it."""
        return sum(self)


def targets(causal: Causal, shape: Shape) -> list[str]:
    """The maps that have adapters."""
    every = list(shape.sides())
    return every if causal.lora_targets == "all-linear" else [one for one in every if one in causal.lora_targets.split(",")]


def estimate(shape: Shape, causal: Causal, batch: int, length: int) -> Memory:
    """What one step of `batch` rows of `length` pieces needs."""
    tokens = batch * length
    linear = shape.linear_weights() * QUANTISED_BITS[causal.quantise] / 8
    rank = causal.lora_rank
    adapters = shape.layers * sum(rank * sum(shape.sides()[one]) for one in targets(causal, shape))
    layer = tokens * layer_bytes(shape, causal)
    activations = shape.layers * layer
    if causal.checkpointing == "layers":
        activations = shape.layers * tokens * 2 * shape.hidden + layer  # inputs of all, the inside of one
    return Memory(int(linear) + 2 * shape.other_weights(), 16 * adapters, activations, tokens * logit_bytes(shape), CONTEXT_BYTES)


def layer_bytes(shape: Shape, causal: Causal) -> int:
    """Kept for the backward pass by one layer, for each piece.

    A frozen map keeps nothing. The two norms keep their input in fp32 and its scale; attention keeps query, key, value, its
    output and a sum a head; SwiGLU (Shazeer 2020) keeps both of its factors and what the activation is of; an adapter keeps its
    input, the mask of its dropout and what is between its two maps.
    """
    h, f = shape.hidden, shape.intermediate
    norms = 2 * (4 * h + 4)
    attention = 2 * (h + 2 * h + h) + 4 * shape.heads  # keys and values are repeated up to the queries' heads
    feed_forward = 3 * 2 * f
    dropped = 1 if causal.lora_dropout > 0 else 0
    adapters = sum((2 + dropped) * shape.sides()[one][0] + 2 * causal.lora_rank for one in targets(causal, shape))
    return norms + attention + feed_forward + adapters


def logit_bytes(shape: Shape) -> int:
    """For each piece: logits in 16 bits, in fp32, their logarithm and their gradient, the last norm's input."""
    return (2 + 4 + 4 + 4) * shape.vocab + 4 * shape.hidden


def largest_batch(shape: Shape, causal: Causal, length: int, card_bytes: int) -> int:
    """Rows of `length` pieces that fit; 0 when the weights alone do not."""
    room = int(card_bytes * (1 - SLACK))
    one, two = (estimate(shape, causal, batch, length).total for batch in (1, 2))
    return max(0, 1 + (room - one) // (two - one))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path, help="config.json of a Llama-shaped model")
    parser.add_argument("--length", type=int, default=None, help="pieces in a row; by default causal.packed_pieces")
    args = parser.parse_args()
    causal = load_params().causal
    length = args.length or causal.packed_pieces
    try:
        shape = Shape.of(json.loads(args.config.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError) as error:
        raise InputError(str(args.config), f"this is no config of a Llama-shaped model: {error!r}", "name one") from None
    shown = Table("base", "activations", *(f"{card} GB: rows of {length}" for card in CARDS_GIB), "GiB at batch 8")
    for bits in QUANTISED_BITS:
        for checkpointing in ("none", "layers"):
            one = causal.model_copy(update={"quantise": bits, "checkpointing": checkpointing})
            fits = [str(largest_batch(shape, one, length, card * GIB)) for card in CARDS_GIB]
            total = estimate(shape, one, 8, length).total / GIB
            kept = "kept" if checkpointing == "none" else "computed again"
            shown.add_row("16 bit" if bits == "none" else bits, kept, *fits, f"{total:.1f}")
    Console(soft_wrap=True).print(shown, "estimated, not confirmed on a GPU", sep="\n")


if __name__ == "__main__":
    run_stage(main)
