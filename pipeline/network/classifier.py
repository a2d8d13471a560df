"""The text classifier: an encoder with adapters, mean pooling and a cosine head; and the forms in which it is exported."""

from math import sqrt
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import PeftModel
from peft.tuners.lora import Linear as LoraLinear
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModel, BertModel

from pipeline.errors import InputError
from pipeline.network.adapters import Quantise, make_trainable, quantisation_options
from pipeline.network.base_model import check_lora
from pipeline.network.bert_layers import MASKED_SCORE, FusedBert
from pipeline.network.precision import Precision
from pipeline.params import Model


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
    """Maps text pieces to one logit per class."""

    def __init__(self, encoder: nn.Module, head: CosineHead) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head
        self.fused: FusedBert | None = None  # computes in place of the encoder

    def embed(self, input_ids: Tensor, attention_mask: Tensor, seed: int | None = None) -> Tensor:
        """(B, T) → (B, width): the mean of the last hidden states over real pieces, in fp32; `seed` is `FusedBert`'s.

        Accepts hidden states (B, T, width) as `input_ids` when the encoder starts at a higher layer (`prefix_cache`).
        """
        if self.fused is not None:
            hidden = self.fused(input_ids, attention_mask, seed if self.training else None)
        else:
            inputs = {"inputs_embeds" if input_ids.is_floating_point() else "input_ids": input_ids}
            hidden = self.encoder(**inputs, attention_mask=attention_mask).last_hidden_state.float()
        mask = attention_mask.unsqueeze(-1).float()  # (B, T, 1)
        summed = (hidden * mask).sum(dim=1)
        return summed / mask.sum(dim=1).clamp(min=1.0)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, seed: int | None = None) -> Tensor:
        """(B, T) → (B, classes)."""
        logits: Tensor = self.head(self.embed(input_ids, attention_mask, seed))
        return logits


class ExportedModel(nn.Module):
    """The exported form: returns logits and a sketch, a seeded random projection of the embedding used to detect drift."""

    projection: Tensor  # (width, sketch_size)

    def __init__(self, classifier: TextClassifier, projection: Tensor) -> None:
        super().__init__()
        self.classifier = classifier
        self.register_buffer("projection", projection)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T) → (B, classes), (B, sketch_size)."""
        return self.outputs(self.classifier.embed(input_ids, attention_mask))

    def outputs(self, embedding: Tensor) -> tuple[Tensor, Tensor]:
        """(B, width) → (B, classes), (B, sketch_size)."""
        logits: Tensor = self.classifier.head(embedding)
        sketch: Tensor = F.normalize(embedding, dim=-1) @ self.projection
        return logits, sketch


class PackedModel(nn.Module):
    """The exported form for packed rows: concatenated without padding into one row (P,); `segments` separates them."""

    def __init__(self, exported: ExportedModel) -> None:
        super().__init__()
        self.exported = exported
        encoder: Any = exported.classifier.encoder
        self.first_position = getattr(encoder.embeddings, "padding_idx", -1) + 1  # RoBERTa starts after its padding

    def forward(self, input_ids: Tensor, position_ids: Tensor, segments: Tensor) -> tuple[Tensor, Tensor]:
        """(P,), (P,) from 0 in each row, (P,) ascending from 0 → (rows, classes), (rows, sketch_size)."""
        same = segments[:, None] == segments[None, :]
        bias = torch.where(same, 0.0, MASKED_SCORE)[None, None]  # (1, 1, P, P), added to attention scores
        hidden = self.exported.classifier.encoder(
            input_ids=input_ids[None], position_ids=position_ids[None] + self.first_position, attention_mask=bias
        ).last_hidden_state[0]
        rows: Any = segments.max() + 1  # a tensor, so that the row count stays dynamic in the traced graph
        member = (torch.arange(rows)[:, None] == segments[None, :]).float()  # (rows, P)
        return self.exported.outputs(member @ hidden / member.sum(dim=1, keepdim=True))


def sketch_projection(width: int, model: Model) -> Tensor:
    """Return (width, sketch_size) Gaussian entries / sqrt(sketch_size), which preserve distances (Johnson-Lindenstrauss)."""
    generator = torch.Generator().manual_seed(model.sketch_seed)
    return torch.randn(width, model.sketch_size, generator=generator) / sqrt(model.sketch_size)


def load_encoder(folder: Path, dropout: float = 0.0, quantise: Quantise = "none") -> nn.Module:
    """Load the frozen base encoder in fp32, without a pooler; `dropout` is active while training."""
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
    """Return the base encoder with new adapters (or fully trainable) and a randomly initialised head."""
    check_lora(folder, model)
    encoder = load_encoder(folder, model.dropout, model.quantise)
    width: int = encoder.config.hidden_size  # type: ignore[union-attr,assignment]
    return TextClassifier(make_trainable(encoder, model), CosineHead(classes, width, model.head_scale))


def use_fused_layers(classifier: TextClassifier, model: Model, precision: Precision) -> str:
    """Replace the encoder with fused layers if possible; return what computes now: "fused", or "modules: " and the reason.

    Frozen weights are cast to the compute precision, so `merge_adapters`, which needs fp32, must not follow.
    """
    why_not = why_not_fused(classifier.encoder) if model.kernels == "auto" else "model.kernels is modules"
    if why_not is not None:
        return f"modules: {why_not}"
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    for module in classifier.encoder.modules():
        if isinstance(module, nn.Linear | nn.Embedding) and not module.weight.requires_grad:
            module.to(dtype)
    classifier.fused = FusedBert(classifier.encoder, dtype, model.dropout)
    return "fused"


def why_not_fused(encoder: nn.Module) -> str | None:
    """Return why the fused layers cannot replace this encoder, or None if they can."""
    if not isinstance(encoder, PeftModel) or type(encoder.get_base_model()) is not BertModel:
        return "the encoder is not a BERT with adapters"
    bert: Any = encoder.get_base_model()
    if bert.config.hidden_act != "gelu":
        return f"its activation is {bert.config.hidden_act}"
    if torch.cuda.is_available():
        return "there is a GPU, whose kernels are faster"
    if any(p.requires_grad and "lora_" not in name for name, p in encoder.named_parameters()):
        return "more than adapters is trained"
    if any(getattr(module, "gradient_checkpointing", False) for module in bert.modules()):
        return "gradient checkpointing is on"
    return _why_adapters_not_fused(encoder)


def _why_adapters_not_fused(encoder: PeftModel) -> str | None:
    adapted = [(name, module) for name, module in encoder.named_modules() if isinstance(module, BaseTunerLayer)]
    if any(".encoder.layer." not in name or not isinstance(module, LoraLinear) for name, module in adapted):
        return "there are adapters outside the layers"
    if any(isinstance(module.lora_dropout["default"], nn.Dropout) for _, module in adapted):
        return "adapters with dropout cannot be merged"
    return None


def trainable_state(classifier: nn.Module) -> dict[str, Tensor]:
    """Return copies of the trained parameters on the CPU: adapters or the whole encoder, and head."""
    return {name: p.detach().cpu().clone() for name, p in classifier.named_parameters() if p.requires_grad}


def restore_classifier(folder: Path, state: dict[str, Tensor], classes: int, model: Model) -> TextClassifier:
    """Return the trained classifier in evaluation mode; raises `InputError` if `state` is not from `trainable_state`."""
    classifier = build_classifier(folder, classes, model)
    new = trainable_state(classifier)
    unlike = sorted(n for n in new.keys() | state.keys() if n not in new or n not in state or new[n].shape != state[n].shape)
    if unlike:
        what = f"it does not fit section model of params.yaml: {len(unlike)} parameters differ, the first is {unlike[0]}"
        raise InputError("the trained model", what, "train again: .venv/bin/dvc repro; or restore the params it was trained with")
    classifier.load_state_dict(state, strict=False)
    return classifier.eval()


def merge_adapters(classifier: TextClassifier) -> TextClassifier:
    """Merge the adapters into the weights in fp32; merging in a lower precision changes predictions."""
    encoder = classifier.encoder.merge_and_unload() if isinstance(classifier.encoder, PeftModel) else classifier.encoder
    return TextClassifier(encoder, classifier.head).eval()
