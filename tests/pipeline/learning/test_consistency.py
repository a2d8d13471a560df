"""Two passes under other dropout, held together."""

import math

import pytest
import torch
from torch import Tensor, nn

from pipeline.learning.classification import Rows, classification_task
from pipeline.learning.consistency import duplicate_rows, symmetric_kl
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
    """Of (0.8, 0.2) and (0.5, 0.5) both ways by hand; a second row that does not differ halves the mean."""
    there = 0.8 * math.log(0.8 / 0.5) + 0.2 * math.log(0.2 / 0.5)
    back = 0.5 * math.log(0.5 / 0.8) + 0.5 * math.log(0.5 / 0.2)
    logits = torch.tensor([[0.8, 0.2], [0.3, 0.7], [0.5, 0.5], [0.3, 0.7]]).log() + 3.0
    assert float(symmetric_kl(logits)) == pytest.approx((there + back) / 2 / 2, rel=1e-6)


def test_copies_stand_behind_the_rows() -> None:
    assert duplicate_rows(torch.tensor([[1, 2], [3, 4]])).tolist() == [[1, 2], [3, 4], [1, 2], [3, 4]]


def losses(params: Params, toy: Toy, settings: Train, **model: object) -> list[float]:
    """Of a training's steps."""
    told: list[float] = []
    task = classification_task(fresh(params, **model), toy.train, toy.val, settings, "fp32")
    fit(task, settings, log_step=lambda _, values: told.append(values["loss"]), log_epoch=lambda *_: None)
    return told


def test_without_dropout_both_passes_are_one(params: Params, toy: Toy, settings: Train) -> None:
    plain = losses(params, toy, settings, dropout=0.0)
    held = losses(params, toy, settings.model_copy(update={"consistency": 4.0}), dropout=0.0)
    assert held == pytest.approx(plain, abs=1e-4)


def test_with_dropout_the_difference_of_the_passes_is_paid_for(params: Params, toy: Toy, settings: Train) -> None:
    """The first step's loss at three weights lies on a line: passes and their divergence are the same in all."""
    first = [
        losses(params, toy, settings.model_copy(update={"consistency": weight}), dropout=0.3)[0] for weight in (1.0, 2.0, 4.0)
    ]
    assert first[1] - first[0] > 1e-3
    assert first[2] - first[0] == pytest.approx(3 * (first[1] - first[0]), rel=1e-3)


class Wavering(nn.Module):
    """Answers that differ from call to row as dropout would make them; counts the rows it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[int] = []

    def forward(self, input_ids: Tensor, attention_mask: Tensor, seed: int | None) -> Tensor:
        self.rows.append(len(input_ids))
        return torch.arange(2 * len(input_ids), dtype=torch.float32).view(-1, 2).sin()


def test_rows_are_doubled_only_where_it_is_asked_for(params: Params, settings: Train) -> None:
    rows = Rows([[101, 7592, 102]] * 3, torch.tensor([0, 1, 0]))
    for weight, expected in ((0.0, 3), (0.5, 6)):
        task = classification_task(fresh(params), rows, rows, settings.model_copy(update={"consistency": weight}), "fp32")
        wavering = Wavering()
        task.loss(wavering, task.batch([0, 1, 2]))
        assert wavering.rows == [expected]
