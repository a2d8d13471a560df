"""The training loop on a two-class task that a few steps separate, on the real base model."""

from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from pipeline.errors import RefusedError
from pipeline.learning.classification import classification_task, init_head_from_class_means, validate
from pipeline.learning.loop import FitResult, fit
from pipeline.network.base_model import base_folder
from pipeline.network.classifier import TextClassifier, restore_classifier, trainable_state
from pipeline.network.inference import infer_in_batches
from pipeline.params import Params, Train
from tests.pipeline.learning.toy import Toy, fresh, toy_rows, toy_settings


class Training(NamedTuple):
    """A training and what it logged."""

    fitted: FitResult
    steps: list[tuple[int, dict[str, float]]]
    epochs: list[tuple[int, dict[str, float]]]
    classifier: TextClassifier


@pytest.fixture(scope="module")
def settings(params: Params) -> Train:
    return toy_settings(params)


@pytest.fixture(scope="module")
def toy(params: Params) -> Toy:
    return toy_rows(params)


def train(params: Params, toy: Toy, settings: Train, scores: Any = None, **changes: float) -> Training:
    """Train a new classifier; `scores` replace the macro-F1 of each epoch."""
    classifier, steps, epochs = fresh(params, **changes), [], []
    task = classification_task(classifier, *toy, settings, "fp32")
    if scores is not None:
        task = task._replace(validate=lambda: {"loss": 1.0, "accuracy": 0.5, "f1_macro": next(scores)})
    fitted = fit(
        task,
        settings,
        log_step=lambda step, values: steps.append((step, values)),
        log_epoch=lambda epoch, values: epochs.append((epoch, values)),
    )
    return Training(fitted, steps, epochs, classifier)


@pytest.fixture(scope="module")
def training(params: Params, toy: Toy, settings: Train) -> Training:
    return train(params, toy, settings)


def test_two_epochs_separate_the_toy_task(training: Training) -> None:
    assert training.fitted.progress.best == 1.0
    assert training.epochs[-1][1]["val_accuracy"] == 1.0


def test_the_loss_falls(training: Training) -> None:
    losses = [values["train_loss"] for _, values in training.epochs]
    assert losses[1] < losses[0]
    assert len(training.steps) == 2 * 4  # 14 rows in batches of 4


def test_steps_and_epochs_are_logged_in_order(training: Training) -> None:
    assert [step for step, _ in training.steps] == list(range(1, 9))
    assert [epoch for epoch, _ in training.epochs] == [1, 2]
    assert set(training.steps[0][1]) == {"loss", "lr", "grad_norm", "lr_backoff"}
    assert set(training.epochs[0][1]) == {"train_loss", "val_loss", "val_accuracy", "val_f1_macro"}


def test_the_logged_rates_are_those_of_the_schedule(training: Training, settings: Train) -> None:
    rates = [values["lr"] for _, values in training.steps]
    assert rates[0] == pytest.approx(settings.encoder_lr)  # a warm-up of one step
    assert rates[1] == pytest.approx(settings.encoder_lr)
    assert rates[2:] == sorted(rates[2:], reverse=True)
    assert 0 < rates[-1] < 0.1 * settings.encoder_lr


def test_the_frozen_base_does_not_change(training: Training, params: Params) -> None:
    base = dict(fresh(params).named_parameters())
    frozen = {name: p for name, p in training.classifier.named_parameters() if not p.requires_grad}
    assert frozen
    assert all(torch.equal(p, base[name]) for name, p in frozen.items())


def test_the_kept_state_scores_as_logged(training: Training, params: Params, toy: Toy) -> None:
    model = params.model.model_copy(update={"lora_rank": 4})
    restored = restore_classifier(base_folder(model), training.fitted.state, 2, model)
    logged = dict(training.epochs)[training.fitted.progress.best_epoch]
    scores = validate(restored, toy.val, batch_size=8, precision="fp32")
    assert scores["f1_macro"] == training.fitted.progress.best
    assert scores["loss"] == pytest.approx(logged["val_loss"], abs=1e-5)


def test_the_same_seed_gives_the_same_state_bit_for_bit(training: Training, params: Params, toy: Toy, settings: Train) -> None:
    again = train(params, toy, settings)
    assert all(torch.equal(again.fitted.state[name], value) for name, value in training.fitted.state.items())
    assert again.steps == training.steps


def test_the_first_loss_is_the_smoothed_one_by_its_formula(params: Params, toy: Toy, settings: Train) -> None:
    """(1 − ε) · −log p of the true class + ε · mean −log p over the classes (Szegedy et al. 2016)."""
    whole = settings.model_copy(update={"batch_size": 14, "epochs": 1, "label_smoothing": 0.3})
    training = train(params, toy, whole, dropout=0.0)
    logits = infer_in_batches(fresh(params, dropout=0.0).eval(), toy.train.pieces, batch_size=14, precision="fp32")
    surprise = np.log(np.exp(logits.numpy()).sum(axis=1, keepdims=True)) - logits.numpy()
    expected = 0.7 * surprise[np.arange(14), toy.train.targets.numpy()].mean() + 0.3 * surprise.mean()
    assert training.steps[0][1]["loss"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("clip_norm", "moves"), [(1.0, True), (1e-13, False)])
def test_gradients_are_clipped(clip_norm: float, moves: bool, params: Params, toy: Toy, settings: Train) -> None:
    """Adam's first step is the rate itself, unless the gradient is far below its ε of 1e-8."""
    single = settings.model_copy(update={"batch_size": 14, "epochs": 1, "clip_norm": clip_norm})
    change = train(params, toy, single).fitted.state["head.weight"] - fresh(params).head.weight
    assert bool(change.abs().max() > 0.1 * settings.head_lr) is moves


def test_training_stops_when_patience_ends(params: Params, toy: Toy, settings: Train) -> None:
    scores = iter([0.5, 0.9, 0.1, 0.1, 0.9])
    training = train(params, toy, settings.model_copy(update={"epochs": 6, "patience": 2, "ema_decay": 0.0}), scores)
    assert [epoch for epoch, _ in training.epochs] == [1, 2, 3, 4]
    assert training.fitted.progress.best_epoch == 2


def test_the_best_epoch_is_put_back_into_the_model(params: Params, toy: Toy, settings: Train) -> None:
    training = train(
        params, toy, settings.model_copy(update={"epochs": 3, "keep": "best", "ema_decay": 0.0}), iter([0.2, 0.9, 0.8])
    )
    assert training.fitted.progress.best_epoch == 2
    now = trainable_state(training.classifier)
    assert all(torch.equal(now[name], value) for name, value in training.fitted.state.items())
    longer = train(params, toy, settings.model_copy(update={"epochs": 3, "keep": "best"}), iter([0.2, 0.8, 0.9]))
    assert not torch.equal(longer.fitted.state["head.weight"], training.fitted.state["head.weight"])


def test_when_the_time_is_up_the_step_ends_and_is_validated_and_kept(params: Params, toy: Toy, settings: Train) -> None:
    training = train(params, toy, settings.model_copy(update={"max_seconds": 1e-9}))
    assert [step for step, _ in training.steps] == [1]
    assert [epoch for epoch, _ in training.epochs] == [1]
    assert training.epochs[0][1]["train_loss"] == training.steps[0][1]["loss"]
    assert training.fitted.progress.best_epoch == 1


def test_gradients_that_are_not_finite_end_the_training_and_name_the_rates(params: Params, toy: Toy, settings: Train) -> None:
    wild = settings.model_copy(update={"encoder_lr": 1e30, "head_lr": 1e30, "epochs": 6, "max_bad_steps": 3})
    with pytest.raises(RefusedError, match=r"3 bad steps in a row; the last one: not finite(.|\n)*lower train\.encoder_lr"):
        train(params, toy, wild)


@pytest.mark.parametrize(("on_explosion", "moves"), [("skip", False), ("clip", True)])
def test_an_exploded_step_lowers_the_rate_and_is_left_out_or_clipped_by_params(
    on_explosion: str, moves: bool, params: Params, toy: Toy, settings: Train
) -> None:
    """Adam's first step is the rate, so the halved rate shows in it."""
    changes = {"explosion": "absolute", "explosion_norm": 1e-6, "on_explosion": on_explosion, "batch_size": 14, "epochs": 1}
    training = train(params, toy, settings.model_copy(update=changes))
    change = (training.fitted.state["head.weight"] - fresh(params).head.weight).abs().max().item()
    assert change == pytest.approx(0.5 * settings.head_lr if moves else 0.0, rel=1e-3)
    assert training.steps[0][1]["lr_backoff"] == 0.5
    assert training.steps[0][1]["lr"] == 0.5 * settings.encoder_lr
    assert training.fitted.guard.bad_steps == 1


def test_the_rate_falls_when_validation_stagnates_and_the_schedule_is_plateau(params: Params, toy: Toy, settings: Train) -> None:
    changes = {"schedule": "plateau", "plateau_patience": 0, "decay_factor": 0.25, "epochs": 3, "warmup_share": 0.0}
    training = train(params, toy, settings.model_copy(update=changes), iter([0.5, 0.5, 0.6]))
    rates = [values["lr"] / settings.encoder_lr for _, values in training.steps]
    assert rates == [1.0] * 8 + [0.25] * 4  # the second epoch was no better than the first


def test_one_process_can_train_in_bf16_after_fp32(training: Training, params: Params, toy: Toy, settings: Train) -> None:
    single = settings.model_copy(update={"epochs": 1})
    task = classification_task(fresh(params), *toy, single, "bf16")
    fitted = fit(task, single, log_step=lambda *_: None, log_epoch=lambda *_: None)
    assert {value.dtype for value in fitted.state.values()} == {torch.float32}


def test_a_head_at_the_class_means_knows_the_task_before_training(params: Params, toy: Toy) -> None:
    classifier = fresh(params)
    before = trainable_state(classifier)
    init_head_from_class_means(classifier, toy.train, batch_size=8, precision="fp32")
    assert validate(classifier, toy.val, batch_size=8, precision="fp32")["accuracy"] >= 5 / 6  # chance is 1/2
    assert torch.allclose(classifier.head.weight.norm(dim=1), torch.ones(2))
    after = trainable_state(classifier)
    assert [name for name in after if not torch.equal(after[name], before[name])] == ["head.weight"]
