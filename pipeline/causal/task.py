"""Causal language models (Llama's shape) as a task of the training loop: packed sequences, next-piece cross-entropy."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModelForCausalLM

from pipeline.causal.packing import IGNORE_INDEX, Sequences, causal_mask, pack, packed_batch
from pipeline.learning.task import Task
from pipeline.network.adapters import make_trainable, quantisation_options
from pipeline.network.base_model import check_lora
from pipeline.network.batching import Batch
from pipeline.network.precision import Precision, autocast, padding_multiple
from pipeline.params import Causal


def load_causal(folder: Path, causal: Causal) -> nn.Module:
    """Load the language model in fp32 (or quantised), with new adapters or fully trainable."""
    check_lora(folder, causal)
    transformers.utils.logging.disable_progress_bar()
    base: Any = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="sdpa", trust_remote_code=False, **quantisation_options(causal.quantise)
    )
    return make_trainable(base.requires_grad_(False), causal)


def causal_task(
    model: nn.Module, train: Sequences, val: Sequences, causal: Causal, *, val_batch: int, precision: Precision
) -> Task:
    """Return the task of training on `train`, packed once, and validating on `val` by next-piece accuracy."""
    packs = pack([len(sequence) for sequence in train.pieces], causal.packed_pieces)
    multiple = padding_multiple(precision)

    def batch(rows: list[int]) -> Batch:
        return packed_batch(train, [packs[row] for row in rows], multiple)

    def score() -> dict[str, float]:
        return validate(model, val, causal, batch_size=val_batch, precision=precision)

    lengths = [sum(len(train.pieces[sequence]) for sequence in row) for row in packs]
    return Task(model, lengths, len(val.pieces), batch, next_piece_loss(precision), score, count=count_predicted)


def count_predicted(batch: Batch) -> int:
    """Return the number of target pieces, which the loss is a mean over."""
    return int((batch["labels"] != IGNORE_INDEX).sum())


def next_piece_loss(precision: Precision) -> Callable[[nn.Module, Batch], Tensor]:
    """Return the loss: mean cross-entropy over all target pieces, in fp32."""

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        logits, labels = predicted_logits(model, batch, precision)
        return F.cross_entropy(logits, labels)

    return loss


def predicted_logits(model: nn.Module, batch: Batch, precision: Precision) -> tuple[Tensor, Tensor]:
    """Return (N, V) fp32 logits for the target pieces, and the targets (N,)."""
    with autocast(batch["input_ids"].device.type, precision):
        logits = model(
            input_ids=batch["input_ids"],
            position_ids=batch["position_ids"],
            attention_mask=causal_mask(batch["attention_mask"]),
            use_cache=False,
        ).logits
    targets = batch["labels"][:, 1:]
    is_target = targets != IGNORE_INDEX
    return logits[:, :-1][is_target].float(), targets[is_target]


def validate(model: nn.Module, rows: Sequences, causal: Causal, *, batch_size: int, precision: Precision) -> dict[str, float]:
    """Return loss, perplexity and next-piece accuracy over packed held-out sequences."""
    model.eval()
    device = next(model.parameters()).device
    packs = pack([len(sequence) for sequence in rows.pieces], causal.packed_pieces)
    loss, correct, pieces = 0.0, 0, 0
    with torch.inference_mode():
        for start in range(0, len(packs), batch_size):
            batch = {name: t.to(device) for name, t in packed_batch(rows, packs[start : start + batch_size]).items()}
            logits, labels = predicted_logits(model, batch, precision)
            loss += float(F.cross_entropy(logits, labels, reduction="sum"))
            correct += int((logits.argmax(dim=1) == labels).sum())
            pieces += len(labels)
    mean = loss / pieces
    return {"loss": mean, "perplexity": float(torch.tensor(mean).exp()), "accuracy": correct / pieces}
