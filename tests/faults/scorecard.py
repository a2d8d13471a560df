"""Write a drill's report, `reports/drill/<name>.json`: promises with their verdicts, figures and time line."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from evergreen.loop.promises import Outcome, Promise, shown, table
from pipeline.data.records import json_values, write_json
from tests.bench.report import command, commit

__all__ = ["Outcome", "Promise", "broken", "shown", "table", "write"]


def broken(promises: Iterable[Promise]) -> list[str]:
    """Return the promises that were not kept."""
    return [promise.what for promise in promises if not promise.is_kept]


def write(outcome: Outcome, seconds: Sequence[Mapping[str, Any]], folder: Path) -> Path:
    """Write `<folder>/<name>.json` with the command, the commit and the current UTC date."""
    path = folder / f"{outcome.name}.json"
    folder.mkdir(parents=True, exist_ok=True)
    origin = {"command": command(), "commit": commit(), "date": datetime.now(UTC).isoformat(timespec="seconds")}
    header = {
        "drill": outcome.name,
        "title": outcome.title,
        "kept": outcome.is_kept,
        "promises": outcome.promises_with_verdicts(),
        "notes": outcome.notes,
    }
    write_json(path, json_values({**header, **outcome.figures, **origin, "seconds": seconds}))
    return path
