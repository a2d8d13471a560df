"""What a version is judged by: its reference and labels out of a folder, calibrated. Made once for a version."""

import json
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from monitoring.drift.accuracy import Known, known
from monitoring.drift.calibration import Calibrated, calibrate
from pipeline.errors import InputError
from pipeline.params import Monitor
from pipeline.reference_profile import Reference, load_corrupted, load_reference
from serving.release.manifest import LINEAGE


class Judge(NamedTuple):
    """Everything about one version that does not change while it serves."""

    version: int
    key: str  # SHA-256 of reference and settings: evidence under another key cannot be gone on with
    reference: Reference
    order: NDArray[np.int64]  # (classes,) place in labels.txt of each label of the reference
    known: Known
    calibrated: Calibrated | None  # None: too few reference rows to promise anything
    recorded_at: float  # seconds of the epoch


def find_judge(folder: Path, version: int, settings: Monitor) -> Judge:
    """Read and calibrate; raises `InputError` for a folder without a usable reference."""
    path = folder / "reference.npz"
    try:
        data, labels = path.read_bytes(), (folder / "labels.txt").read_text(encoding="utf-8").splitlines()
        reference = load_reference(path)
        facts = known(reference, load_corrupted(path), settings)
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise InputError(str(path), f"this is no reference: {error}", "publish the version again, with its reference") from None
    return Judge(
        version=version,
        key=sha256(data + "\n".join([*labels, settings.model_dump_json()]).encode()).hexdigest(),
        reference=reference,
        order=_order(path, reference.labels.tolist(), labels),
        known=facts,
        calibrated=calibrate(reference, settings),
        recorded_at=_recorded_at(folder),
    )


def _order(path: Path, wanted: list[str], labels: list[str]) -> NDArray[np.int64]:
    if sorted(wanted) != sorted(labels):
        raise InputError(str(path), "it has other labels than labels.txt beside it", "publish the version again")
    return np.array([labels.index(label) for label in wanted], dtype=np.int64)


def _recorded_at(folder: Path) -> float:
    """When the version was published; where that is not said, the age of the file."""
    try:
        return datetime.fromisoformat(json.loads((folder / LINEAGE).read_text(encoding="utf-8"))["published_at"]).timestamp()
    except (OSError, ValueError, KeyError):
        return (folder / "reference.npz").stat().st_mtime
