"""Checkpoints of a training that may be killed at any step: written whole, marked last, and passed over where they are not sound.

A folder holds the checkpoints of one set of inputs: whatever the result depends on is in its name, so that a changed data set or
setting starts anew. Knows nothing of how a step is learnt.
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

NEWEST_KEPT = 2  # the newest; one is enough unless it turns out to be damaged
EXPIRES_AFTER_S = 7 * 86400  # what nobody came back to
Inputs = dict[str, str]  # name → value or digest
Snapshot = dict[str, Any]
log = structlog.get_logger()


class Checkpoint(NamedTuple):
    """A sound checkpoint and what its marker says."""

    path: Path
    step: int
    run: str | None  # the MLflow run that was writing it
    inputs: Inputs


class Checkpoints:
    """The checkpoints in one folder. A checkpoint counts when its marker is there and has the digest of its bytes."""

    def __init__(self, folder: Path, inputs: Inputs, every_s: float) -> None:
        self.folder, self.inputs, self.every_s = folder, inputs, every_s
        self.found = newest_checkpoint(folder)  # to go on from
        self.run = self.found.run if self.found else None  # is noted in the markers
        self._written = time.monotonic()

    def is_due(self) -> bool:
        """Whether the last one was written `every_s` seconds ago."""
        return time.monotonic() - self._written >= self.every_s

    def write(self, snapshot: Snapshot, step: int) -> None:
        """The snapshot, then its marker; older ones than the last two are deleted. A full disk is told, and stops no training."""
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
        except (OSError, RuntimeError) as error:  # torch raises its own where a disk is full
            log.warning("checkpoint_not_written", path=str(path), error=str(error)[:300])


def newest_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest sound checkpoint; what is damaged or unmarked is told and passed over."""
    for path in sorted(folder.glob("step-*.pt"), reverse=True):
        marker = _marker(path)
        if marker is None:
            log.warning("checkpoint_passed_over", path=str(path), reason="it was not written to the end")
        elif _digest(path) != marker["sha256"]:
            log.warning("checkpoint_passed_over", path=str(path), reason="its bytes are not those that were written")
        else:
            return Checkpoint(path, marker["step"], marker["run"], marker["inputs"])
    return None


def snapshot(state: TrainingState, model: nn.Module, optimizer: torch.optim.Optimizer) -> Snapshot:
    """All that is needed to go on bit for bit (on a CPU): the state, what is trained, the optimiser's state, random numbers."""
    return {
        "state": state.written(),
        "best": state.best,
        "parameters": trainable_state(model),
        "optimizer": optimizer.state_dict(),
        "random": torch.get_rng_state(),
        "random_cuda": torch.cuda.get_rng_state_all(),
    }


def restore_checkpoint(checkpoints: Checkpoints, model: nn.Module, optimizer: torch.optim.Optimizer) -> TrainingState | None:
    """Put the newest checkpoint back; None when there is none to go on from."""
    found = checkpoints.found
    if found is None:
        return None
    saved = torch.load(found.path, map_location="cpu", weights_only=True)
    load_parameters(model, saved["parameters"])
    optimizer.load_state_dict(saved["optimizer"])
    torch.set_rng_state(saved["random"])
    torch.cuda.set_rng_state_all(saved["random_cuda"])
    log.info("training_resumed", from_step=found.step, checkpoint=str(found.path))
    return TrainingState.read(saved["state"], saved["best"])


@contextmanager
def open_checkpoints(inputs: Inputs, home: Path, every_s: float) -> Iterator[Checkpoints | None]:
    """The checkpoints of this training, meanwhile ours alone, and removed when the block ends well.

    None while another process trains on the same inputs: this one then goes on without.
    """
    everyone = home / "checkpoints"
    own = everyone / sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:16]
    own.mkdir(parents=True, exist_ok=True)
    lock = FileLock(own / "lock", timeout=0)
    if not _is_acquired(lock):
        log.warning("no_checkpoints", reason="another process trains on the same inputs", folder=str(own))
        yield None
        return
    try:
        delete_expired(own)
        checkpoints = Checkpoints(own, inputs, every_s)
        if checkpoints.found is None:
            _tell_of_others(everyone, inputs)
        yield checkpoints
        rmtree(own, ignore_errors=True)
    finally:
        lock.release()


def _is_acquired(lock: BaseFileLock) -> bool:
    try:
        lock.acquire()
    except Timeout:
        return False
    return True


def delete_expired(own: Path) -> None:
    """Delete the folders beside this one that nobody has come back to for a week."""
    for folder in own.parent.iterdir():
        if folder.is_dir() and folder != own and time.time() - folder.stat().st_mtime > EXPIRES_AFTER_S:
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


def _tell_of_others(everyone: Path, ours: Inputs) -> None:
    """Where something else was interrupted, say which inputs of ours differ from its."""
    folders = sorted({path.parent for path in everyone.glob("*/step-*.json")}, key=lambda folder: folder.stat().st_mtime)
    other = newest_checkpoint(folders[-1]) if folders else None
    if other:
        names = sorted(name for name in other.inputs.keys() | ours.keys() if other.inputs.get(name) != ours.get(name))
        log.warning("training_starts_anew", instead_of_step=other.step, because_these_changed=", ".join(names))
