"""Signed callbacks of ended jobs: their body and signature, the receiver's check, and the loop that delivers them.

State is in the table: a process that dies between sending and recording the outcome sends again, under the same
`Idempotency-Key`. `serving.jobs.outbound` decides which addresses may be reached.
"""

import asyncio
import hmac
import json
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import sqlalchemy as sa
import structlog

from pipeline.params import Jobs
from serving.jobs.outbound import CallbackRefusedError, Post, check_url
from serving.jobs.queue import backoff_s, longest_due
from serving.jobs.workers import CountOutcome, repeat
from state.tables import jobs

ID_HEADER, TIME_HEADER, SIGNATURE_HEADER = "Idempotency-Key", "Evergreen-Timestamp", "Evergreen-Signature"
MAX_CONCURRENT = 8  # deliveries; a slow receiver delays seven others at most
DELIVERY_COLUMNS = [jobs.c[name] for name in ("id", "status", "result", "error", "callback_url", "callback_attempts")]
DUE = ("sending", "pending")  # an expired attempt first
TIMESTAMP = re.compile(r"[0-9]{1,12}")

log = structlog.get_logger()


class Delivery(NamedTuple):
    """One attempt to deliver; the number of the attempt is its fence."""

    id: str
    url: str
    body: bytes
    attempt: int


def sign(body: bytes, key: bytes, timestamp: int) -> dict[str, str]:
    """Return the timestamp and signature headers: `v1=` and the hex HMAC-SHA256 of `<timestamp>.<body>`."""
    return {TIME_HEADER: str(timestamp), SIGNATURE_HEADER: f"v1={_signature(body, key, str(timestamp))}"}


def verify(body: bytes, headers: Mapping[str, str], key: bytes, now: float, tolerance_s: float) -> bool:
    """Return whether the holder of the key signed this body at most `tolerance_s` ago, in constant time. For receivers."""
    lower = {name.lower(): value for name, value in headers.items()}
    timestamp = lower.get(TIME_HEADER.lower(), "")
    if not TIMESTAMP.fullmatch(timestamp) or abs(now - int(timestamp)) > tolerance_s:
        return False
    expected = f"v1={_signature(body, key, timestamp)}".encode()
    return hmac.compare_digest(lower.get(SIGNATURE_HEADER.lower(), "").encode("utf-8", "replace"), expected)


def next_delivery(engine: sa.Engine, *, now: float, settings: Jobs) -> Delivery | None:
    """Claim the callback that has been due for longest, under a lease; None: nothing is due.

    A callback whose last attempt has no recorded outcome is given up, so that it cannot crash the process again and again.
    """
    with engine.begin() as connection:
        while row := longest_due(connection, DELIVERY_COLUMNS, jobs.c.callback_status, DUE, jobs.c.callback_due_at, now):
            if row.callback_attempts < settings.callback_attempts:
                lease = {"callback_status": "sending", "callback_due_at": now + settings.callback_timeout_s + settings.lease_s}
                attempt = row.callback_attempts + 1
                connection.execute(jobs.update().where(jobs.c.id == row.id).values(callback_attempts=attempt, **lease))
                break
            connection.execute(jobs.update().where(jobs.c.id == row.id).values(callback_status="given_up"))
    return Delivery(row.id, row.callback_url, _body(row), attempt) if row else None


def record(engine: sa.Engine, delivery: Delivery, status: str, *, due_at: float) -> bool:
    """Store the outcome of an attempt (delivered, pending or given_up); False: a later attempt has begun."""
    is_valid = (jobs.c.callback_status == "sending") & (jobs.c.callback_attempts == delivery.attempt)
    values = {"callback_status": status, "callback_due_at": due_at}
    with engine.begin() as connection:
        return connection.execute(jobs.update().where(jobs.c.id == delivery.id, is_valid).values(values)).rowcount == 1


async def deliver(
    engine: sa.Engine,
    settings: Jobs,
    post: Post,
    key: bytes,
    *,
    clock: Callable[[], float],
    draw: Callable[[], float],
    stop: asyncio.Event,
    count_outcome: CountOutcome = lambda _outcome: None,
) -> None:
    """Deliver callbacks until `stop` is set, then wait for those in flight, for `callback_timeout_s` at most.

    `post` comes from `outbound.open_post`; `draw` returns numbers in [0, 1) for the jitter. `count_outcome` gets
    delivered, retried, given_up and error (the database failed; the loop goes on).
    """
    slots = asyncio.Semaphore(MAX_CONCURRENT)

    async def send(delivery: Delivery) -> None:
        try:
            outcome, error = await _attempt(delivery, settings, post, key, clock)
            if error:
                log.warning("callback: not delivered", job=delivery.id, attempt=delivery.attempt, error=error)
            due_at = clock() + backoff_s(delivery.attempt) * (0.5 + draw())  # 0.5 to 1.5 times, so that retries spread out
            await asyncio.to_thread(record, engine, delivery, outcome, due_at=due_at)
            count_outcome("retried" if outcome == "pending" else outcome)
        except Exception:
            log.exception("callback: the outcome could not be stored", job=delivery.id)
            count_outcome("error")
        finally:
            slots.release()

    async with asyncio.TaskGroup() as group:

        async def send_next() -> bool:
            await slots.acquire()
            delivery = None
            try:
                delivery = await asyncio.to_thread(next_delivery, engine, now=clock(), settings=settings)
            finally:
                if delivery is None:
                    slots.release()
            if delivery is not None:
                group.create_task(send(delivery))
            return delivery is not None

        await repeat(send_next, settings.poll_ms / 1000, stop, count_outcome)


async def _attempt(
    delivery: Delivery, settings: Jobs, post: Post, key: bytes, clock: Callable[[], float]
) -> tuple[str, str | None]:
    """Send once; return the callback's next status and the problem, if any. Only a 2xx is a delivery."""
    headers = {"Content-Type": "application/json", ID_HEADER: delivery.id, **sign(delivery.body, key, int(clock()))}
    try:
        check_url(delivery.url, settings)  # settings may be stricter now than when it was submitted
        status = await post(delivery.url, delivery.body, headers)
    except CallbackRefusedError as error:
        return "given_up", error.what
    except Exception as error:
        problem = f"{type(error).__name__}: {error}"
    else:
        if 200 <= status < 300:
            return "delivered", None
        problem = f"HTTP {status}"
    return "pending" if delivery.attempt < settings.callback_attempts else "given_up", problem


def _body(row: sa.Row[*tuple[Any, ...]]) -> bytes:
    """Return `{id, status, result | error}`; the result is JSON already and may be long, so it is not parsed again."""
    outcome = f'"result": {row.result}' if row.status == "done" else f'"error": {json.dumps(row.error)}'
    return f'{{"id": "{row.id}", "status": "{row.status}", {outcome}}}'.encode()


def _signature(body: bytes, key: bytes, timestamp: str) -> str:
    return hmac.new(key, timestamp.encode() + b"." + body, "sha256").hexdigest()
