"""The network: an encoder with mean pooling and a cosine head; LoRA adapters on it, and merged out of it."""

import warnings
from math import sqrt
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModel

from pipeline.errors import InputError
from pipeline.params import Model

Batch = dict[str, Tensor]


class CosineHead(nn.Module):
    """logits = scale · cos(embedding, class vector), as in "Large Margin Cosine" heads (Wang et al. 2018) without margin."""

    def __init__(self, classes: int, width: int, scale: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(classes, width))
        nn.init.normal_(self.weight)
        self.scale = scale

    def forward(self, embedding: Tensor) -> Tensor:
        """(B, width) → (B, classes)."""
        cosine: Tensor = F.normalize(embedding, dim=-1) @ F.normalize(self.weight, dim=-1).T
        return self.scale * cosine


class TextClassifier(nn.Module):
    """Text pieces in, one logit a class out."""

    def __init__(self, encoder: nn.Module, head: CosineHead) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head

    def embed(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(B, T) → (B, width): the mean of the last hidden states over real pieces, in fp32."""
        hidden: Tensor = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state.float()
        mask = attention_mask.unsqueeze(-1).float()  # (B, T, 1)
        summed = (hidden * mask).sum(dim=1)
        return summed / mask.sum(dim=1).clamp(min=1.0)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(B, T) → (B, classes)."""
        logits: Tensor = self.head(self.embed(input_ids, attention_mask))
        return logits


class WithSketch(nn.Module):
    """The exported form: logits, and a seeded random projection of the embedding that drift is measured on."""

    projection: Tensor  # (width, sketch_size)

    def __init__(self, classifier: TextClassifier, projection: Tensor) -> None:
        super().__init__()
        self.classifier = classifier
        self.register_buffer("projection", projection)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T) → (B, classes), (B, sketch_size)."""
        embedding = self.classifier.embed(input_ids, attention_mask)
        logits: Tensor = self.classifier.head(embedding)
        sketch: Tensor = F.normalize(embedding, dim=-1) @ self.projection
        return logits, sketch


def sketch_projection(width: int, model: Model) -> Tensor:
    """(width, sketch_size) Gaussian entries over sqrt(sketch_size): distances are kept on average (Johnson-Lindenstrauss)."""
    generator = torch.Generator().manual_seed(model.sketch_seed)
    return torch.randn(width, model.sketch_size, generator=generator) / sqrt(model.sketch_size)


def load_encoder(folder: Path, dropout: float = 0.0) -> nn.Module:
    """The frozen base encoder in fp32, without its unused pooler where it has one; `dropout` acts while training."""
    transformers.utils.logging.disable_progress_bar()
    encoder: Any = AutoModel.from_pretrained(folder, dtype=torch.float32, trust_remote_code=False)
    if hasattr(encoder, "pooler"):
        encoder.pooler = None
    for module in encoder.modules():
        if isinstance(module, nn.Dropout):
            module.p = dropout
    frozen: nn.Module = encoder.requires_grad_(False)
    return frozen


def add_lora(encoder: nn.Module, model: Model) -> PeftModel:
    """The encoder with trainable low-rank adapters (Hu et al. 2021) on the modules that params name."""
    targets = model.lora_targets if model.lora_targets == "all-linear" else model.lora_targets.replace(" ", "").split(",")
    config = LoraConfig(
        r=model.lora_rank, lora_alpha=model.lora_alpha, lora_dropout=model.lora_dropout, target_modules=targets, bias="none"
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)  # peft 0.21 asks transformers 5 for it
        return get_peft_model(encoder, config)


def build(folder: Path, classes: int, model: Model) -> TextClassifier:
    """Base encoder, fresh adapters and a fresh head."""
    encoder = load_encoder(folder, model.dropout)
    width: int = encoder.config.hidden_size  # type: ignore[union-attr,assignment]
    return TextClassifier(add_lora(encoder, model), CosineHead(classes, width, model.head_scale))


def trainable_state(classifier: nn.Module) -> dict[str, Tensor]:
    """Copies of the parameters that training changes: adapters and head."""
    return {name: p.detach().clone() for name, p in classifier.named_parameters() if p.requires_grad}


def restore(folder: Path, state: dict[str, Tensor], classes: int, model: Model) -> TextClassifier:
    """The trained classifier in evaluation mode; `state` is what `trainable_state` gave, else `InputError`."""
    classifier = build(folder, classes, model)
    own = trainable_state(classifier)
    unlike = sorted(n for n in own.keys() | state.keys() if n not in own or n not in state or own[n].shape != state[n].shape)
    if unlike:
        what = f"it does not fit section model of params.yaml: {len(unlike)} parameters differ, the first is {unlike[0]}"
        raise InputError(
            "the trained model", what, "train again: .venv/bin/dvc repro; or bring back the params it was trained with"
        )
    classifier.load_state_dict(state, strict=False)
    return classifier.eval()


def merge(classifier: TextClassifier) -> TextClassifier:
    """Adapters added into the weights, in the fp32 the weights are kept in; merging in less changes answers."""
    encoder = classifier.encoder.merge_and_unload() if isinstance(classifier.encoder, PeftModel) else classifier.encoder
    return TextClassifier(encoder, classifier.head).eval()
