"""Classification as a task of the training loop: batches of texts, cross-entropy with smoothing and R-Drop, validation."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline import metrics
from pipeline.learning.task import Task
from pipeline.network.batching import Batch, Pieces, pad
from pipeline.network.classifier import TextClassifier
from pipeline.network.inference import Collate, infer_in_batches
from pipeline.network.precision import Precision, autocast, padding_multiple
from pipeline.params import Train


class Rows(NamedTuple):
    """Texts as pieces, and the class index of each; `collate` makes their batches, by default by padding."""

    pieces: Pieces
    targets: Tensor  # (N,) int64
    collate: Collate | None = None

    def batch(self, rows: list[int], multiple: int = 1) -> Batch:
        """Return `input_ids` (or hidden states), `attention_mask` and `labels`; padded lengths are rounded up to a multiple."""
        inputs = self.collate(rows) if self.collate else pad(self.pieces, rows, multiple)
        return {**inputs, "labels": self.targets[rows]}


def classification_task(
    classifier: TextClassifier, train: Rows, val: Rows, settings: Train, precision: Precision, workers: int = 1
) -> Task:
    """Return the task of training this classifier on `train` and validating it on `val`; fused layers use `workers` threads."""
    fused = classifier.fused
    multiple = padding_multiple(precision)

    def batch(rows: list[int]) -> Batch:
        inputs = train.batch(rows, multiple)
        return inputs if fused is None else {**inputs, "seed": torch.randint(2**31, (1,))}

    def score() -> dict[str, float]:
        return validate(classifier, val, batch_size=2 * settings.batch_size, precision=precision)

    lengths = [len(pieces) for pieces in train.pieces]
    task = Task(classifier, lengths, len(val.pieces), batch, classification_loss(settings, precision), score)
    task = task._replace(precision=precision)
    return task if fused is None else task._replace(prepare=fused.refreshes(), workers=workers)


def classification_loss(settings: Train, precision: Precision) -> Callable[[nn.Module, Batch], Tensor]:
    """Return the loss: mean cross-entropy with label smoothing (Szegedy et al. 2016), in fp32, plus `consistency` times R-Drop.

    R-Drop (Liang et al. 2021) computes each row twice under different dropout and adds the divergence of the two outputs.
    """

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        ids, mask, labels = (batch[name] for name in ("input_ids", "attention_mask", "labels"))
        if settings.consistency:
            ids, mask, labels = duplicate_rows(ids), duplicate_rows(mask), duplicate_rows(labels)
        seed = int(batch["seed"]) if "seed" in batch else None  # drawn with the batch: threads share no generator
        with autocast(ids.device.type, precision):
            logits = model(ids, mask, seed).float()
        entropy = F.cross_entropy(logits, labels, label_smoothing=settings.label_smoothing)
        return entropy + settings.consistency * symmetric_kl(logits) if settings.consistency else entropy

    return loss


def duplicate_rows(rows: Tensor) -> Tensor:
    """(B, …) → (2B, …), the copies after the originals."""
    return torch.cat([rows, rows])


def symmetric_kl(logits: Tensor) -> Tensor:
    """Return the mean over rows of the symmetric Kullback-Leibler divergence between both halves of `logits` (2B, classes)."""
    first, second = F.log_softmax(logits, dim=-1).chunk(2)
    forward = F.kl_div(first, second, reduction="batchmean", log_target=True)
    reverse = F.kl_div(second, first, reduction="batchmean", log_target=True)
    return (forward + reverse) / 2


def validate(classifier: TextClassifier, rows: Rows, *, batch_size: int, precision: Precision) -> dict[str, float]:
    """Return loss without smoothing, accuracy and macro-F1 on held-out rows."""
    classifier.eval()
    weight = classifier.head.weight
    logits = infer_in_batches(
        classifier.forward,
        rows.pieces,
        batch_size=batch_size,
        precision=precision,
        device=weight.device,
        collate=rows.collate,
    )
    matrix = metrics.confusion(rows.targets.numpy(), logits.argmax(dim=1).numpy(), len(weight))
    loss = F.cross_entropy(logits, rows.targets).item()
    return {"loss": loss, "accuracy": metrics.accuracy(matrix), "f1_macro": metrics.f1_macro(matrix)}


def init_head_from_class_means(classifier: TextClassifier, rows: Rows, *, batch_size: int, precision: Precision) -> None:
    """Set each class vector of the head to the mean direction of the class's training rows in the untrained encoder."""
    embed = classifier.eval().embed
    device = classifier.head.weight.device
    embeddings = infer_in_batches(
        embed, rows.pieces, batch_size=batch_size, precision=precision, device=device, collate=rows.collate
    )
    classes, width = classifier.head.weight.shape
    sums = torch.zeros(classes, width).index_add_(0, rows.targets, F.normalize(embeddings, dim=-1))
    with torch.no_grad():
        classifier.head.weight.copy_(F.normalize(sums, dim=-1))
