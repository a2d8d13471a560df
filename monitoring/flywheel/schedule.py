"""When the next round is due. Pure, but for the file that says when the last attempt failed."""

import json
from pathlib import Path

from pipeline.atomic_write import atomic_write
from pipeline.params import Flywheel

FAILED = "flywheel/failed.json"  # of an attempt since the last round; it survives a restart, so failing is no loop


def due_at(made_at: float | None, failed_at: float | None, now: float, settings: Flywheel) -> float:
    """Return when the next round is due: at once without a round, and some time after an attempt that failed.

    A time that lies in the future (the clock was set back) delays nothing beyond one interval from now.
    """
    regular = now if made_at is None else made_at + settings.every_s
    again = now if failed_at is None else failed_at + settings.retry_s
    return max(min(regular, now + settings.every_s), min(again, now + settings.retry_s))


def read_failed_at(home: Path) -> float | None:
    """Return when the last attempt failed; None if the last one succeeded, or there was none."""
    try:
        return float(json.loads((home / FAILED).read_text(encoding="ascii"))["at"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def store_failure(home: Path, at: float | None) -> None:
    """Remember when an attempt failed; None: it succeeded."""
    if at is None:
        (home / FAILED).unlink(missing_ok=True)
        return
    with atomic_write(home / FAILED) as part:
        part.write_text(json.dumps({"at": at}), encoding="ascii")
