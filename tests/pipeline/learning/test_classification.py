"""R-Drop: two passes with different dropout, and their divergence."""

import math

import pytest
import torch
from torch import Tensor, nn

from pipeline.learning.classification import Rows, classification_task, duplicate_rows, symmetric_kl
from pipeline.learning.loop import fit
from pipeline.params import Params, Train
from tests.pipeline.learning.toy import Toy, fresh, toy_rows, toy_settings


@pytest.fixture(scope="module")
def toy(params: Params) -> Toy:
    return toy_rows(params)


@pytest.fixture(scope="module")
def settings(params: Params) -> Train:
    return toy_settings(params).model_copy(update={"epochs": 1, "batch_size": 7})


def test_the_divergence_by_its_formula() -> None:
    """Between (0.8, 0.2) and (0.5, 0.5) by hand; a second row with equal outputs halves the mean."""
    forward = 0.8 * math.log(0.8 / 0.5) + 0.2 * math.log(0.2 / 0.5)
    reverse = 0.5 * math.log(0.5 / 0.8) + 0.5 * math.log(0.5 / 0.2)
    logits = torch.tensor([[0.8, 0.2], [0.3, 0.7], [0.5, 0.5], [0.3, 0.7]]).log() + 3.0
    assert float(symmetric_kl(logits)) == pytest.approx((forward + reverse) / 2 / 2, rel=1e-6)


def test_copies_follow_the_rows() -> None:
    assert duplicate_rows(torch.tensor([[1, 2], [3, 4]])).tolist() == [[1, 2], [3, 4], [1, 2], [3, 4]]


def losses(params: Params, toy: Toy, settings: Train, **model: object) -> list[float]:
    """Return the losses of a training's steps."""
    recorded: list[float] = []
    task = classification_task(fresh(params, **model), toy.train, toy.val, settings, "fp32")
    fit(task, settings, log_step=lambda _, values: recorded.append(values["loss"]), log_epoch=lambda *_: None)
    return recorded


def test_without_dropout_both_passes_are_equal(params: Params, toy: Toy, settings: Train) -> None:
    plain = losses(params, toy, settings, dropout=0.0)
    consistent = losses(params, toy, settings.model_copy(update={"consistency": 4.0}), dropout=0.0)
    assert consistent == pytest.approx(plain, abs=1e-4)


def test_with_dropout_the_divergence_is_added_to_the_loss(params: Params, toy: Toy, settings: Train) -> None:
    """The first step's loss at three weights lies on a line: passes and their divergence are the same in all."""
    first = [
        losses(params, toy, settings.model_copy(update={"consistency": weight}), dropout=0.3)[0] for weight in (1.0, 2.0, 4.0)
    ]
    assert first[1] - first[0] > 1e-3
    assert first[2] - first[0] == pytest.approx(3 * (first[1] - first[0]), rel=1e-3)


class Varying(nn.Module):
    """A model whose outputs differ by row, as dropout would make them; records the number of rows."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[int] = []

    def forward(self, input_ids: Tensor, attention_mask: Tensor, seed: int | None) -> Tensor:
        self.rows.append(len(input_ids))
        return torch.arange(2 * len(input_ids), dtype=torch.float32).view(-1, 2).sin()


def test_rows_are_doubled_only_with_consistency(params: Params, settings: Train) -> None:
    rows = Rows([[101, 7592, 102]] * 3, torch.tensor([0, 1, 0]))
    for weight, expected in ((0.0, 3), (0.5, 6)):
        task = classification_task(fresh(params), rows, rows, settings.model_copy(update={"consistency": weight}), "fp32")
        varying = Varying()
        task.loss(varying, task.batch([0, 1, 2]))
        assert varying.rows == [expected]
