"""What every arm of the training bench shares: rows as pieces, LoRA, batch and rate, and windows of steps on demand."""

import json
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.learning.memory_use import peak_bytes
from pipeline.params import Params


class Settings(NamedTuple):
    """What has to be equal between the arms of a pair."""

    lora_rank: int
    lora_alpha: float
    lora_targets: str
    batch_size: int
    lr: float


def with_settings(params: Params, settings: Settings) -> Params:
    """The shipped params with what the arms share."""
    model = {"lora_rank": settings.lora_rank, "lora_alpha": settings.lora_alpha, "lora_targets": settings.lora_targets}
    rates = {"encoder_lr": settings.lr, "bottom_lr": settings.lr, "head_lr": settings.lr}
    train = {**rates, "batch_size": settings.batch_size, "epochs": 1000, "patience": 1000, "log_every_steps": 1}
    return params.model_copy(
        update={"model": params.model.model_copy(update=model), "train": params.train.model_copy(update=train)}
    )


class BenchRows(NamedTuple):
    """Texts as pieces, and the class index of each."""

    pieces: list[list[int]]
    targets: list[int]


def write_rows(path: Path, rows: BenchRows) -> None:
    """As JSON, for the children."""
    path.write_text(json.dumps(rows._asdict()), encoding="utf-8")


def read_rows(path: Path) -> BenchRows:
    """What `write_rows` wrote."""
    return BenchRows(**json.loads(path.read_text(encoding="utf-8")))


class Windows:
    """The child's side: a line `{"steps": 60}` opens a window, its last step answers; training stands still in between.

    The answer has the window's seconds and CPU seconds, examples, pieces processed and real, and the most memory ever held.
    """

    def __init__(self) -> None:
        self._left = 0
        self._began = self._cpu = 0.0
        self._counts: dict[str, int] = {}

    def count(self, rows: int, processed: int, real: int) -> None:
        """A batch was made."""
        for name, more in (("examples", rows), ("processed", processed), ("real", real)):
            self._counts[name] = self._counts.get(name, 0) + more

    def wait(self) -> bool:
        """For the next window; False when there is none. The first time it says that all is loaded."""
        if not self._began:
            print(json.dumps({"peak_bytes": peak_bytes()}), flush=True)
        line = sys.stdin.readline()
        if not line:
            return False
        self._left, self._counts = int(json.loads(line)["steps"]), {}
        self._began, self._cpu = time.perf_counter(), time.process_time()
        return True

    def step(self) -> bool:
        """A step was made; False when training is over."""
        self._left -= 1
        if self._left:
            return True
        took: dict[str, Any] = {"seconds": time.perf_counter() - self._began, "cpu_s": time.process_time() - self._cpu}
        print(json.dumps({**took, **self._counts, "peak_bytes": peak_bytes()}), flush=True)
        return self.wait()
