"""A randomly initialised Llama with a few thousand parameters."""

from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

WORDS = 40
SHAPE = {
    "vocab_size": WORDS,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
}


def save_tiny_llama(folder: Path) -> Path:
    """Write the files of the base model."""
    torch.manual_seed(4)
    LlamaForCausalLM(LlamaConfig(**SHAPE)).save_pretrained(folder)
    return folder
