"""Share among the arms of the training bench: rows as pieces, equal settings, and windows of steps on request."""

import json
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.learning.memory_use import peak_bytes
from pipeline.params import Params


class Settings(NamedTuple):
    """Hold the settings that are equal in all arms."""

    lora_rank: int
    lora_alpha: float
    lora_targets: str
    batch_size: int
    lr: float


def with_settings(params: Params, settings: Settings) -> Params:
    """Return the shipped params with the shared settings."""
    model = {"lora_rank": settings.lora_rank, "lora_alpha": settings.lora_alpha, "lora_targets": settings.lora_targets}
    rates = {"encoder_lr": settings.lr, "bottom_lr": settings.lr, "head_lr": settings.lr}
    train = {**rates, "batch_size": settings.batch_size, "epochs": 1000, "patience": 1000, "log_every_steps": 1}
    return params.model_copy(
        update={"model": params.model.model_copy(update=model), "train": params.train.model_copy(update=train)}
    )


class BenchRows(NamedTuple):
    """Hold texts as pieces, and the class index of each."""

    pieces: list[list[int]]
    targets: list[int]


def write_rows(path: Path, rows: BenchRows) -> None:
    """Write the rows as JSON for the children."""
    path.write_text(json.dumps(rows._asdict()), encoding="utf-8")


def read_rows(path: Path) -> BenchRows:
    """Read the rows that `write_rows` wrote."""
    return BenchRows(**json.loads(path.read_text(encoding="utf-8")))


class Windows:
    """Run training in windows, in the child: a line `{"steps": 60}` starts one, and training waits after its last step.

    The answer has the window's seconds and CPU seconds, examples, processed and real pieces, and the peak memory of the process.
    """

    def __init__(self) -> None:
        self._left = 0
        self._started = self._cpu = 0.0
        self._counts: dict[str, int] = {}

    def count(self, rows: int, processed: int, real: int) -> None:
        """Count a batch."""
        for name, more in (("examples", rows), ("processed", processed), ("real", real)):
            self._counts[name] = self._counts.get(name, 0) + more

    def wait(self) -> bool:
        """Wait for the next window; return False when there is none. The first call reports that everything is loaded."""
        if not self._started:
            print(json.dumps({"peak_bytes": peak_bytes()}), flush=True)
        line = sys.stdin.readline()
        if not line:
            return False
        self._left, self._counts = int(json.loads(line)["steps"]), {}
        self._started, self._cpu = time.perf_counter(), time.process_time()
        return True

    def step(self) -> bool:
        """Count a step; return False when training is over."""
        self._left -= 1
        if self._left:
            return True
        times: dict[str, Any] = {"seconds": time.perf_counter() - self._started, "cpu_s": time.process_time() - self._cpu}
        print(json.dumps({**times, **self._counts, "peak_bytes": peak_bytes()}), flush=True)
        return self.wait()
