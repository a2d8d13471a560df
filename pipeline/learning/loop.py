"""The training loop, readable from top to bottom. It trains any `Task`; files and MLflow stay outside."""

from collections.abc import Callable
from math import sqrt
from time import perf_counter, process_time
from typing import Any, NamedTuple

import numpy as np
import structlog
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from pipeline.learning.accumulation import GradientAccumulator, WorkerPool, distributed_state
from pipeline.learning.early_stopping import Progress, advance, should_stop, watched_score
from pipeline.learning.gradient_guard import GOOD, SCALED_DOWN, GuardState, evaluate_step, refuse_after_bad_steps
from pipeline.learning.memory_use import memory_by_part
from pipeline.learning.optim import make_optimizer, set_rates
from pipeline.learning.resume import Checkpoints, restore_checkpoint, snapshot
from pipeline.learning.schedule import RunLength, lr_factor, plateau_after_epoch
from pipeline.learning.task import Task
from pipeline.learning.training_state import Table, Tally, TrainingState, load_parameters
from pipeline.network.batching import bucketed_batches
from pipeline.network.classifier import trainable_state
from pipeline.output.progress import progress_bar
from pipeline.params import Train

LogValues = Callable[[int, dict[str, float]], None]  # (step or epoch, values)
log = structlog.get_logger()


class FitResult(NamedTuple):
    """The trained parameters of the best epoch, and the history of the run."""

    state: dict[str, Tensor]
    progress: Progress
    guard: GuardState
    tally: Tally
    steps: Table
    epochs: Table
    memory: dict[str, int]  # bytes by part


class TrainingSetup(NamedTuple):
    """Everything that is constant while training."""

    task: Task
    settings: Train
    accelerator: Accelerator
    gradients: GradientAccumulator
    parameters: list[nn.Parameter]  # the trained ones
    optimizer: torch.optim.Optimizer
    length: RunLength
    log_step: LogValues
    checkpoints: Checkpoints | None


def fit(
    task: Task, settings: Train, *, log_step: LogValues, log_epoch: LogValues, checkpoints: Checkpoints | None = None
) -> FitResult:
    """Train the task's model in place with early stopping; resumes from the newest of `checkpoints` and writes new ones.

    Raises `RefusedError` after `max_bad_steps` bad steps in a row.
    """
    scaled = "fp16" if task.precision == "fp16" else "no"  # fp16 needs a loss scaler
    accelerator = Accelerator(cpu=distributed_state().device.type == "cpu", mixed_precision=scaled)
    model, optimizer = accelerator.prepare(task.model, make_optimizer(task.model, settings))
    length = RunLength.of(len(task.lengths), settings)
    parameters = [p for p in model.parameters() if p.requires_grad]
    state = (checkpoints and restore_checkpoint(checkpoints, task.model, optimizer)) or TrainingState(
        best=trainable_state(task.model)
    )
    rng = np.random.default_rng(settings.seed)
    if state.rng_state:
        rng.bit_generator.state = state.rng_state
    with (
        WorkerPool(task.workers) as workers,
        progress_bar(total=length.total, initial=state.step, desc="train", unit="step") as bar,
    ):
        gradients = GradientAccumulator(task, model, accelerator, workers, settings.accumulate)
        setup = TrainingSetup(task, settings, accelerator, gradients, parameters, optimizer, length, log_step, checkpoints)
        while state.epoch <= settings.epochs and not should_stop(state.progress, settings.patience):
            _train_epoch(setup, state, rng, bar)
            _finish_epoch(setup, state, log_epoch)
            bar.set_postfix({name: f"{state.epochs[-1][name]:.3f}" for name in ("train_loss", f"val_{settings.watch}")})
            if is_out_of_time(state.tally, settings):
                log.info("training_ended", reason="train.max_seconds has passed", epoch=state.epochs[-1]["epoch"])
                break
    load_parameters(task.model, state.best)
    memory = memory_by_part(task.model, optimizer)
    return FitResult(state.best, state.progress, state.guard, state.tally, state.steps, state.epochs, memory)


def is_out_of_time(tally: Tally, settings: Train) -> bool:
    """Return whether steps and validations have taken `max_seconds`; 0 means no limit."""
    return 0 < settings.max_seconds <= tally.seconds + tally.validation_s


def tolerance(score: float, rows: int, settings: Train) -> float:
    """Return how much worse than the best an epoch may score and still be kept."""
    is_share = settings.watch != "loss"
    return standard_error(score, rows) if is_share and settings.keep == "latest_within_error" else 0.0


def standard_error(share: float, rows: int) -> float:
    """Return the binomial standard error of a share over so many rows; macro-F1 varies a little more.

    The share is that of one more hit and one more miss (Laplace 1774): few rows that are all right are not certain to stay so.
    """
    smoothed = (share * rows + 1) / (rows + 2)
    return sqrt(smoothed * (1 - smoothed) / rows)


def _train_epoch(setup: TrainingSetup, state: TrainingState, rng: np.random.Generator, bar: Any) -> None:
    setup.task.model.train()
    settings = setup.settings
    state.rng_state = dict(rng.bit_generator.state)
    batches = bucketed_batches(setup.task.lengths, settings.batch_size, settings.bucket_batches, rng)
    for rows in batches[state.batch :]:
        started, cpu_started = perf_counter(), process_time()
        _train_step(setup, state, rows)
        state.batch += 1
        seconds, cpu_s = perf_counter() - started, process_time() - cpu_started
        state.tally = state.tally._replace(seconds=state.tally.seconds + seconds, cpu_s=state.tally.cpu_s + cpu_s)
        bar.update()
        if setup.checkpoints and setup.checkpoints.is_due():
            setup.checkpoints.write(snapshot(state, setup.task.model, setup.optimizer), state.step)
        if is_out_of_time(state.tally, settings):
            break


def _train_step(setup: TrainingSetup, state: TrainingState, rows: list[int]) -> None:
    """Compute gradients, evaluate them, and step the optimiser if the guard allows it."""
    settings, accelerator = setup.settings, setup.accelerator
    loss, padded = setup.gradients(rows)
    norm = float(accelerator.clip_grad_norm_(setup.parameters, settings.clip_norm))
    scale = accelerator.scaler.get_scale() if accelerator.scaler else 1.0
    state.guard, verdict = evaluate_step(state.guard, loss, norm, settings, scale)
    rate = lr_factor(state.step, setup.length, settings) * state.plateau.factor * state.guard.rate
    set_rates(setup.optimizer, rate)
    if verdict.is_taken:
        setup.optimizer.step()
    setup.optimizer.zero_grad()
    state.step += 1
    values = {"loss": loss, "lr": rate * settings.encoder_lr, "grad_norm": norm, "lr_backoff": state.guard.rate}
    is_bad = verdict not in (GOOD, SCALED_DOWN)
    if is_bad or state.step % settings.log_every_steps == 0:
        state.steps.append({"step": state.step, **values})
        setup.log_step(state.step, values)
    if is_bad:
        log.warning("bad_step", step=state.step, verdict=verdict.name, is_taken=verdict.is_taken, **values)
        refuse_after_bad_steps(state.guard, verdict, state.step, loss, norm, settings)
    state.tally = state.tally.add_step(loss, len(rows), real=sum(setup.task.lengths[row] for row in rows), padded=padded)


def _finish_epoch(setup: TrainingSetup, state: TrainingState, log_epoch: LogValues) -> None:
    """Validate, keep the parameters if the epoch is the best so far, and log."""
    task, settings, epoch = setup.task, setup.settings, state.epoch
    started = perf_counter()
    scores = task.validate()
    score = watched_score(scores, settings)
    state.plateau = plateau_after_epoch(state.plateau, score, settings)
    state.progress = advance(state.progress, epoch, score, settings, tolerance(score, task.val_rows, settings))
    if state.progress.improved:
        state.best = trainable_state(task.model)
    values = {"train_loss": state.tally.mean_loss, **{f"val_{name}": value for name, value in scores.items()}}
    state.epochs.append({"epoch": epoch, **values})
    log_epoch(epoch, values)
    state.tally = state.tally.close_epoch(perf_counter() - started)
    state.epoch, state.batch = epoch + 1, 0
