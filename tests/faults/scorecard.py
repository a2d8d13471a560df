"""What a drill leaves: promises with a verdict each, and `reports/drill/<name>.json`."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from evergreen.promises import Outcome, Promise, shown, table
from pipeline.data.records import json_values, write_json
from tests.bench.report import command, commit

__all__ = ["Outcome", "Promise", "shown", "table", "write"]


def write(outcome: Outcome, seconds: Sequence[Mapping[str, Any]], folder: Path) -> Path:
    """`<folder>/<name>.json`: verdicts, figures and time line, with the command, the commit and the date (UTC) of now."""
    path = folder / f"{outcome.name}.json"
    folder.mkdir(parents=True, exist_ok=True)
    promises = outcome.promises_with_verdicts()
    origin = {"command": command(), "commit": commit(), "date": datetime.now(UTC).isoformat(timespec="seconds")}
    told = {"drill": outcome.name, "title": outcome.title, "kept": outcome.is_kept, "promises": promises, "notes": outcome.notes}
    write_json(path, json_values({**told, **outcome.figures, **origin, "seconds": seconds}))
    return path
