"""Signed callbacks of jobs that ended: what is sent, how a receiver checks it, and the loop that delivers until it is taken.

State is in the table, so a process that dies between sending and writing it down sends a second time, under the same
`Idempotency-Key`. Which addresses may be reached is decided in `serving.jobs.outbound`.
"""

import asyncio
import hmac
import json
import os
import re
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import sqlalchemy as sa
import structlog

from pipeline.errors import InputError
from pipeline.params import Jobs
from serving.jobs.outbound import CallbackRefusedError, Post, check_url
from serving.jobs.queue import backoff_s
from serving.jobs.workers import Tally, repeat
from state.tables import jobs

ID_HEADER, TIME_HEADER, SIGNATURE_HEADER = "Idempotency-Key", "Evergreen-Timestamp", "Evergreen-Signature"
SENT_AT_ONCE = 8  # a slow receiver delays seven others at most
MIN_KEY_BYTES = 16
SENT = [jobs.c[name] for name in ("id", "status", "result", "error", "callback_url", "callback_attempts")]
TIMESTAMP = re.compile(r"[0-9]{1,12}")

log = structlog.get_logger()


class Delivery(NamedTuple):
    """One attempt to deliver; its number is its fence."""

    id: str
    url: str
    body: bytes
    attempt: int


def read_key(home: Path) -> bytes:
    """The signing key: of the file `EVERGREEN_CALLBACK_KEY_FILE`, else of `callback.key` in the home, made when absent.

    Raises `InputError` when the file cannot be read or its key is too short.
    """
    chosen = os.environ.get("EVERGREEN_CALLBACK_KEY_FILE")
    path = Path(chosen) if chosen else home / "callback.key"
    try:
        if not chosen:
            _make_key(path)
        key = path.read_bytes().strip()
    except OSError as error:
        raise InputError(str(path), f"there is no callback key: {error.strerror}", "name a file that can be read") from None
    if len(key) < MIN_KEY_BYTES:
        raise InputError(str(path), f"the callback key is shorter than {MIN_KEY_BYTES} bytes", "openssl rand -hex 32")
    return key


def sign(body: bytes, key: bytes, timestamp: int) -> dict[str, str]:
    """Headers of time and signature: `v1=` and the hex HMAC-SHA256 of `<timestamp>.<body>`."""
    return {TIME_HEADER: str(timestamp), SIGNATURE_HEADER: f"v1={_signature(body, key, str(timestamp))}"}


def verify(body: bytes, headers: Mapping[str, str], key: bytes, now: float, tolerance_s: float) -> bool:
    """For receivers: whether this came from the holder of the key, at most `tolerance_s` ago. Takes constant time."""
    found = {name.lower(): value for name, value in headers.items()}
    timestamp = found.get(TIME_HEADER.lower(), "")
    if not TIMESTAMP.fullmatch(timestamp) or abs(now - int(timestamp)) > tolerance_s:
        return False
    wanted = f"v1={_signature(body, key, timestamp)}".encode()
    return hmac.compare_digest(found.get(SIGNATURE_HEADER.lower(), "").encode("utf-8", "replace"), wanted)


def next_delivery(engine: sa.Engine, *, now: float, settings: Jobs) -> Delivery | None:
    """Take the callback that has been due for longest, under a lease; None: nothing is due.

    One whose last attempt was never written down is given up, so that what ends the process cannot do so for ever.
    """
    with engine.begin() as connection:
        while row := _longest_due(connection, now):
            if row.callback_attempts < settings.callback_attempts:
                lease = {"callback_status": "sending", "callback_due_at": now + settings.callback_timeout_s + settings.lease_s}
                attempt = row.callback_attempts + 1
                connection.execute(jobs.update().where(jobs.c.id == row.id).values(callback_attempts=attempt, **lease))
                break
            connection.execute(jobs.update().where(jobs.c.id == row.id).values(callback_status="given_up"))
    return Delivery(row.id, row.callback_url, _body(row), attempt) if row else None


def record(engine: sa.Engine, delivery: Delivery, status: str, *, due_at: float) -> bool:
    """Write down what became of an attempt (delivered, pending or given_up); False: a later attempt has begun meanwhile."""
    ours = (jobs.c.callback_status == "sending") & (jobs.c.callback_attempts == delivery.attempt)
    values = {"callback_status": status, "callback_due_at": due_at}
    with engine.begin() as connection:
        return connection.execute(jobs.update().where(jobs.c.id == delivery.id, ours).values(values)).rowcount == 1


async def deliver(
    engine: sa.Engine,
    settings: Jobs,
    post: Post,
    key: bytes,
    *,
    clock: Callable[[], float],
    draw: Callable[[], float],
    stop: asyncio.Event,
    tally: Tally = lambda _outcome: None,
) -> None:
    """Deliver callbacks until `stop` is set; those on their way then are waited for, `callback_timeout_s` at most.

    `post` comes from `outbound.open_post`; `draw` gives numbers in [0, 1) for the jitter. `tally` hears delivered, retried,
    given_up and error (the database failed; the loop goes on).
    """
    room = asyncio.Semaphore(SENT_AT_ONCE)

    async def send(delivery: Delivery) -> None:
        try:
            outcome, error = await _attempt(delivery, settings, post, key, clock)
            if error:
                log.warning("callback: not delivered", job=delivery.id, attempt=delivery.attempt, error=error)
            due_at = clock() + backoff_s(delivery.attempt) * (0.5 + draw())  # 0.5 to 1.5 times, so that retries spread out
            await asyncio.to_thread(record, engine, delivery, outcome, due_at=due_at)
            tally("retried" if outcome == "pending" else outcome)
        except Exception:
            log.exception("callback: what became of it could not be written", job=delivery.id)
            tally("error")
        finally:
            room.release()

    async with asyncio.TaskGroup() as group:

        async def send_next() -> bool:
            await room.acquire()
            delivery = None
            try:
                delivery = await asyncio.to_thread(next_delivery, engine, now=clock(), settings=settings)
            finally:
                if delivery is None:
                    room.release()
            if delivery is not None:
                group.create_task(send(delivery))
            return delivery is not None

        await repeat(send_next, settings.poll_ms / 1000, stop, tally)


async def _attempt(
    delivery: Delivery, settings: Jobs, post: Post, key: bytes, clock: Callable[[], float]
) -> tuple[str, str | None]:
    """Send once: the callback's next status, and what was wrong. Only a 2xx is a delivery; a refused address is never tried."""
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


def _longest_due(connection: sa.Connection, now: float) -> sa.Row[*tuple[Any, ...]] | None:
    """The row to deliver next, locked against other deliverers; one at a time of two statuses, so that the index serves."""
    for status in ("sending", "pending"):
        due = sa.select(*SENT).where(jobs.c.callback_status == status, jobs.c.callback_due_at <= now)
        first = due.order_by(jobs.c.callback_due_at).limit(1).with_for_update(skip_locked=True)
        if row := connection.execute(first).one_or_none():
            return row
    return None


def _body(row: sa.Row[*tuple[Any, ...]]) -> bytes:
    """`{id, status, result | error}`; the result is JSON already, and may be long: it is not parsed again."""
    said = f'"result": {row.result}' if row.status == "done" else f'"error": {json.dumps(row.error)}'
    return f'{{"id": "{row.id}", "status": "{row.status}", {said}}}'.encode()


def _signature(body: bytes, key: bytes, timestamp: str) -> str:
    return hmac.new(key, timestamp.encode() + b"." + body, "sha256").hexdigest()


def _make_key(path: Path) -> None:
    """Make the key file unless there is one; of two processes that try at once, both then read the same whole key."""
    if path.exists():
        return
    draft = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:  # noqa: PTH123  # of a descriptor
        file.write(secrets.token_hex(32).encode())
    try:
        path.hardlink_to(draft)
    except FileExistsError:
        pass
    finally:
        draft.unlink()
