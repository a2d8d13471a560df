"""The mutable training state, and its serialisation as JSON."""

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
    """Sums over the run and the current epoch."""

    rows: int = 0
    real: int = 0  # pieces without padding
    padded: int = 0  # pieces with padding
    seconds: float = 0.0  # in steps, without validation
    validation_s: float = 0.0
    epoch_loss: float = 0.0  # times rows
    epoch_rows: int = 0
    cpu_s: float = 0.0  # in steps, all threads of the process

    @property
    def mean_loss(self) -> float:
        """Return the mean loss of the epoch's rows so far."""
        return self.epoch_loss / self.epoch_rows

    def add_step(self, loss: float, rows: int, *, real: int, padded: int) -> "Tally":
        """Return the sums with one more step."""
        return self._replace(
            rows=self.rows + rows,
            real=self.real + real,
            padded=self.padded + padded,
            epoch_loss=self.epoch_loss + loss * rows,
            epoch_rows=self.epoch_rows + rows,
        )

    def close_epoch(self, validation_s: float) -> "Tally":
        """Return the sums with those of the epoch reset."""
        return self._replace(validation_s=self.validation_s + validation_s, epoch_loss=0.0, epoch_rows=0)


@dataclass
class TrainingState:
    """Everything that changes while training, except parameters, optimiser and torch's random state."""

    step: int = 0
    epoch: int = 1
    batch: int = 0  # batches of this epoch that are done
    rng_state: dict[str, Any] = field(default_factory=dict)  # of the batch order's generator, at the start of this epoch
    guard: GuardState = field(default_factory=GuardState)
    plateau: Plateau = field(default_factory=Plateau)
    progress: Progress = field(default_factory=Progress)
    tally: Tally = field(default_factory=Tally)
    best: dict[str, Tensor] = field(default_factory=dict)
    steps: Table = field(default_factory=list)
    epochs: Table = field(default_factory=list)

    def to_json(self) -> str:
        """Serialise everything but the tensors as JSON; numbers are restored bit for bit."""
        return json.dumps(asdict(replace(self, best={})))

    @classmethod
    def from_json(cls, text: str, best: dict[str, Tensor]) -> "TrainingState":
        """Return the state that `to_json` wrote, with these tensors."""
        values = json.loads(text)
        norms, *guard = values["guard"]
        others = {"guard": GuardState(tuple(norms), *guard), "best": best}
        records = {"plateau": Plateau, "progress": Progress, "tally": Tally}
        return cls(**{**values, **{name: record(*values[name]) for name, record in records.items()}, **others})


def copy_parameters(model: nn.Module, names: list[str]) -> dict[str, Tensor]:
    """Return copies of these parameters on the CPU."""
    parameters = dict(model.named_parameters())
    return {name: parameters[name].detach().cpu().clone() for name in names}


@torch.no_grad()
def load_parameters(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Copy these parameters into the model."""
    parameters = dict(model.named_parameters())
    for name, value in state.items():
        parameters[name].copy_(value)
