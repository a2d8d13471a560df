"""A two-class task that a few steps separate, on the real base model; and a run that records calls."""

from typing import Any, NamedTuple

import torch

from pipeline.learning.classification import Rows
from pipeline.network.base_model import base_folder
from pipeline.network.classifier import TextClassifier, build_classifier
from pipeline.params import Params, Train
from pipeline.runtime.pieces import load_tokenizer, to_pieces

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


class Toy(NamedTuple):
    """14 training rows and 6 validation rows."""

    train: Rows
    val: Rows


def toy_rows(params: Params) -> Toy:
    """Return training and validation rows."""
    tokenizer = load_tokenizer(base_folder(params.model), 32)

    def rows(part: slice) -> Rows:
        texts = [*PARCEL[part], *MONEY[part]]
        return Rows(to_pieces(tokenizer, texts), torch.tensor([0] * len(PARCEL[part]) + [1] * len(MONEY[part])))

    return Toy(rows(slice(0, 7)), rows(slice(7, 10)))


def toy_settings(params: Params) -> Train:
    """Return settings of two epochs with four steps each."""
    few = {"epochs": 2, "batch_size": 4, "encoder_lr": 2e-3, "bottom_lr": 2e-3, "head_lr": 5e-2, "log_every_steps": 1}
    return params.train.model_copy(update=few | {"patience": 2})


def fresh(params: Params, **changes: Any) -> TextClassifier:
    """Return the same untrained classifier each time; `changes` are of section model."""
    torch.manual_seed(7)
    return build_classifier(base_folder(params.model), 2, params.model.model_copy(update={"lora_rank": 4, **changes}))


class Recorder:
    """A fake run that records its calls in order."""

    id = None

    def __init__(self) -> None:
        self.calls: list[str] = []

    def figure(self, _figure: Any, name: str) -> None:
        self.calls.append(f"figure {name}")

    def tags(self, values: dict[str, str]) -> None:
        self.calls += [f"tag {name}={value}" for name, value in values.items()]

    def metrics(self, values: dict[str, float], step: int = 0) -> None:
        self.calls += [f"{name} {step}" for name in values]
