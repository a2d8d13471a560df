"""The file of accepted labels: one row a text, written by a retrain, read by stage ingest."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.atomic_write import atomic_write

FILE = "feedback.jsonl"


def read_file(path: Path) -> list[dict[str, Any]]:
    """Read the rows of earlier retrains; empty without a file."""
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]


def write_file(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write one row a line, in ASCII, so that no label can end a line."""
    with atomic_write(path) as part:
        part.write_text("".join(f"{json.dumps(dict(row))}\n" for row in rows), encoding="ascii")
