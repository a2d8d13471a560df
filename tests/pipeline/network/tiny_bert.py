"""A randomly initialised BERT with a few thousand parameters, for tests of numerics."""

from pathlib import Path

import torch
from transformers import BertConfig, BertModel

from pipeline.network.classifier import TextClassifier, build_classifier
from pipeline.params import Model

WORDS = 50


def save_tiny_bert(folder: Path, layers: int = 2) -> Path:
    """Write the files of the base model."""
    torch.manual_seed(5)
    config = BertConfig(
        vocab_size=WORDS,
        hidden_size=24,
        num_hidden_layers=layers,
        num_attention_heads=3,
        intermediate_size=48,
        max_position_embeddings=40,
        initializer_range=0.3,
    )
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder


def tiny_classifier(folder: Path, model: Model, classes: int = 3) -> TextClassifier:
    """Return a classifier whose adapters have an effect; new ones have B = 0."""
    torch.manual_seed(6)
    classifier = build_classifier(folder, classes, model)
    with torch.no_grad():
        for name, p in classifier.named_parameters():
            if "lora_B" in name:
                p.normal_(std=0.3)
    return classifier.train()
