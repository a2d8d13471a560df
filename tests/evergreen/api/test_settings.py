"""Settings of a training are keywords, and each mistake is answered with the keyword that is meant."""

from typing import Any

import numpy as np
import pytest

from evergreen.api.settings import check_names, read_settings
from pipeline.errors import InputError
from tests.conftest import ROOT

PATH = ROOT / "params.yaml"


def test_a_keyword_changes_its_key_alone() -> None:
    before, after = read_settings(PATH, {}), read_settings(PATH, {"train__epochs": 3, "split__val_share": np.float64(0.2)})
    assert (after.train.epochs, after.split.val_share) == (3, 0.2)
    assert after.model_copy(update={"train": before.train, "split": before.split}) == before


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"epochs": 3}, "did you mean `train__epochs`"),
        ({"train__epoch": 3}, "did you mean `train__epochs`"),
        ({"train.epochs": 3}, "did you mean `train__epochs`"),
        ({"gateway__port": 1}, "a training has no setting `gateway__port`"),
        ({"data__source": "x.csv"}, r"reads no file\n.*evergreen.train\(texts, labels\)"),
        ({"train__epochs": 0}, "train__epochs=0: .*\n.*the nearest that works: 1"),
        ({"train__optimizer": "adam"}, "train__optimizer='adam': .*\n.*did you mean `adamw`"),
    ],
)
def test_a_mistake_names_the_keyword_and_what_is_meant(settings: dict[str, Any], fault: str) -> None:
    with pytest.raises(InputError, match=fault):
        read_settings(PATH, settings)


def test_all_mistakes_come_at_once() -> None:
    with pytest.raises(InputError) as raised:
        check_names(["epochs", "lora_rank"])
    assert len(raised.value.errors) == 2
