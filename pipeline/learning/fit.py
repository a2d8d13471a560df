"""From rows to fitted weights: what the stages that train share. Every lever of sections model and train is pulled here."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import structlog
import torch

from pipeline import charts
from pipeline.data.records import Example, labels_of
from pipeline.learning.accumulation import distributed_state, median_step_seconds
from pipeline.learning.classification import Rows, classification_task, init_head_from_class_means
from pipeline.learning.freezing import freeze, trained_share
from pipeline.learning.loop import FitResult, fit
from pipeline.learning.optim import peak_rates
from pipeline.learning.param_conflicts import cpu_flags, refuse_conflicts
from pipeline.learning.prefix_cache import TOLERANCE, PrefixCache, bytes_needed, encoder_layers
from pipeline.learning.resume import Checkpoints
from pipeline.learning.schedule import RunLength, lr_curve
from pipeline.learning.task import Task
from pipeline.learning.training_state import copy_parameters
from pipeline.network.base_model import base_folder, local_folder, sha256_of
from pipeline.network.classifier import TextClassifier, build_classifier, trainable_state, use_fused_layers
from pipeline.network.precision import Precision, choose_precision, fp32_operations
from pipeline.params import Params, Train, flatten
from pipeline.runtime.pieces import load_tokenizer, to_pieces
from pipeline.tracking import Run

NOT_AFFECTING_RESULT = {"train.checkpoint_s", "train.folds", "train.max_seconds"}
log = structlog.get_logger()


class Prepared(NamedTuple):
    """Everything that is known before the first step; a function of rows and params."""

    labels: list[str]  # by class index
    train: Rows
    val: Rows
    base: Path
    precision: Precision
    step_seconds: dict[Precision, float]  # measured, for `auto`


def prepare(rows: list[Example], val: list[Example], params: Params) -> Prepared:
    """Labels and pieces of both sides; raises `InputError` where params cannot work together."""
    refuse_conflicts(params, local_folder(params.model), torch.cuda.is_available(), cpu_flags())
    labels = sorted(set(labels_of(rows)))
    base = base_folder(params.model)
    tokenizer = load_tokenizer(base, params.model.max_pieces)
    index = {label: i for i, label in enumerate(labels)}

    def as_rows(examples: list[Example]) -> Rows:
        pieces = to_pieces(tokenizer, [e.text for e in examples])
        return Rows(pieces, torch.tensor([index[label] for label in labels_of(examples)]))

    prepared = Prepared(labels, as_rows(rows), as_rows(val), base, "fp32", {})
    precision, seconds = choose_precision(params.train.precision, lambda one: _step_seconds(prepared, params, one))
    return prepared._replace(precision=precision, step_seconds=seconds)


def _step_seconds(prepared: Prepared, params: Params, precision: Precision) -> float:
    """What a step takes in this precision."""
    torch.manual_seed(params.train.seed)
    classifier = build_classifier(prepared.base, len(prepared.labels), params.model)
    use_fused_layers(classifier, params.model, precision)
    task = classification_task(classifier, prepared.train, prepared.val, params.train, precision, params.model.lanes)
    rows = list(range(min(len(prepared.train.pieces), params.train.batch_size)))
    return median_step_seconds(task, rows, params.train.measured_steps)


def training_inputs(prepared: Prepared, params: Params) -> dict[str, str]:
    """All that the trained weights depend on, each by name: a checkpoint is gone on from where none of it has changed."""
    settings = {**flatten(params.model, "model"), **flatten(params.train, "train")}
    pipeline = Path(__file__).parents[1]
    code = b"".join(path.read_bytes() for folder in ("learning", "network") for path in sorted((pipeline / folder).glob("*.py")))
    sides = {"training rows": prepared.train, "validation rows": prepared.val}
    return {
        **{name: value for name, value in settings.items() if name not in NOT_AFFECTING_RESULT},
        **{name: _digest([rows.pieces, rows.targets.tolist()]) for name, rows in sides.items()},
        "labels": _digest(prepared.labels),
        "base model": sha256_of(prepared.base / "model.safetensors"),
        "code of pipeline/learning and pipeline/network": sha256(code).hexdigest(),
        "arithmetic": f"torch {torch.__version__}, {prepared.precision}, {torch.get_num_threads()} threads",
    }


def fine_tune(prepared: Prepared, params: Params, run: Run, checkpoints: Checkpoints | None, home: Path) -> FitResult:
    """Fine-tune, watching validation; curves go to the run as they come. The state holds what is saved, frozen or not."""
    settings, precision = params.train, prepared.precision
    torch.manual_seed(settings.seed)
    classifier = build_classifier(prepared.base, len(prepared.labels), params.model).to(distributed_state().device)
    saved = list(trainable_state(classifier))
    cut = freeze(classifier, settings)
    with prefix_cached(classifier, cut, prepared, settings, home) as rows:
        kernels = use_fused_layers(classifier, params.model, precision) if cut == 0 else "modules: the lower layers are at rest"
        init_head_from_class_means(classifier, rows.train, batch_size=settings.batch_size, precision=precision)
        log_setup(run, classifier, rows, settings, checkpoints)
        task = classification_task(classifier, rows.train, rows.val, settings, precision, params.model.lanes)
        run.tags({"kernels": kernels, "fp32_operations": ", ".join(fp32_fallbacks(task))})
        fitted = fit(task, settings, log_step=_to(run, "train"), log_epoch=_to(run, "epoch"), checkpoints=checkpoints)
    return fitted._replace(state=copy_parameters(classifier, saved))


@contextmanager
def prefix_cached(classifier: TextClassifier, cut: int, prepared: Prepared, settings: Train, home: Path) -> Iterator[Prepared]:
    """Inside, the encoder begins at layer `cut`, and batches hold what enters there; unchanged where that cannot be."""
    width, sides = classifier.head.weight.shape[1], (prepared.train.pieces, prepared.val.pieces)
    needed_mb = bytes_needed(sides, width, prepared.precision) / 1e6
    if cut == 0 or settings.epochs == 1 or needed_mb > settings.prefix_cache_mb:
        if cut and settings.epochs > 1:
            log.info("no_prefix_cache", needs_mb=round(needed_mb), prefix_cache_mb=settings.prefix_cache_mb)
        yield prepared
        return
    cut = min(cut, len(encoder_layers(classifier.encoder)) - 1)  # all layers frozen: the top one is computed all the same
    cache = PrefixCache(classifier.encoder, cut, home, prepared.precision)
    difference = cache.difference(prepared.train.pieces)
    if difference > TOLERANCE[prepared.precision]:
        log.warning("no_prefix_cache", reason="this encoder answers otherwise above the cut", difference=difference)
        yield prepared
        return
    log.info("prefix_cache", layers_below=cut, megabytes=round(needed_mb), difference=difference)
    own = [side._replace(collate=cache.collate(side.pieces, 2 * settings.batch_size)) for side in (prepared.train, prepared.val)]
    with cache.in_place():
        yield prepared._replace(train=own[0], val=own[1])


def log_setup(run: Run, classifier: TextClassifier, rows: Prepared, settings: Train, checkpoints: Checkpoints | None) -> None:
    """What is known before the first step: arithmetic, what is trained, the learning rate over the run that is about to begin."""
    run.tags({"precision": rows.precision, "prefix_cache": "used" if rows.train.collate else "not used"})
    if checkpoints and checkpoints.found:
        run.tags({"resumed_from_step": str(checkpoints.found.step)})
    run.metrics({f"train/step_seconds_{one}": seconds for one, seconds in rows.step_seconds.items()})
    run.metrics({"train/trained_share": trained_share(classifier)})
    span = RunLength.of(len(rows.train.pieces), settings)
    note = f"{settings.optimizer}, {settings.schedule}; {span.total} steps, {span.an_epoch} an epoch"
    run.figure(charts.schedule(lr_curve(span, settings), peak_rates(classifier, settings), note), "schedule")


def summary(fitted: FitResult) -> dict[str, Any]:
    """The numbers of a training that people compare; scores are those of the epoch that is kept."""
    tally, kept = fitted.tally, fitted.epochs[fitted.progress.best_epoch - 1]
    return {
        "best_epoch": fitted.progress.best_epoch,
        "epochs": len(fitted.epochs),
        **{name: value for name, value in kept.items() if name.startswith("val_")},
        "seconds": round(tally.seconds, 1),
        "cpu_seconds": round(tally.cpu_s, 1),
        "examples_per_second": round(tally.rows / tally.seconds, 1),
        "padded_over_real_pieces": round(tally.padded / tally.real, 4),
        "bad_steps": fitted.guard.acts,
        **{f"memory_{part}_mib": round(size / 2**20, 1) for part, size in fitted.memory.items()},
    }


def fp32_fallbacks(task: Task) -> list[str]:
    """The operations of a step that give fp32, whatever the precision; random numbers are left as they were."""
    with torch.random.fork_rng(), torch.no_grad():
        batch = {name: tensor.to(distributed_state().device) for name, tensor in task.batch([0]).items()}
        return fp32_operations(lambda: task.loss(task.model, batch))


def _to(run: Run, prefix: str) -> Any:
    def log_values(step: int, values: dict[str, float]) -> None:
        run.metrics({f"{prefix}/{name}": value for name, value in values.items()}, step)

    return log_values


def _digest(value: Any) -> str:
    return sha256(json.dumps(value).encode()).hexdigest()
