"""The baseline of a version: its reference and labels, read from a folder and calibrated once."""

import json
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from monitoring.drift.accuracy import AccuracyEstimator, fit_accuracy_estimator
from monitoring.drift.calibration import Calibration, calibrate
from pipeline.errors import InputError
from pipeline.params import Monitor
from pipeline.reference_profile import Reference, load_corrupted, load_reference
from serving.release.manifest import LINEAGE


class Baseline(NamedTuple):
    """Facts about one version that do not change while it serves."""

    version: int
    key: str  # SHA-256 of reference and settings: evidence under another key cannot be continued
    reference: Reference
    order: NDArray[np.int64]  # (classes,) position in labels.txt of each label of the reference
    estimator: AccuracyEstimator
    calibration: Calibration | None  # None: too few reference rows to promise anything
    recorded_at: float  # seconds since the epoch


def load_baseline(folder: Path, version: int, settings: Monitor) -> Baseline:
    """Read and calibrate the version's reference; raises `InputError` for a folder without a usable one."""
    path = folder / "reference.npz"
    try:
        data, labels = path.read_bytes(), (folder / "labels.txt").read_text(encoding="utf-8").splitlines()
        reference = load_reference(path)
        estimator = fit_accuracy_estimator(reference, load_corrupted(path), settings)
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise InputError(
            str(path), f"this is not a usable reference: {error}", "publish the version again, with its reference"
        ) from None
    return Baseline(
        version=version,
        key=sha256(data + "\n".join([*labels, settings.model_dump_json()]).encode()).hexdigest(),
        reference=reference,
        order=_order(path, reference.labels.tolist(), labels),
        estimator=estimator,
        calibration=calibrate(reference, settings),
        recorded_at=_recorded_at(folder),
    )


def _order(path: Path, wanted: list[str], labels: list[str]) -> NDArray[np.int64]:
    if sorted(wanted) != sorted(labels):
        raise InputError(str(path), "its labels differ from those of labels.txt in the same folder", "publish the version again")
    return np.array([labels.index(label) for label in wanted], dtype=np.int64)


def _recorded_at(folder: Path) -> float:
    """Return when the version was published, or the file's age where the lineage does not say."""
    try:
        return datetime.fromisoformat(json.loads((folder / LINEAGE).read_text(encoding="utf-8"))["published_at"]).timestamp()
    except (OSError, ValueError, KeyError):
        return (folder / "reference.npz").stat().st_mtime
