"""The one training loop, readable from top to bottom. What is learnt comes in as a `Task`; files and MLflow stay outside."""

from collections.abc import Callable
from math import sqrt
from time import perf_counter, process_time
from typing import Any, NamedTuple

import numpy as np
import structlog
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from tqdm import tqdm

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
from pipeline.params import Train

LogValues = Callable[[int, dict[str, float]], None]  # (step or epoch, values)
log = structlog.get_logger()


class FitResult(NamedTuple):
    """The best trainable state by validation, and the story of the run."""

    state: dict[str, Tensor]
    progress: Progress
    guard: GuardState
    tally: Tally
    steps: Table
    epochs: Table
    memory: dict[str, int]  # bytes by part


class TrainingSetup(NamedTuple):
    """What stays the same while training."""

    task: Task
    settings: Train
    accelerator: Accelerator
    gradients: GradientAccumulator
    parameters: list[nn.Parameter]  # that are trained
    optimizer: torch.optim.Optimizer
    span: RunLength
    log_step: LogValues
    checkpoints: Checkpoints | None


def fit(
    task: Task, settings: Train, *, log_step: LogValues, log_epoch: LogValues, checkpoints: Checkpoints | None = None
) -> FitResult:
    """Fine-tune the task's model in place, stopping early; goes on from the newest of `checkpoints`, and writes new ones.

    Raises `RefusedError` when the gradients are hopeless.
    """
    scaled = "fp16" if task.precision == "fp16" else "no"  # fp16 with a scaler of the loss
    accelerator = Accelerator(cpu=distributed_state().device.type == "cpu", mixed_precision=scaled)
    model, optimizer = accelerator.prepare(task.model, make_optimizer(task.model, settings))
    span = RunLength.of(len(task.lengths), settings)
    parameters = [p for p in model.parameters() if p.requires_grad]
    state = (checkpoints and restore_checkpoint(checkpoints, task.model, optimizer)) or TrainingState(
        best=trainable_state(task.model)
    )
    order = np.random.default_rng(settings.seed)
    if state.order:
        order.bit_generator.state = state.order
    with (
        WorkerPool(task.lanes) as lanes,
        tqdm(total=span.total, initial=state.step, desc="train", unit="step", mininterval=1.0, dynamic_ncols=True) as bar,
    ):
        gradients = GradientAccumulator(task, model, accelerator, lanes, settings.accumulate)
        machine = TrainingSetup(task, settings, accelerator, gradients, parameters, optimizer, span, log_step, checkpoints)
        while state.epoch <= settings.epochs and not should_stop(state.progress, settings.patience):
            _learn_epoch(machine, state, order, bar)
            _close_epoch(machine, state, log_epoch)
            bar.set_postfix({name: f"{state.epochs[-1][name]:.3f}" for name in ("train_loss", f"val_{settings.watch}")})
            if is_out_of_time(state.tally, settings):
                log.info("training_ended", reason="train.max_seconds have passed", epoch=state.epochs[-1]["epoch"])
                break
    load_parameters(task.model, state.best)
    memory = memory_by_part(task.model, optimizer)
    return FitResult(state.best, state.progress, state.guard, state.tally, state.steps, state.epochs, memory)


def is_out_of_time(tally: Tally, settings: Train) -> bool:
    """Whether steps and validations took `max_seconds`; 0 is no limit."""
    return 0 < settings.max_seconds <= tally.seconds + tally.validation_s


def tolerance(score: float, rows: int, settings: Train) -> float:
    """How much worse than the best an epoch may be and still be the one to keep."""
    is_share = settings.watch != "loss"
    return standard_error(score, rows) if is_share and settings.keep == "latest_within_error" else 0.0


def standard_error(share: float, rows: int) -> float:
    """Binomial standard error of a share seen on so many rows; macro-F1 varies a little more."""
    return sqrt(share * (1 - share) / rows)


def _learn_epoch(machine: TrainingSetup, state: TrainingState, order: np.random.Generator, bar: Any) -> None:
    machine.task.model.train()
    settings = machine.settings
    state.order = dict(order.bit_generator.state)
    batches = bucketed_batches(machine.task.lengths, settings.batch_size, settings.bucket_batches, order)
    for rows in batches[state.batch :]:
        began, cpu_began = perf_counter(), process_time()
        _learn(machine, state, rows)
        state.batch += 1
        seconds, cpu_s = perf_counter() - began, process_time() - cpu_began
        state.tally = state.tally._replace(seconds=state.tally.seconds + seconds, cpu_s=state.tally.cpu_s + cpu_s)
        bar.update()
        if machine.checkpoints and machine.checkpoints.is_due():
            machine.checkpoints.write(snapshot(state, machine.task.model, machine.optimizer), state.step)
        if is_out_of_time(state.tally, settings):
            break


def _learn(machine: TrainingSetup, state: TrainingState, rows: list[int]) -> None:
    """One step: gradients, judgement, and the optimiser where the guard allows it."""
    settings, accelerator = machine.settings, machine.accelerator
    loss, padded = machine.gradients(rows)
    norm = float(accelerator.clip_grad_norm_(machine.parameters, settings.clip_norm))
    scale = accelerator.scaler.get_scale() if accelerator.scaler else 1.0
    state.guard, verdict = evaluate_step(state.guard, loss, norm, settings, scale)
    rate = lr_factor(state.step, machine.span, settings) * state.plateau.factor * state.guard.rate
    set_rates(machine.optimizer, rate)
    if verdict.is_taken:
        machine.optimizer.step()
    machine.optimizer.zero_grad()
    state.step += 1
    values = {"loss": loss, "lr": rate * settings.encoder_lr, "grad_norm": norm, "guard_rate": state.guard.rate}
    is_bad = verdict not in (GOOD, SCALED_DOWN)
    if is_bad or state.step % settings.log_every_steps == 0:
        state.steps.append({"step": state.step, **values})
        machine.log_step(state.step, values)
    if is_bad:
        log.warning("bad_step", step=state.step, verdict=verdict.name, is_taken=verdict.is_taken, **values)
        refuse_after_bad_steps(state.guard, verdict, state.step, loss, norm, settings)
    state.tally = state.tally.after(loss, len(rows), real=sum(machine.task.lengths[row] for row in rows), padded=padded)


def _close_epoch(machine: TrainingSetup, state: TrainingState, log_epoch: LogValues) -> None:
    """Validate, keep the state if it is the one to keep, tell."""
    task, settings, epoch = machine.task, machine.settings, state.epoch
    began = perf_counter()
    scores = task.validate()
    score = watched_score(scores, settings)
    state.plateau = plateau_after_epoch(state.plateau, score, settings)
    state.progress = advance(state.progress, epoch, score, settings, tolerance(score, task.val_rows, settings))
    if state.progress.improved:
        state.best = trainable_state(task.model)
    values = {"train_loss": state.tally.mean_loss, **{f"val_{name}": value for name, value in scores.items()}}
    state.epochs.append({"epoch": epoch, **values})
    log_epoch(epoch, values)
    state.tally = state.tally.after_epoch(perf_counter() - began)
    state.epoch, state.batch = epoch + 1, 0
