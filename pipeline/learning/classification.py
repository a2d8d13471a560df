"""Classification as a task of the loop: batches of texts, cross-entropy with smoothing, accuracy and macro-F1."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline import metrics
from pipeline.learning.consistency import duplicate_rows, symmetric_kl
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
        """`input_ids` or what stands for them, `attention_mask`, `labels`; lengths of pieces are rounded up to a multiple."""
        own = self.collate(rows) if self.collate else pad(self.pieces, rows, multiple)
        return {**own, "labels": self.targets[rows]}


def classification_task(
    classifier: TextClassifier, train: Rows, val: Rows, settings: Train, precision: Precision, lanes: int = 1
) -> Task:
    """Learn `train` with this classifier, hold it against `val`; layers that are written out compute in `lanes`."""
    written = classifier.written
    multiple = padding_multiple(precision)

    def batch(rows: list[int]) -> Batch:
        made = train.batch(rows, multiple)
        return made if written is None else {**made, "seed": torch.randint(2**31, (1,))}

    def score() -> dict[str, float]:
        return validate(classifier, val, batch_size=2 * settings.batch_size, precision=precision)

    lengths = [len(own) for own in train.pieces]
    task = Task(classifier, lengths, len(val.pieces), batch, classification_loss(settings, precision), score)
    task = task._replace(precision=precision)
    return task if written is None else task._replace(prepare=written.refreshes(), lanes=lanes)


def classification_loss(settings: Train, precision: Precision) -> Callable[[nn.Module, Batch], Tensor]:
    """Mean cross-entropy of a batch with label smoothing (Szegedy et al. 2016), and what holds two passes of it together.

    The loss itself is computed in fp32.
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


def validate(classifier: TextClassifier, rows: Rows, *, batch_size: int, precision: Precision) -> dict[str, float]:
    """Loss without smoothing, accuracy and macro-F1 on held-out rows."""
    classifier.eval()
    device = classifier.head.weight.device
    logits = infer_in_batches(
        classifier.forward, rows.pieces, batch_size=batch_size, precision=precision, device=device, collate=rows.collate
    )
    matrix = metrics.confusion(rows.targets.numpy(), logits.argmax(dim=1).numpy(), logits.shape[1])
    return {
        "loss": F.cross_entropy(logits, rows.targets).item(),
        "accuracy": metrics.accuracy(matrix),
        "f1_macro": metrics.f1_macro(matrix),
    }


def init_head_from_class_means(classifier: TextClassifier, rows: Rows, *, batch_size: int, precision: Precision) -> None:
    """Put the head where the untrained encoder already sees each class: at the mean direction of its training rows."""
    embed = classifier.eval().embed
    device = classifier.head.weight.device
    embeddings = infer_in_batches(
        embed, rows.pieces, batch_size=batch_size, precision=precision, device=device, collate=rows.collate
    )
    classes, width = classifier.head.weight.shape
    sums = torch.zeros(classes, width).index_add_(0, rows.targets, F.normalize(embeddings, dim=-1))
    with torch.no_grad():
        classifier.head.weight.copy_(F.normalize(sums, dim=-1))
