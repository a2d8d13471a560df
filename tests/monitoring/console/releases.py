"""Gradual releases as the release writes them, with copied texts whose ids the gateway of the home accepts."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from serving.key_file import read_key
from serving.prediction_ids import PredictionIds
from state.database import open_state
from state.tables import release_runs
from tests.monitoring.homes import Gateway
from tests.monitoring.release.copies import Copied, answers
from tests.monitoring.release.rows import release_row

COPIED: Sequence[Copied] = (
    ("the card was swallowed by the machine", "track", "refund"),
    ("where is it", "track", "track"),
    ("I want the rest of my money", "label 3", "refund"),
    ("did you send it yet", "refund", "track"),
)


def write_release(home: Path, copied: Sequence[Copied] = COPIED, **columns: Any) -> list[str]:
    """Write a release and the texts that both versions answered; return the texts' ids."""
    at = time.time() - 60
    ids = PredictionIds(read_key(home, "prediction")).issue(at, 1, len(copied))
    rows = answers(copied, at)
    named = [row._replace(id=ids[number // 2]) for number, row in enumerate(rows)]
    if named:
        Gateway(home, "session").write(named)
    with open_state(home) as engine, engine.begin() as connection:
        connection.execute(release_runs.insert(), release_row(**columns))
    return ids
