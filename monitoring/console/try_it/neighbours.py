"""Finds the training texts of a version that are nearest to a text, by the model's outputs for both."""

from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from pipeline.card.training_texts import TRAINING_TEXTS, Neighbour, TrainingTexts, nearest, read_training_texts
from pipeline.errors import EvergreenError
from pipeline.params import Params
from serving.release.manifest import model_name, version_folder
from serving.release.signature import signed_folder
from serving.triton.client import Connection, TritonError, server_settings

SHOWN = 5
VERSIONS_HELD = 4
TIMEOUT_S = 5.0


class Neighbours(NamedTuple):
    """The nearest training texts, nearest first, or why there are none."""

    rows: list[Neighbour]
    problem: str = ""

    def others(self, label: str | None) -> int:
        """Return how many of them have another label."""
        return sum(row.label != label for row in self.rows)


async def find_neighbours(text: str, version: int, params: Params, home: Path) -> Neighbours:
    """Return the nearest training texts of the version; never raises for a version or a Triton that cannot tell."""
    try:
        known = training_texts(home, version)
    except (EvergreenError, OSError) as error:
        return Neighbours([], str(error))
    if known is None:
        return Neighbours([], f"version {version} was published without its training texts")
    connection = Connection(server_settings(params.serve))
    try:
        outputs = await connection.infer(model_name(version), [text], TIMEOUT_S)
    except TritonError as error:
        return Neighbours([], f"Triton gave no vector of this text: {error.what}")
    finally:
        await connection.close()
    if outputs.sketch.shape[1:] != known.sketch.shape[1:] or outputs.probabilities.shape[1:] != known.log_odds.shape[1:]:
        return Neighbours([], f"Triton serves another model as version {version} than this home holds")
    return Neighbours(nearest(known, outputs, SHOWN))


def training_texts(home: Path, version: int) -> TrainingTexts | None:
    """Return the version's training texts; None where it has none. Raise `RefusedError` when they are not what was signed."""
    file = version_folder(home, version) / TRAINING_TEXTS
    return _signed_texts(home, version, file.stat().st_mtime_ns) if file.is_file() else None


@lru_cache(VERSIONS_HELD)
def _signed_texts(home: Path, version: int, _stamp: int) -> TrainingTexts:
    return read_training_texts(signed_folder(version, home) / TRAINING_TEXTS)
