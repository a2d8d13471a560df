"""Rows T3 of `make bench-train`: epochs with the prefix cache beside the same without, 4 and 5 of 6 layers frozen; in pairs.

Both arms train the same layers from the same weights on equal batches; the cache is full, as after the first epoch. The losses
of both arms are held against each other.
"""

import io
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext, redirect_stderr
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter, process_time
from typing import NamedTuple

import torch

from pipeline.learning.classification import Rows, classification_task
from pipeline.learning.freezing import freeze
from pipeline.learning.loop import fit
from pipeline.learning.prefix_cache import PrefixCache
from pipeline.network.base_model import base_folder
from pipeline.network.classifier import build_classifier
from pipeline.network.precision import Precision
from pipeline.params import Params
from tests.bench.report import Row, paired_ratio

LAYERS = 6
GOALS = {4: "T3a", 5: "T3b"}  # by frozen layers
LOSSES = "T3c"


class Epoch(NamedTuple):
    """One epoch of one arm."""

    seconds: float
    cpu_s: float
    losses: list[float]


class Arms(NamedTuple):
    """Epochs without and with the cache, pair by pair, and what filling it cost."""

    without: list[Epoch]
    cached: list[Epoch]
    fill_s: float


def measure(rows: Rows, classes: int, params: Params, frozen: int, pairs: int, precision: Precision) -> Arms:
    """Pairs of epochs over the same batches."""
    settings = params.train.model_copy(update={"epochs": 1, "trained_layers": LAYERS - frozen, "log_every_steps": 1})

    def epoch(arm: Rows, inside: AbstractContextManager[None]) -> Epoch:
        losses: list[float] = []
        with inside, redirect_stderr(io.StringIO()):  # no bar of its own for each epoch
            none = rows._replace(pieces=arm.pieces[:1], targets=arm.targets[:1])  # validation is no part of the row
            task = classification_task(classifier, arm, none, settings, precision)._replace(validate=lambda: {"f1_macro": 0.5})
            classifier.load_state_dict(before)
            torch.manual_seed(1)
            wall, cpu = perf_counter(), process_time()
            fit(task, settings, log_step=lambda _, values: losses.append(values["loss"]), log_epoch=lambda *_: None)
            return Epoch(perf_counter() - wall, process_time() - cpu, losses)

    torch.manual_seed(0)
    classifier = build_classifier(base_folder(params.model), classes, params.model)
    cut = freeze(classifier, settings)
    before = {name: value.clone() for name, value in classifier.state_dict().items()}
    with TemporaryDirectory() as home:
        cache = PrefixCache(classifier.encoder, cut, Path(home), precision)
        began = perf_counter()
        cached = rows._replace(collate=cache.collate(rows.pieces, 2 * settings.batch_size))
        fill_s = perf_counter() - began
        epoch(cached, cache.skip_lower_layers())  # warm
        both = [(epoch(rows, nullcontext()), epoch(cached, cache.skip_lower_layers())) for _ in range(pairs)]
    return Arms([a for a, _ in both], [b for _, b in both], fill_s)


def rows_of(arms: Arms, frozen: int, precision: Precision, lora: str) -> Iterator[Row]:
    """How many times faster; and the largest difference of a step's loss between the arms."""
    ratio = paired_ratio([one.seconds for one in arms.without], [one.seconds for one in arms.cached])
    where = f"{precision}, LoRA {lora}, {frozen} of {LAYERS} layers frozen and cached"
    without, cached = (median(one.seconds for one in own) for own in (arms.without, arms.cached))
    shown = f"seconds an epoch after the first ({where}; once {arms.fill_s:.1f} s to fill)"
    goal = GOALS[frozen] if precision == "fp32" else f"{GOALS[frozen]} bf16"
    yield Row(goal, shown, cached, "s", "without the cache", without, ratio, len(arms.cached))
    name = LOSSES if precision == "fp32" else f"{LOSSES} bf16"
    yield Row(name, f"largest difference of a loss ({where})", largest_difference(arms), "", "none", None, None, len(arms.cached))


def largest_difference(arms: Arms) -> float:
    """Of a step's loss between the arms."""
    return max(
        abs(x - y) for a, b in zip(arms.without, arms.cached, strict=True) for x, y in zip(a.losses, b.losses, strict=True)
    )


def prefix_rows(rows: Rows, params: Params, lora: str, pairs: int) -> Iterator[Row]:
    """Both precisions, both depths."""
    classes = 1 + int(rows.targets.max())
    precisions: tuple[Precision, ...] = ("fp32", "bf16")
    for precision in precisions:
        for frozen in GOALS:
            yield from rows_of(measure(rows, classes, params, frozen, pairs, precision), frozen, precision, lora)
