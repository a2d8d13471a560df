"""Fine-tuning from rows to fitted weights, shared by the stages that train; applies params sections `model` and `train`."""

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
from pipeline.network.base_model import base_folder, check_sizes, local_folder, sha256_of
from pipeline.network.classifier import TextClassifier, build_classifier, trainable_state, use_fused_layers
from pipeline.network.precision import Precision, choose_precision, fp32_operations
from pipeline.params import Params, Train, flatten
from pipeline.runtime.pieces import load_tokenizer, to_pieces
from pipeline.tracking.runs import Run

NOT_AFFECTING_RESULT = {"train.checkpoint_s", "train.folds", "train.max_seconds"}
log = structlog.get_logger()


class Prepared(NamedTuple):
    """Everything that is known before the first step, derived from rows and params."""

    labels: list[str]  # by class index
    train: Rows
    val: Rows
    base: Path
    precision: Precision
    step_seconds: dict[Precision, float]  # measured, for `auto`


def prepare(rows: list[Example], val: list[Example], params: Params) -> Prepared:
    """Tokenise both sides and choose the precision; raises `InputError` when params conflict."""
    refuse_conflicts(params, local_folder(params.model), torch.cuda.is_available(), cpu_flags())
    labels = sorted(set(labels_of(rows)))
    base = base_folder(params.model)
    check_sizes(base, params.model)
    tokenizer = load_tokenizer(base, params.model.max_pieces)
    index = {label: i for i, label in enumerate(labels)}

    def encode(examples: list[Example]) -> Rows:
        pieces = to_pieces(tokenizer, [e.text for e in examples])
        return Rows(pieces, torch.tensor([index[label] for label in labels_of(examples)]))

    prepared = Prepared(labels, encode(rows), encode(val), base, "fp32", {})
    precision, seconds = choose_precision(params.train.precision, lambda precision: _step_seconds(prepared, params, precision))
    return prepared._replace(precision=precision, step_seconds=seconds)


def _step_seconds(prepared: Prepared, params: Params, precision: Precision) -> float:
    """Return the seconds that a step takes in this precision."""
    torch.manual_seed(params.train.seed)
    classifier = build_classifier(prepared.base, len(prepared.labels), params.model)
    use_fused_layers(classifier, params.model, precision)
    task = classification_task(classifier, prepared.train, prepared.val, params.train, precision, params.model.lanes)
    rows = list(range(min(len(prepared.train.pieces), params.train.batch_size)))
    return median_step_seconds(task, rows, params.train.measured_steps)


def training_inputs(prepared: Prepared, params: Params) -> dict[str, str]:
    """Return everything that the trained weights depend on, by name; a checkpoint is resumed only if none of it has changed."""
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
    """Fine-tune with early stopping and log curves to the run; the result's state also holds the frozen adapters and head."""
    settings, precision = params.train, prepared.precision
    torch.manual_seed(settings.seed)
    classifier = build_classifier(prepared.base, len(prepared.labels), params.model).to(distributed_state().device)
    saved = list(trainable_state(classifier))
    cut = freeze(classifier, settings)
    with prefix_cached(classifier, cut, prepared, settings, home) as cached:
        kernels = use_fused_layers(classifier, params.model, precision) if cut == 0 else "modules: the lower layers are frozen"
        init_head_from_class_means(classifier, cached.train, batch_size=settings.batch_size, precision=precision)
        log_setup(run, classifier, cached, settings, checkpoints)
        task = classification_task(classifier, cached.train, cached.val, settings, precision, params.model.lanes)
        run.tags({"kernels": kernels, "fp32_operations": ", ".join(fp32_fallbacks(task))})
        fitted = fit(
            task, settings, log_step=_logger(run, "by_step"), log_epoch=_logger(run, "by_epoch"), checkpoints=checkpoints
        )
    return fitted._replace(state=copy_parameters(classifier, saved))


@contextmanager
def prefix_cached(classifier: TextClassifier, cut: int, prepared: Prepared, settings: Train, home: Path) -> Iterator[Prepared]:
    """Start the encoder at layer `cut` within the context; yield rows whose batches hold hidden states.

    Yields `prepared` unchanged when the cache would save nothing, is too large, or changes the encoder's output.
    """
    pieces, width = (prepared.train.pieces, prepared.val.pieces), classifier.head.weight.shape[1]
    needed_mb = bytes_needed(pieces, width, prepared.precision) / 1e6
    if cut == 0 or settings.epochs == 1 or needed_mb > settings.prefix_cache_mb:
        if cut and settings.epochs > 1:
            log.info("prefix_cache_skipped", needs_mb=round(needed_mb), prefix_cache_mb=settings.prefix_cache_mb)
        yield prepared
        return
    cut = min(cut, len(encoder_layers(classifier.encoder)) - 1)  # with all layers frozen, the top one is still computed
    cache = PrefixCache(classifier.encoder, cut, home, prepared.precision)
    difference = cache.max_difference(prepared.train.pieces)
    if difference > TOLERANCE[prepared.precision]:
        log.warning("prefix_cache_skipped", reason="the encoder's output differs with the cache", difference=difference)
        yield prepared
        return
    log.info("prefix_cache", layers_below=cut, megabytes=round(needed_mb), difference=difference)
    sides = [
        side._replace(collate=cache.collate(side.pieces, 2 * settings.batch_size)) for side in (prepared.train, prepared.val)
    ]
    with cache.skip_lower_layers():
        yield prepared._replace(train=sides[0], val=sides[1])


def log_setup(run: Run, classifier: TextClassifier, prepared: Prepared, settings: Train, checkpoints: Checkpoints | None) -> None:
    """Log what is known before the first step: precision, trained share, resumed step and learning rate schedule."""
    run.tags({"precision": prepared.precision, "prefix_cache": "used" if prepared.train.collate else "not used"})
    if checkpoints and checkpoints.latest:
        run.tags({"resumed_from_step": str(checkpoints.latest.step)})
    run.metrics({f"train/step_seconds_{precision}": seconds for precision, seconds in prepared.step_seconds.items()})
    run.metrics({"train/trained_share": trained_share(classifier)})
    length = RunLength.of(len(prepared.train.pieces), settings)
    note = f"{settings.optimizer}, {settings.schedule}; {length.total} steps, {length.per_epoch} per epoch"
    run.figure(charts.schedule(lr_curve(length, settings), peak_rates(classifier, settings), note), "schedule")


def summary(fitted: FitResult) -> dict[str, Any]:
    """Return the numbers to compare between trainings; scores are those of the best epoch."""
    tally, best = fitted.tally, fitted.epochs[fitted.progress.best_epoch - 1]
    return {
        "best_epoch": fitted.progress.best_epoch,
        "epochs": len(fitted.epochs),
        **{name: value for name, value in best.items() if name.startswith("val_")},
        "seconds": round(tally.seconds, 1),
        "cpu_seconds": round(tally.cpu_s, 1),
        "examples_per_second": round(tally.rows / tally.seconds, 1),
        "padded_over_real_pieces": round(tally.padded / tally.real, 4),
        "bad_steps": fitted.guard.bad_steps,
        **{f"memory_{part}_mib": round(size / 2**20, 1) for part, size in fitted.memory.items()},
    }


def fp32_fallbacks(task: Task) -> list[str]:
    """Return the operations of a step whose result is fp32 under the task's precision; the random state is restored."""
    with torch.random.fork_rng(), torch.no_grad():
        batch = {name: tensor.to(distributed_state().device) for name, tensor in task.batch([0]).items()}
        return fp32_operations(lambda: task.loss(task.model, batch))


def _logger(run: Run, prefix: str) -> Any:
    """Return a function that logs points of curves. MLflow's pages sort groups by name: these two come first."""

    def log_values(step: int, values: dict[str, float]) -> None:
        run.metrics({f"{prefix}/{name}": value for name, value in values.items()}, step)

    return log_values


def _digest(value: Any) -> str:
    return sha256(json.dumps(value).encode()).hexdigest()
