"""The network: an encoder with mean pooling and a cosine head, adapters on it, and merged out of it."""

from math import sqrt
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import PeftModel
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModel

from pipeline.errors import InputError
from pipeline.network.adapters import Quantise, make_trainable, quantisation_options
from pipeline.network.base_model import check_lora
from pipeline.network.bert_layers import FusedBert, why_not_fused
from pipeline.network.precision import Precision
from pipeline.params import Model

MASKED_SCORE = -1e4  # exp of it is 0 in every precision


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
        self.written: FusedBert | None = None  # computes in the encoder's stead

    def embed(self, input_ids: Tensor, attention_mask: Tensor, seed: int | None = None) -> Tensor:
        """(B, T) → (B, width): the mean of the last hidden states over real pieces, in fp32; `seed` is `WrittenBert`'s.

        Hidden states (B, T, width) may stand for the pieces, where the encoder begins at a higher layer (`prefix_cache`).
        """
        if self.written is not None:
            hidden = self.written(input_ids, attention_mask, seed if self.training else None)
        else:
            given = {"inputs_embeds" if input_ids.is_floating_point() else "input_ids": input_ids}
            hidden = self.encoder(**given, attention_mask=attention_mask).last_hidden_state.float()
        mask = attention_mask.unsqueeze(-1).float()  # (B, T, 1)
        summed = (hidden * mask).sum(dim=1)
        return summed / mask.sum(dim=1).clamp(min=1.0)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, seed: int | None = None) -> Tensor:
        """(B, T) → (B, classes)."""
        logits: Tensor = self.head(self.embed(input_ids, attention_mask, seed))
        return logits


class ExportedModel(nn.Module):
    """The exported form: logits, and a seeded random projection of the embedding that drift is measured on."""

    projection: Tensor  # (width, sketch_size)

    def __init__(self, classifier: TextClassifier, projection: Tensor) -> None:
        super().__init__()
        self.classifier = classifier
        self.register_buffer("projection", projection)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T) → (B, classes), (B, sketch_size)."""
        return self.answers(self.classifier.embed(input_ids, attention_mask))

    def answers(self, embedding: Tensor) -> tuple[Tensor, Tensor]:
        """(B, width) → (B, classes), (B, sketch_size)."""
        logits: Tensor = self.classifier.head(embedding)
        sketch: Tensor = F.normalize(embedding, dim=-1) @ self.projection
        return logits, sketch


class PackedModel(nn.Module):
    """The exported form for rows without padding, one after the other in one row (P,); `segments` tells them apart."""

    def __init__(self, exported: ExportedModel) -> None:
        super().__init__()
        self.exported = exported
        encoder: Any = exported.classifier.encoder
        self.first_position = getattr(encoder.embeddings, "padding_idx", -1) + 1  # RoBERTa counts from behind its padding

    def forward(self, input_ids: Tensor, position_ids: Tensor, segments: Tensor) -> tuple[Tensor, Tensor]:
        """(P,), (P,) from 0 in each row, (P,) ascending from 0 → (rows, classes), (rows, sketch_size)."""
        same = segments[:, None] == segments[None, :]
        bias = torch.where(same, 0.0, MASKED_SCORE)[None, None]  # (1, 1, P, P), added to attention scores
        hidden = self.exported.classifier.encoder(
            input_ids=input_ids[None], position_ids=position_ids[None] + self.first_position, attention_mask=bias
        ).last_hidden_state[0]
        rows: Any = segments.max() + 1  # a tensor, so that the traced graph keeps their number free
        member = (torch.arange(rows)[:, None] == segments[None, :]).float()  # (rows, P)
        return self.exported.answers(member @ hidden / member.sum(dim=1, keepdim=True))


def sketch_projection(width: int, model: Model) -> Tensor:
    """(width, sketch_size) Gaussian entries over sqrt(sketch_size): distances are kept on average (Johnson-Lindenstrauss)."""
    generator = torch.Generator().manual_seed(model.sketch_seed)
    return torch.randn(width, model.sketch_size, generator=generator) / sqrt(model.sketch_size)


def load_encoder(folder: Path, dropout: float = 0.0, quantise: Quantise = "none") -> nn.Module:
    """The frozen base encoder in fp32, without its unused pooler where it has one; `dropout` acts while training."""
    transformers.utils.logging.disable_progress_bar()
    encoder: Any = AutoModel.from_pretrained(
        folder, dtype=torch.float32, trust_remote_code=False, **quantisation_options(quantise)
    )
    if hasattr(encoder, "pooler"):
        encoder.pooler = None
    for module in encoder.modules():
        if isinstance(module, nn.Dropout):
            module.p = dropout
    frozen: nn.Module = encoder.requires_grad_(False)
    return frozen


def build_classifier(folder: Path, classes: int, model: Model) -> TextClassifier:
    """Base encoder, with fresh adapters or trainable as a whole, and a fresh head."""
    check_lora(folder, model)
    encoder = load_encoder(folder, model.dropout, model.quantise)
    width: int = encoder.config.hidden_size  # type: ignore[union-attr,assignment]
    return TextClassifier(make_trainable(encoder, model), CosineHead(classes, width, model.head_scale))


def use_fused_layers(classifier: TextClassifier, model: Model, precision: Precision) -> str:
    """Let written-out layers compute in the encoder's stead, where they can; says what computes now.

    Frozen weights are then kept in the precision that is computed in: of no use for `merge`, which wants them in fp32.
    """
    why_not = why_not_fused(classifier.encoder) if model.kernels == "auto" else "params say so"
    if why_not is not None:
        return f"modules: {why_not}"
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    for module in classifier.encoder.modules():
        if isinstance(module, nn.Linear | nn.Embedding) and not module.weight.requires_grad:
            module.to(dtype)
    classifier.written = FusedBert(classifier.encoder, dtype, model.dropout)
    return "written out"


def trainable_state(classifier: nn.Module) -> dict[str, Tensor]:
    """Copies of the parameters that training changes: adapters or the whole encoder, and head."""
    return {name: p.detach().cpu().clone() for name, p in classifier.named_parameters() if p.requires_grad}


def restore_classifier(folder: Path, state: dict[str, Tensor], classes: int, model: Model) -> TextClassifier:
    """The trained classifier in evaluation mode; `state` is what `trainable_state` gave, else `InputError`."""
    classifier = build_classifier(folder, classes, model)
    own = trainable_state(classifier)
    unlike = sorted(n for n in own.keys() | state.keys() if n not in own or n not in state or own[n].shape != state[n].shape)
    if unlike:
        what = f"it does not fit section model of params.yaml: {len(unlike)} parameters differ, the first is {unlike[0]}"
        raise InputError(
            "the trained model", what, "train again: .venv/bin/dvc repro; or bring back the params it was trained with"
        )
    classifier.load_state_dict(state, strict=False)
    return classifier.eval()


def merge_adapters(classifier: TextClassifier) -> TextClassifier:
    """Adapters added into the weights, in the fp32 the weights are kept in; merging in less changes answers."""
    encoder = classifier.encoder.merge_and_unload() if isinstance(classifier.encoder, PeftModel) else classifier.encoder
    return TextClassifier(encoder, classifier.head).eval()
