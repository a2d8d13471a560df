"""Waits for a state of the job queue, and counts its rows."""

import asyncio
import time
from collections.abc import Callable

import sqlalchemy as sa

from state.tables import jobs

DEADLINE_S = 60.0


async def until(is_so: Callable[[], bool]) -> None:
    """Poll in a thread until the condition holds."""
    deadline = time.monotonic() + DEADLINE_S
    while not await asyncio.to_thread(is_so):
        assert time.monotonic() < deadline, "it never came"
        await asyncio.sleep(0.01)


def count_by_status(connection: sa.Connection) -> dict[str, int]:
    """Return the number of jobs by status, and of callbacks by `callback_<status>`."""
    counts: dict[str, int] = {}
    for column, prefix in ((jobs.c.status, ""), (jobs.c.callback_status, "callback_")):
        rows = connection.execute(sa.select(column, sa.func.count()).group_by(column))
        counts |= {prefix + status: count for status, count in rows}
    return counts
