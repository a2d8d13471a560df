"""Files of accepted labels: one row a text, written by a retrain, read by stage ingest.

In `data/feedback/` there is a file for each day on which labels were given, so git and DVC show what a retrain added, and files
of earlier days change only when a label is withdrawn or overruled.
"""

import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.atomic_write import atomic_write

FILE = "feedback.jsonl"  # all rows, in the home; in `data/feedback/` rows without a date, of earlier releases
DATED = re.compile(r"feedback(-\d{4}-\d{2}-\d{2})?\.jsonl")
Row = Mapping[str, Any]


def read_file(path: Path) -> list[dict[str, Any]]:
    """Read the rows of earlier retrains; empty without a file."""
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]


def write_file(path: Path, rows: Sequence[Row]) -> None:
    """Write one row a line, in ASCII, so that no label can end a line."""
    with atomic_write(path) as part:
        part.write_text("".join(f"{json.dumps(dict(row))}\n" for row in rows), encoding="ascii")


def write_dated_files(folder: Path, rows: Sequence[Row]) -> None:
    """Write the rows into a file for each day (UTC) of `given_at`; remove files of days that have no rows any more."""
    by_name: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_name[dated_name(row)].append(row)
    for name, of_day in by_name.items():
        write_file(folder / name, of_day)
    for path in folder.glob("*.jsonl"):
        if DATED.fullmatch(path.name) and path.name not in by_name:
            path.unlink()


def dated_name(row: Row) -> str:
    """Return the name of the file that a row belongs to."""
    given_at = row.get("given_at")
    return f"feedback-{given_at[:10]}.jsonl" if given_at else FILE
