"""The training loop on a task of two classes that a few steps separate, on the real base model."""

from typing import NamedTuple

import numpy as np
import pytest
import torch

from pipeline.learning import loop
from pipeline.learning.base import base_folder
from pipeline.learning.batching import load_tokenizer, to_pieces
from pipeline.learning.inference import in_batches
from pipeline.learning.loop import Fitted, Rows, fit, start_from_class_means, validate
from pipeline.learning.model import TextClassifier, build, restore, trainable_state
from pipeline.params import Params, Train

PARCEL = (
    "where is my parcel", "has the package shipped yet", "track my order please", "the courier is late again",
    "when will it be delivered", "my delivery has not come", "the tracking number does not work", "is my order on its way",
    "the parcel was left in the rain", "which day does the van come",
)  # fmt: skip
MONEY = (
    "my card was declined", "the payment did not go through", "you charged me twice", "the checkout refuses my credit card",
    "can I pay by bank transfer", "money was taken but no order", "my voucher is not accepted", "the invoice shows a wrong sum",
    "an error came while paying", "why is the amount pending on my account",
)  # fmt: skip


class Story(NamedTuple):
    """A training with what it told on the way."""

    fitted: Fitted
    steps: list[tuple[int, dict[str, float]]]
    epochs: list[tuple[int, dict[str, float]]]
    classifier: TextClassifier


@pytest.fixture(scope="module")
def settings(params: Params) -> Train:
    few = {"epochs": 2, "batch_size": 4, "encoder_lr": 2e-3, "head_lr": 5e-2, "log_every_steps": 1, "patience": 2}
    return params.train.model_copy(update=few)


@pytest.fixture(scope="module")
def toy(params: Params) -> tuple[Rows, Rows]:
    """Training and validation rows."""
    tokenizer = load_tokenizer(base_folder(params.model), 32)

    def rows(of: slice) -> Rows:
        texts = [*PARCEL[of], *MONEY[of]]
        return Rows(to_pieces(tokenizer, texts), torch.tensor([0] * len(PARCEL[of]) + [1] * len(MONEY[of])))

    return rows(slice(0, 7)), rows(slice(7, 10))


def fresh(params: Params, **changes: float) -> TextClassifier:
    torch.manual_seed(7)
    return build(base_folder(params.model), 2, params.model.model_copy(update={"lora_rank": 4, **changes}))


def tell(params: Params, toy: tuple[Rows, Rows], settings: Train, **changes: float) -> Story:
    classifier, steps, epochs = fresh(params, **changes), [], []
    fitted = fit(
        classifier,
        *toy,
        settings,
        "fp32",
        log_step=lambda step, values: steps.append((step, values)),
        log_epoch=lambda epoch, values: epochs.append((epoch, values)),
    )
    return Story(fitted, steps, epochs, classifier)


@pytest.fixture(scope="module")
def story(params: Params, toy: tuple[Rows, Rows], settings: Train) -> Story:
    return tell(params, toy, settings)


def test_two_epochs_separate_the_toy_task(story: Story) -> None:
    assert story.fitted.progress.best == 1.0
    assert story.epochs[-1][1]["val_accuracy"] == 1.0


def test_the_loss_falls(story: Story) -> None:
    losses = [values["train_loss"] for _, values in story.epochs]
    assert losses[1] < losses[0]
    assert story.fitted.steps == 2 * 4  # 14 rows in batches of 4


def test_steps_and_epochs_are_told_in_order(story: Story) -> None:
    assert [step for step, _ in story.steps] == list(range(1, 9))
    assert [epoch for epoch, _ in story.epochs] == [1, 2]
    assert set(story.steps[0][1]) == {"loss", "lr", "grad_norm"}
    assert set(story.epochs[0][1]) == {"train_loss", "val_loss", "val_accuracy", "val_f1_macro"}


def test_the_told_rates_are_those_of_the_schedule(story: Story, settings: Train) -> None:
    rates = [values["lr"] for _, values in story.steps]
    assert rates[0] == pytest.approx(settings.encoder_lr)  # a warm-up of one step
    assert rates[1] == pytest.approx(settings.encoder_lr)
    assert rates[2:] == sorted(rates[2:], reverse=True)
    assert 0 < rates[-1] < 0.1 * settings.encoder_lr


def test_nothing_of_the_frozen_base_moves(story: Story, params: Params) -> None:
    base = dict(fresh(params).named_parameters())
    frozen = {name: p for name, p in story.classifier.named_parameters() if not p.requires_grad}
    assert frozen
    assert all(torch.equal(p, base[name]) for name, p in frozen.items())


def test_the_kept_state_scores_what_was_told(story: Story, params: Params, toy: tuple[Rows, Rows]) -> None:
    model = params.model.model_copy(update={"lora_rank": 4})
    kept = restore(base_folder(model), story.fitted.state, 2, model)
    told = dict(story.epochs)[story.fitted.progress.best_epoch]
    found = validate(kept, toy[1], batch_size=8, precision="fp32")
    assert found["f1_macro"] == story.fitted.progress.best
    assert found["loss"] == pytest.approx(told["val_loss"], abs=1e-5)


def test_the_same_seed_gives_the_same_state_bit_for_bit(
    story: Story, params: Params, toy: tuple[Rows, Rows], settings: Train
) -> None:
    again = tell(params, toy, settings)
    assert all(torch.equal(again.fitted.state[name], value) for name, value in story.fitted.state.items())
    assert again.steps == story.steps


def test_the_first_loss_is_the_smoothed_one_by_its_formula(params: Params, toy: tuple[Rows, Rows], settings: Train) -> None:
    """(1 − ε) · −log p of the true class + ε · mean −log p over the classes (Szegedy et al. 2016)."""
    whole = settings.model_copy(update={"batch_size": 14, "epochs": 1, "label_smoothing": 0.3})
    story = tell(params, toy, whole, dropout=0.0)
    logits = in_batches(fresh(params, dropout=0.0).eval(), toy[0].pieces, batch_size=14, precision="fp32")
    surprise = np.log(np.exp(logits.numpy()).sum(axis=1, keepdims=True)) - logits.numpy()
    expected = 0.7 * surprise[np.arange(14), toy[0].targets.numpy()].mean() + 0.3 * surprise.mean()
    assert story.steps[0][1]["loss"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("clip_norm", "moves"), [(1.0, True), (1e-13, False)])
def test_gradients_are_clipped(clip_norm: float, moves: bool, params: Params, toy: tuple[Rows, Rows], settings: Train) -> None:
    """Adam's first step is the rate itself, unless the gradient is far below its ε of 1e-8."""
    one = settings.model_copy(update={"batch_size": 14, "epochs": 1, "clip_norm": clip_norm})
    moved = tell(params, toy, one).fitted.state["head.weight"] - fresh(params).head.weight
    assert bool(moved.abs().max() > 0.1 * settings.head_lr) is moves


def test_training_stops_when_patience_ends(
    params: Params, toy: tuple[Rows, Rows], settings: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([0.5, 0.9, 0.1, 0.1, 0.9])
    monkeypatch.setattr(loop, "validate", lambda *_, **__: {"loss": 1.0, "accuracy": 0.5, "f1_macro": next(scores)})
    story = tell(params, toy, settings.model_copy(update={"epochs": 6, "patience": 2}))
    assert [epoch for epoch, _ in story.epochs] == [1, 2, 3, 4]
    assert story.fitted.progress.best_epoch == 2


def test_a_loss_that_is_no_number_ends_the_training_and_names_the_rates(
    params: Params, toy: tuple[Rows, Rows], settings: Train
) -> None:
    with pytest.raises(FloatingPointError, match=r"lower train\.encoder_lr"):
        tell(params, toy, settings.model_copy(update={"encoder_lr": 1e6, "head_lr": 1e6}))


def test_one_process_can_train_in_bf16_after_fp32(story: Story, params: Params, toy: tuple[Rows, Rows], settings: Train) -> None:
    one = settings.model_copy(update={"epochs": 1})
    fitted = fit(fresh(params), *toy, one, "bf16", log_step=lambda *_: None, log_epoch=lambda *_: None)
    assert {value.dtype for value in fitted.state.values()} == {torch.float32}


def test_a_head_at_the_class_means_knows_the_task_before_training(params: Params, toy: tuple[Rows, Rows]) -> None:
    classifier = fresh(params)
    before = trainable_state(classifier)
    start_from_class_means(classifier, toy[0], batch_size=8, precision="fp32")
    assert validate(classifier, toy[1], batch_size=8, precision="fp32")["accuracy"] >= 5 / 6  # chance is 1/2
    assert torch.allclose(classifier.head.weight.norm(dim=1), torch.ones(2))
    after = trainable_state(classifier)
    assert [name for name in after if not torch.equal(after[name], before[name])] == ["head.weight"]
