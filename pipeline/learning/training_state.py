"""What changes while training, and as what it is written down."""

import json
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pipeline.learning.early_stopping import Progress
from pipeline.learning.gradient_guard import GuardState
from pipeline.learning.schedule import Plateau

Table = list[dict[str, float]]


class Tally(NamedTuple):
    """Sums over the run, and over the epoch."""

    rows: int = 0
    real: int = 0  # pieces
    padded: int = 0
    seconds: float = 0.0  # in steps, without validation
    validation_s: float = 0.0
    epoch_loss: float = 0.0  # times rows
    epoch_rows: int = 0
    cpu_s: float = 0.0  # in steps, all threads of the process

    @property
    def mean_loss(self) -> float:
        """Of the epoch's rows so far."""
        return self.epoch_loss / self.epoch_rows

    def after(self, loss: float, rows: int, *, real: int, padded: int) -> "Tally":
        """One more step."""
        return self._replace(
            rows=self.rows + rows,
            real=self.real + real,
            padded=self.padded + padded,
            epoch_loss=self.epoch_loss + loss * rows,
            epoch_rows=self.epoch_rows + rows,
        )

    def after_epoch(self, validation_s: float) -> "Tally":
        """The epoch's sums start anew."""
        return self._replace(validation_s=self.validation_s + validation_s, epoch_loss=0.0, epoch_rows=0)


@dataclass
class TrainingState:
    """All that changes while training, but for parameters, optimiser and torch's random numbers."""

    step: int = 0
    epoch: int = 1
    batch: int = 0  # batches of this epoch that are learnt
    order: dict[str, Any] = field(default_factory=dict)  # of the random generator, before it ordered this epoch
    guard: GuardState = field(default_factory=GuardState)
    plateau: Plateau = field(default_factory=Plateau)
    progress: Progress = field(default_factory=Progress)
    tally: Tally = field(default_factory=Tally)
    best: dict[str, Tensor] = field(default_factory=dict)
    steps: Table = field(default_factory=list)
    epochs: Table = field(default_factory=list)

    def written(self) -> str:
        """Everything but the tensors, as JSON; numbers come back bit for bit."""
        return json.dumps(asdict(replace(self, best={})))

    @classmethod
    def read(cls, text: str, best: dict[str, Tensor]) -> "TrainingState":
        """What `written` wrote, with the tensors beside it."""
        values = json.loads(text)
        norms, *others = values["guard"]
        own = {"guard": GuardState(tuple(norms), *others), "best": best}
        records = {"plateau": Plateau, "progress": Progress, "tally": Tally}
        return cls(**{**values, **{name: record(*values[name]) for name, record in records.items()}, **own})


def copy_parameters(model: nn.Module, names: list[str]) -> dict[str, Tensor]:
    """Copies of these parameters."""
    own = dict(model.named_parameters())
    return {name: own[name].detach().cpu().clone() for name in names}


@torch.no_grad()
def load_parameters(model: nn.Module, state: dict[str, Tensor]) -> None:
    """The parameters that `trainable` copied, back into the model."""
    own = dict(model.named_parameters())
    for name, value in state.items():
        own[name].copy_(value)
