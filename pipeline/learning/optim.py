"""Parameter groups and optimiser: adapters and head each with their own peak rate."""

import torch
from torch import nn

from pipeline.params import Train


def adamw(classifier: nn.Module, train: Train) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter 2019) over what is trainable; the head, being young, learns faster and without decay."""
    head = [p for name, p in classifier.named_parameters() if p.requires_grad and name.startswith("head.")]
    adapters = [p for name, p in classifier.named_parameters() if p.requires_grad and not name.startswith("head.")]
    groups = [
        {"params": adapters, "lr": train.encoder_lr, "weight_decay": train.weight_decay},
        {"params": head, "lr": train.head_lr, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups)
