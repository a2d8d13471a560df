"""Measure goals T3 of `make bench-train`: paired epochs with and without the prefix cache, 4 and 5 of 6 layers frozen.

Both arms train the same layers from the same weights on the same batches, and their losses are compared. The cache is full, as
after the first epoch.
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
    """Record one epoch of one arm."""

    seconds: float
    cpu_s: float
    losses: list[float]


class Arms(NamedTuple):
    """Hold the epochs without and with the cache in pairs, and the time to fill it."""

    without: list[Epoch]
    cached: list[Epoch]
    fill_s: float


def measure(rows: Rows, classes: int, params: Params, frozen: int, pairs: int, precision: Precision) -> Arms:
    """Measure pairs of epochs over the same batches."""
    settings = params.train.model_copy(update={"epochs": 1, "trained_layers": LAYERS - frozen, "log_every_steps": 1})

    def epoch(arm: Rows, inside: AbstractContextManager[None]) -> Epoch:
        losses: list[float] = []
        with inside, redirect_stderr(io.StringIO()):  # no progress bar for each epoch
            one_row = rows._replace(pieces=arm.pieces[:1], targets=arm.targets[:1])  # validation is not measured
            task = classification_task(classifier, arm, one_row, settings, precision)._replace(validate=lambda: {"f1_macro": 0.5})
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
        started = perf_counter()
        cached = rows._replace(collate=cache.collate(rows.pieces, 2 * settings.batch_size))
        fill_s = perf_counter() - started
        epoch(cached, cache.skip_lower_layers())  # warm
        epochs = [(epoch(rows, nullcontext()), epoch(cached, cache.skip_lower_layers())) for _ in range(pairs)]
    return Arms([a for a, _ in epochs], [b for _, b in epochs], fill_s)


def to_rows(arms: Arms, frozen: int, precision: Precision, lora: str) -> Iterator[Row]:
    """Yield the row of the speed-up and the row of the largest difference of a step's loss between the arms."""
    ratio = paired_ratio([epoch.seconds for epoch in arms.without], [epoch.seconds for epoch in arms.cached])
    setting = f"{precision}, LoRA {lora}, {frozen} of {LAYERS} layers frozen and cached"
    without, cached = (median(epoch.seconds for epoch in arm) for arm in (arms.without, arms.cached))
    what = f"seconds an epoch after the first ({setting}; once {arms.fill_s:.1f} s to fill)"
    goal = GOALS[frozen] if precision == "fp32" else f"{GOALS[frozen]} bf16"
    yield Row(goal, what, cached, "s", "without the cache", without, ratio, len(arms.cached))
    name = LOSSES if precision == "fp32" else f"{LOSSES} bf16"
    yield Row(
        name, f"largest difference of a loss ({setting})", largest_difference(arms), "", "none", None, None, len(arms.cached)
    )


def largest_difference(arms: Arms) -> float:
    """Return the largest difference of a step's loss between the arms."""
    return max(
        abs(x - y) for a, b in zip(arms.without, arms.cached, strict=True) for x, y in zip(a.losses, b.losses, strict=True)
    )


def prefix_rows(rows: Rows, params: Params, lora: str, pairs: int) -> Iterator[Row]:
    """Yield the rows of both precisions and both depths."""
    classes = 1 + int(rows.targets.max())
    precisions: tuple[Precision, ...] = ("fp32", "bf16")
    for precision in precisions:
        for frozen in GOALS:
            yield from to_rows(measure(rows, classes, params, frozen, pairs, precision), frozen, precision, lora)
