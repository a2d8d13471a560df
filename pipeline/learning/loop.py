"""The one training loop, readable from top to bottom."""

from collections.abc import Callable
from math import isfinite, sqrt
from time import perf_counter
from typing import NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from sklearn.metrics import accuracy_score, f1_score
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from pipeline.learning.batching import Pieces, bucketed_batches, pad
from pipeline.learning.early_stopping import Progress, advance, should_stop
from pipeline.learning.inference import in_batches
from pipeline.learning.model import TextClassifier, trainable_state
from pipeline.learning.optim import adamw
from pipeline.learning.precision import Precision
from pipeline.learning.schedule import warmup_cosine
from pipeline.params import Train

Log = Callable[[int, dict[str, float]], None]  # (step, values)


class Rows(NamedTuple):
    """Texts as pieces, and the class index of each."""

    pieces: Pieces
    targets: Tensor  # (N,) int64


class Fitted(NamedTuple):
    """The best trainable state by validation, and the story of the run."""

    state: dict[str, Tensor]
    progress: Progress
    steps: int
    seconds: float
    examples_per_second: float
    padded_over_real_pieces: float


def fit(
    classifier: TextClassifier, train: Rows, val: Rows, settings: Train, precision: Precision, *, log_step: Log, log_epoch: Log
) -> Fitted:
    """Fine-tune in place, stopping early; rates warm up and then fall over the steps of all epochs."""
    accelerator = Accelerator()
    device = accelerator.device
    rng = np.random.default_rng(settings.seed)
    lengths = [len(own) for own in train.pieces]
    steps_an_epoch = -(-len(lengths) // settings.batch_size)
    total = steps_an_epoch * settings.epochs
    optimizer = adamw(classifier, settings)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: warmup_cosine(step, total, settings.warmup_share))
    model, optimizer = accelerator.prepare(classifier, optimizer)
    trainable = [p for p in model.parameters() if p.requires_grad]
    progress, best = Progress(), trainable_state(classifier)
    step = real = padded = 0
    training_s = 0.0
    bar = tqdm(total=total, desc="train", unit="step", mininterval=1.0, dynamic_ncols=True)
    for epoch in range(1, settings.epochs + 1):
        model.train()
        began, epoch_loss = perf_counter(), 0.0
        for rows in bucketed_batches(lengths, settings.batch_size, settings.bucket_batches, rng):
            batch = {name: tensor.to(device) for name, tensor in pad(train.pieces, rows).items()}
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                logits = model(**batch)
            loss = F.cross_entropy(logits.float(), train.targets[rows].to(device), label_smoothing=settings.label_smoothing)
            accelerator.backward(loss)
            norm = float(accelerator.clip_grad_norm_(trainable, settings.clip_norm))
            if not (isfinite(loss.item()) and isfinite(norm)):
                raise FloatingPointError(
                    f"loss {loss.item()}, gradient {norm} at step {step + 1}: lower train.encoder_lr and train.head_lr"
                )
            optimizer.step()
            optimizer.zero_grad()
            step += 1
            epoch_loss += loss.item() * len(rows)
            real += sum(lengths[row] for row in rows)
            padded += batch["input_ids"].numel()
            if step % settings.log_every_steps == 0:
                log_step(step, {"loss": loss.item(), "lr": float(schedule.get_last_lr()[0]), "grad_norm": norm})
            schedule.step()
            bar.update()
        training_s += perf_counter() - began
        scores = validate(classifier, val, batch_size=2 * settings.batch_size, precision=precision)
        progress = advance(progress, epoch, scores["f1_macro"], standard_error(scores["f1_macro"], len(val.pieces)))
        if progress.improved:
            best = trainable_state(classifier)
        log_epoch(epoch, {"train_loss": epoch_loss / len(lengths), **{f"val_{name}": value for name, value in scores.items()}})
        bar.set_postfix(loss=f"{epoch_loss / len(lengths):.3f}", val_f1=f"{scores['f1_macro']:.3f}")
        if should_stop(progress, settings.patience):
            break
    bar.close()
    return Fitted(best, progress, step, training_s, len(lengths) * epoch / training_s, padded / real)


def validate(classifier: TextClassifier, rows: Rows, *, batch_size: int, precision: Precision) -> dict[str, float]:
    """Loss without smoothing, accuracy and macro-F1 on held-out rows."""
    classifier.eval()
    device = classifier.head.weight.device
    logits = in_batches(classifier.forward, rows.pieces, batch_size=batch_size, precision=precision, device=device)
    guesses = logits.argmax(dim=1).numpy()
    return {
        "loss": F.cross_entropy(logits, rows.targets).item(),
        "accuracy": float(accuracy_score(rows.targets.numpy(), guesses)),
        "f1_macro": float(f1_score(rows.targets.numpy(), guesses, average="macro", zero_division=0)),
    }


def standard_error(share: float, rows: int) -> float:
    """Binomial standard error of a share seen on so many rows; macro-F1 varies a little more."""
    return sqrt(share * (1 - share) / rows)


def start_from_class_means(classifier: TextClassifier, rows: Rows, *, batch_size: int, precision: Precision) -> None:
    """Put the head where the untrained encoder already sees each class: at the mean direction of its training rows."""
    embeddings = F.normalize(in_batches(classifier.eval().embed, rows.pieces, batch_size=batch_size, precision=precision), dim=-1)
    classes, width = classifier.head.weight.shape
    sums = torch.zeros(classes, width).index_add_(0, rows.targets, embeddings)
    with torch.no_grad():
        classifier.head.weight.copy_(F.normalize(sums, dim=-1))
