"""What an alert on a release cannot carry: why it ended, and texts that show it. Read from the release's row."""

from collections.abc import Callable
from typing import NamedTuple

import sqlalchemy as sa

from monitoring.release.runs import ReleaseExample, newest_runs

RELEASE = "release"  # the area of its alerts
RUNS_READ = 50  # the newest
ENDINGS = ("rolled_back", "refused")


class ReleaseStory(NamedTuple):
    """How the newest release of a version ended, in a sentence, and its examples."""

    why: str
    examples: list[str]


FindStory = Callable[[str], ReleaseStory | None]  # by version


def read_story(connection: sa.Connection, version: int) -> ReleaseStory | None:
    """Return the story of the version's newest release if it was taken back, else None."""
    run = next((run for run in newest_runs(connection, RUNS_READ) if run.version == version), None)
    if run is None or run.outcome not in ENDINGS:
        return None
    reason = run.reason or ""
    return ReleaseStory(f"{reason[:1].upper()}{reason[1:]}", [describe_example(example) for example in run.examples])


def describe_example(example: ReleaseExample) -> str:
    """Return a text with both answers, and what people say."""
    said = f"; people: {example.label}" if example.label is not None else ""
    return f"{example.text}\n→ champion: {example.champion}; new version: {example.challenger}{said}"
