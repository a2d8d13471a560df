"""Writes alerts to the journal in batches: webhooks that arrive during one commit share the next.

A commit waits for the disk. With one commit for each webhook, the last of fifty callers would wait for fifty of them.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import NamedTuple

import sqlalchemy as sa

from monitoring.retrain.alerts import ReceivedAlert, count_unseen, insert_alerts

MAX_DIGESTS = 50_000  # of webhooks whose alerts are all committed
MAX_PENDING = 2_000  # webhooks that wait for a commit


class WriterFullError(Exception):
    """No more webhooks are accepted now; nothing was written."""


class PendingWebhook(NamedTuple):
    """A webhook that waits for its commit."""

    alerts: list[ReceivedAlert]
    committed: asyncio.Future[None]


class AlertWriter:
    """The only writer of alerts in this process.

    Digests of committed webhooks are remembered, which is safe because rows of the alerts table are never deleted. `on_commit`
    gets the number of new and of known alerts after every commit.
    """

    def __init__(
        self, engine: sa.Engine, max_unseen: int, on_commit: Callable[[int, int], None], clock: Callable[[], float] = time.time
    ) -> None:
        self._engine, self._max_unseen, self._on_commit, self._clock = engine, max_unseen, on_commit, clock
        self._pending: list[PendingWebhook] = []
        self._wake = asyncio.Event()
        self._known: OrderedDict[bytes, None] = OrderedDict()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="alert-writer")

    @property
    def pending(self) -> int:
        """Return the number of webhooks that wait for a commit."""
        return len(self._pending)

    def is_known(self, digest: bytes) -> bool:
        """Return whether a webhook with this digest has been committed since the start."""
        return digest in self._known

    async def write(self, digest: bytes, alerts: list[ReceivedAlert]) -> None:
        """Return once the alerts are committed. Raises `WriterFullError`, or the database's error."""
        if len(self._pending) >= MAX_PENDING:
            raise WriterFullError
        webhook = PendingWebhook(alerts, asyncio.get_running_loop().create_future())
        self._pending.append(webhook)
        self._wake.set()
        await webhook.committed
        self._known[digest] = None
        if len(self._known) > MAX_DIGESTS:
            self._known.popitem(last=False)

    async def run(self) -> None:
        """Write until cancelled; webhooks that are still pending then fail with `WriterFullError`."""
        loop = asyncio.get_running_loop()
        batch: list[PendingWebhook] = []
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                batch, self._pending = self._pending, []
                try:
                    accepted, new = await loop.run_in_executor(self._thread, self._insert, [item.alerts for item in batch])
                except Exception as error:  # a failed transaction fails every webhook in it
                    for webhook in batch:
                        _resolve(webhook, error)
                    continue
                total = sum(len(webhook.alerts) for webhook, is_in in zip(batch, accepted, strict=True) if is_in)
                self._on_commit(new, total - new)
                for webhook, is_in in zip(batch, accepted, strict=True):
                    _resolve(webhook, None if is_in else WriterFullError())
        finally:
            for webhook in [*batch, *self._pending]:
                _resolve(webhook, WriterFullError())
            self._thread.shutdown()

    def _insert(self, batch: list[list[ReceivedAlert]]) -> tuple[list[bool], int]:
        """Insert a batch in one transaction, each webhook whole or not at all; return which are in and how many are new."""
        now_s = self._clock()
        with self._engine.begin() as connection:
            free = self._max_unseen - count_unseen(connection)
            everything = [alert for alerts in batch for alert in alerts]
            if len(everything) <= free:
                return [True] * len(batch), insert_alerts(connection, everything, now_s) if everything else 0
            accepted, new = [], 0
            for alerts in batch:
                count = _insert_if_free(connection, alerts, now_s, free - new)
                accepted.append(count is not None)
                new += count or 0
        return accepted, new


def _insert_if_free(connection: sa.Connection, alerts: list[ReceivedAlert], now_s: float, free: int) -> int | None:
    """Return how many alerts were new, or None when more than `free` are new; then none is inserted."""
    with suppress(WriterFullError), connection.begin_nested():
        new = insert_alerts(connection, alerts, now_s) if alerts else 0
        if new > free:
            raise WriterFullError
        return new
    return None


def _resolve(webhook: PendingWebhook, error: Exception | None) -> None:
    if webhook.committed.done():  # its caller has disconnected
        return
    if error:
        webhook.committed.set_exception(error)
    else:
        webhook.committed.set_result(None)
