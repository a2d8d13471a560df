"""The version that serves, and its labels, as far as this machine can read them."""

from pathlib import Path
from typing import NamedTuple

import sqlalchemy as sa

from pipeline.errors import EvergreenError
from serving.release.label_change import labels_of
from serving.release.manifest import version_folder
from serving.release.release_table import find_release
from state.database import read_state


class ServedLabels(NamedTuple):
    """The champion's version and labels; none where nothing is published, or its folder is not here."""

    version: int | None
    labels: frozenset[str]


def served_labels(home: Path) -> ServedLabels:
    """Return the champion's labels; never raises."""
    try:
        with read_state(home) as connection:
            release = None if connection is None else find_release(connection, role="champion")
        if release is None:
            return ServedLabels(None, frozenset())
        return ServedLabels(release.version, labels_of(version_folder(home, release.version)))
    except (EvergreenError, sa.exc.SQLAlchemyError, OSError, ValueError):
        return ServedLabels(None, frozenset())
