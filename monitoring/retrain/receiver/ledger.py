"""Enters webhooks into the journal: those that come while a commit is on its way share the next one.

A commit is a write to the disk that has to be waited for; fifty callers who each waited for their own would wait for fifty.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import NamedTuple

import sqlalchemy as sa

from monitoring.retrain.alerts import Heard, enter, unseen

REMEMBERED = 50_000  # digests of webhooks whose alerts are all committed
WAITING = 2_000  # webhooks that wait for a commit; more are refused


class FullError(Exception):
    """No more is taken now; nothing was written."""


class Waiting(NamedTuple):
    """One webhook on its way into the journal."""

    heard: list[Heard]
    written: asyncio.Future[None]


class Ledger:
    """One writer. `known` spares what was committed before: nothing is ever taken out of the table of alerts.

    `tally` hears of every commit: alerts that were new, and alerts that were there.
    """

    def __init__(
        self, engine: sa.Engine, max_unseen: int, tally: Callable[[int, int], None], clock: Callable[[], float] = time.time
    ) -> None:
        self._engine, self._max_unseen, self._tally, self._clock = engine, max_unseen, tally, clock
        self._waiting: list[Waiting] = []
        self._wake = asyncio.Event()
        self._known: OrderedDict[bytes, None] = OrderedDict()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ledger")

    @property
    def waiting(self) -> int:
        """Webhooks that wait for a commit."""
        return len(self._waiting)

    def is_known(self, digest: bytes) -> bool:
        """Whether a webhook with this digest was entered, and committed, since the start."""
        return digest in self._known

    async def enter(self, digest: bytes, heard: list[Heard]) -> None:
        """Return once it is committed. Raises `FullError`, or what the database raises."""
        if len(self._waiting) >= WAITING:
            raise FullError
        one = Waiting(heard, asyncio.get_running_loop().create_future())
        self._waiting.append(one)
        self._wake.set()
        await one.written
        self._known[digest] = None
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)

    async def run(self) -> None:
        """Write until cancelled; what waits then is told that it was not written."""
        loop = asyncio.get_running_loop()
        batch: list[Waiting] = []
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                batch, self._waiting = self._waiting, []
                try:
                    taken, new = await loop.run_in_executor(self._thread, self._write, [one.heard for one in batch])
                except Exception as error:  # whatever the database said, it said to all of them
                    for one in batch:
                        _tell(one, error)
                    continue
                self._tally(new, sum(len(one.heard) for one, is_in in zip(batch, taken, strict=True) if is_in) - new)
                for one, is_in in zip(batch, taken, strict=True):
                    _tell(one, None if is_in else FullError())
        finally:
            for one in [*batch, *self._waiting]:
                _tell(one, FullError())
            self._thread.shutdown()

    def _write(self, batch: list[list[Heard]]) -> tuple[list[bool], int]:
        """One transaction: which webhooks are in, each whole or not at all, and how many alerts were new."""
        now_s = self._clock()
        with self._engine.begin() as connection:
            room = self._max_unseen - unseen(connection)
            together = [one for heard in batch for one in heard]
            if len(together) <= room:
                return [True] * len(batch), enter(connection, together, now_s) if together else 0
            taken, new = [], 0
            for heard in batch:
                count = _enter_if_there_is_room(connection, heard, now_s, room - new)
                taken.append(count is not None)
                new += count or 0
        return taken, new


def _enter_if_there_is_room(connection: sa.Connection, heard: list[Heard], now_s: float, room: int) -> int | None:
    """How many alerts were new; None: there is no room for them, and none was entered."""
    with suppress(FullError), connection.begin_nested():
        new = enter(connection, heard, now_s) if heard else 0
        if new > room:
            raise FullError
        return new
    return None


def _tell(one: Waiting, error: Exception | None) -> None:
    if one.written.done():  # its caller has gone
        return
    if error:
        one.written.set_exception(error)
    else:
        one.written.set_result(None)
