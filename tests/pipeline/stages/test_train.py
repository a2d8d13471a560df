"""Stage `train`: the events that it logs to the run, and their order."""

from typing import Any

import pytest

from pipeline.data.records import Example
from pipeline.learning.fit import fine_tune, prepare
from pipeline.params import Params
from tests.pipeline.learning.toy import Recorder

WORDS = {"parcel": "where is my parcel number", "money": "you charged my card twice on day"}


def rows(label: str, count: int) -> list[Example]:
    return [Example(id=f"{label}{n}", text=f"{WORDS[label]} {n}", label=label) for n in range(count)]


@pytest.fixture(scope="module")
def small(params: Params) -> Params:
    train = params.train.model_copy(update={"epochs": 1, "batch_size": 4, "precision": "fp32", "log_every_steps": 1})
    return params.model_copy(update={"train": train, "model": params.model.model_copy(update={"lora_rank": 2})})


@pytest.fixture(scope="module")
def events(small: Params, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    run: Any = Recorder()
    sides = [rows("parcel", count) + rows("money", count) for count in (8, 2)]
    fine_tune(prepare(*sides, small), small, run, None, tmp_path_factory.mktemp("home"))
    return list(run.calls)


def test_the_learning_rate_is_plotted_before_the_first_step(events: list[str]) -> None:
    assert events.index("figure schedule") < events.index("by_step/loss 1")


def test_every_step_is_logged_with_its_rate_and_its_norm(events: list[str]) -> None:
    for step in (1, 2, 3, 4):
        assert {f"by_step/{name} {step}" for name in ("loss", "lr", "grad_norm", "lr_backoff")} <= set(events)
    assert "by_epoch/val_f1_macro 1" in events
