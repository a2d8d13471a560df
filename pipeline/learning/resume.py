"""Checkpoints of a training run that may be killed at any step: written atomically, marker last, and skipped if damaged.

A folder holds the checkpoints of one set of inputs and is named by their digest, so a changed data set or setting starts a
new training. Knows nothing of how a step is computed.
"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import file_digest, sha256
from pathlib import Path
from shutil import rmtree
from typing import Any, NamedTuple

import structlog
import torch
from filelock import BaseFileLock, FileLock, Timeout
from torch import nn

from pipeline.atomic_write import atomic_write
from pipeline.data.records import write_json
from pipeline.learning.training_state import TrainingState, load_parameters
from pipeline.network.classifier import trainable_state

NEWEST_KEPT = 2  # the second is for when the newest turns out to be damaged
EXPIRES_AFTER_S = 7 * 86400
Inputs = dict[str, str]  # name → value or digest
Snapshot = dict[str, Any]
log = structlog.get_logger()


class Checkpoint(NamedTuple):
    """An intact checkpoint and the contents of its marker."""

    path: Path
    step: int
    run: str | None  # MLflow run that wrote it
    inputs: Inputs


class Checkpoints:
    """The checkpoints in one folder. A checkpoint is valid if its marker exists and holds the digest of its bytes."""

    def __init__(self, folder: Path, inputs: Inputs, every_s: float) -> None:
        self.folder, self.inputs, self.every_s = folder, inputs, every_s
        self.latest = newest_checkpoint(folder)
        self.run = self.latest.run if self.latest else None  # recorded in the markers
        self._written = time.monotonic()

    def is_due(self) -> bool:
        """Return whether `every_s` seconds have passed since the last checkpoint."""
        return time.monotonic() - self._written >= self.every_s

    def write(self, snapshot: Snapshot, step: int) -> None:
        """Write the snapshot, then its marker, and delete all but the last two. A full disk is logged; training continues."""
        path = self.folder / f"step-{step:08d}.pt"
        self._written = time.monotonic()
        try:
            with atomic_write(path) as part:
                torch.save(snapshot, part)
                digest = _digest(part)
            write_json(path.with_suffix(".json"), {"sha256": digest, "step": step, "run": self.run, "inputs": self.inputs})
            for old in sorted(self.folder.glob("step-*.pt"))[:-NEWEST_KEPT]:
                old.with_suffix(".json").unlink(missing_ok=True)
                old.unlink()
        except (OSError, RuntimeError) as error:  # torch raises RuntimeError when a disk is full
            log.warning("checkpoint_not_written", path=str(path), error=str(error)[:300])


def newest_checkpoint(folder: Path) -> Checkpoint | None:
    """Return the newest valid checkpoint; damaged and unmarked ones are logged and skipped."""
    for path in sorted(folder.glob("step-*.pt"), reverse=True):
        marker = _marker(path)
        if marker is None:
            log.warning("checkpoint_skipped", path=str(path), reason="it is incomplete: its marker is missing or unreadable")
        elif _digest(path) != marker["sha256"]:
            log.warning("checkpoint_skipped", path=str(path), reason="its bytes do not match the digest in its marker")
        else:
            return Checkpoint(path, marker["step"], marker["run"], marker["inputs"])
    return None


def snapshot(state: TrainingState, model: nn.Module, optimizer: torch.optim.Optimizer) -> Snapshot:
    """Return everything needed to resume bit for bit (on a CPU): state, trained parameters, optimiser and random state."""
    return {
        "state": state.to_json(),
        "best": state.best,
        "parameters": trainable_state(model),
        "optimizer": optimizer.state_dict(),
        "random": torch.get_rng_state(),
        "random_cuda": torch.cuda.get_rng_state_all(),
    }


def restore_checkpoint(checkpoints: Checkpoints, model: nn.Module, optimizer: torch.optim.Optimizer) -> TrainingState | None:
    """Restore the newest checkpoint and return its state; None when there is none."""
    latest = checkpoints.latest
    if latest is None:
        return None
    saved = torch.load(latest.path, map_location="cpu", weights_only=True)
    load_parameters(model, saved["parameters"])
    optimizer.load_state_dict(saved["optimizer"])
    torch.set_rng_state(saved["random"])
    torch.cuda.set_rng_state_all(saved["random_cuda"])
    log.info("training_resumed", from_step=latest.step, checkpoint=str(latest.path))
    return TrainingState.from_json(saved["state"], saved["best"])


@contextmanager
def open_checkpoints(inputs: Inputs, home: Path, every_s: float) -> Iterator[Checkpoints | None]:
    """Yield the checkpoints of this training under an exclusive lock; they are removed when the block succeeds.

    Yields None while another process trains on the same inputs: this one then writes no checkpoints.
    """
    root = home / "checkpoints"
    folder = root / sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / "lock", timeout=0)
    if not _is_acquired(lock):
        log.warning("checkpoints_disabled", reason="another process trains on the same inputs", folder=str(folder))
        yield None
        return
    try:
        delete_expired(folder)
        checkpoints = Checkpoints(folder, inputs, every_s)
        if checkpoints.latest is None:
            _log_changed_inputs(root, inputs)
        yield checkpoints
        rmtree(folder, ignore_errors=True)
    finally:
        lock.release()


def _is_acquired(lock: BaseFileLock) -> bool:
    try:
        lock.acquire()
    except Timeout:
        return False
    return True


def delete_expired(used: Path) -> None:
    """Delete the siblings of the `used` folder that have not been used for a week."""
    for folder in used.parent.iterdir():
        if folder.is_dir() and folder != used and time.time() - folder.stat().st_mtime > EXPIRES_AFTER_S:
            rmtree(folder, ignore_errors=True)


def _marker(path: Path) -> dict[str, Any] | None:
    try:
        marker: dict[str, Any] = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        return marker if {"sha256", "step", "run", "inputs"} <= marker.keys() else None
    except (OSError, ValueError, AttributeError):
        return None


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def _log_changed_inputs(root: Path, inputs: Inputs) -> None:
    """Log which inputs differ from those of the last interrupted training, if there is one."""
    folders = sorted({path.parent for path in root.glob("*/step-*.json")}, key=lambda folder: folder.stat().st_mtime)
    other = newest_checkpoint(folders[-1]) if folders else None
    if other:
        changed = sorted(name for name in other.inputs.keys() | inputs.keys() if other.inputs.get(name) != inputs.get(name))
        log.warning("training_restarts", instead_of_step=other.step, changed_inputs=", ".join(changed))
