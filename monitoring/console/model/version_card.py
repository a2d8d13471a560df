"""Reads what the signed folder of a version tells about it. Without MLflow: an answer needs no other server."""

from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from monitoring.console.model.figures import CalibrationPoint
from pipeline import metrics
from pipeline.card.facts import CARD, CardFacts, limits, read_facts, with_measured
from pipeline.params import Params, flatten
from pipeline.reference_profile import load_reference
from serving.release.manifest import MANIFEST, version_folder
from serving.release.signature import signed_folder

CARDS_HELD = 16
SECTIONS = ("data", "split", "spread", "model", "train")  # settings that make a model what it is


class ShownCalibration(NamedTuple):
    """Whether probabilities mean what they say, on the test rows."""

    points: list[CalibrationPoint]
    error: float  # expected calibration error
    error_before: float | None  # without the temperature


class VersionCard(NamedTuple):
    """A version's card; `is_whole` says whether the reports of its training travelled with it."""

    version: int
    folder: Path
    facts: CardFacts
    calibration: ShownCalibration | None
    limits: list[str]
    is_whole: bool


class Setting(NamedTuple):
    """A param whose value in the version is another one than in params.yaml here."""

    name: str
    value: str
    here: str


def read_card(version: int, params: Params, home: Path) -> VersionCard:
    """Return the card; raise `RefusedError` when the folder is missing, altered or not signed."""
    manifest = version_folder(home, version) / MANIFEST
    stamp = manifest.stat().st_mtime_ns if manifest.is_file() else 0
    settings = params.evaluate
    bootstrap = (settings.bootstrap_resamples, settings.confidence, settings.seed)
    title = f"{params.publish.name} version {version}"
    return _read_card(version, home, stamp, title, params.model.base, bootstrap, settings.calibration_bins)


@lru_cache(CARDS_HELD)
def _read_card(
    version: int, home: Path, _stamp: int, title: str, base: str, bootstrap: tuple[int, float, int], bins: int
) -> VersionCard:
    folder = signed_folder(version, home)
    reference = folder / "reference.npz"
    facts = read_facts(folder, title, base)
    if reference.is_file():
        facts = with_measured(facts, reference, bootstrap)
    calibration = _calibration(facts, reference, bins) if reference.is_file() else None
    return VersionCard(version, folder, facts, calibration, limits(facts), (folder / CARD).is_file())


def _calibration(facts: CardFacts, reference: Path, bins: int) -> ShownCalibration | None:
    """Return the reliability of the reference's probabilities, which are those of the test rows."""
    profile = load_reference(reference)
    if not len(profile.ids):
        return None
    best = profile.probabilities.argmax(axis=1)
    truth = np.where(profile.correct, best, -1).astype(np.int64)  # only whether it is right counts
    probabilities = profile.probabilities.astype(np.float64)
    points = [CalibrationPoint(*point) for point in metrics.reliability(probabilities, truth, bins)]
    test = facts.scores.get("test", {})
    measured = metrics.calibration_error(probabilities, truth, bins)
    return ShownCalibration(points, float(test.get("ece_calibrated", measured)), test.get("ece"))


def other_settings(facts: CardFacts, params: Params) -> list[Setting]:
    """Return the settings that make a model and differ from those of params.yaml here."""
    here = {key: value for name in SECTIONS for key, value in flatten(getattr(params, name), name).items()}
    return [
        Setting(name, value, str(here[name]))
        for name, value in sorted(facts.params.items())
        if name in here and _plain(value) != _plain(str(here[name]))
    ]


def _plain(value: str) -> float | str:
    """Return a number as a number: `1e-05` and `0.00001` are the same setting."""
    try:
        return float(value)
    except ValueError:
        return value
