"""The durable queue of asynchronous jobs, in the table `jobs`. Who answers them and who calls back is not known here.

A job is queued, running under a lease, then done or failed for good. Whoever claims it gets a new fence number; with an older
one nothing can be written, so a job has one ending however many workers took it. Times are seconds of the epoch, handed in:
hosts that share a database must agree on them to within a fraction of `lease_s`.
"""

import hashlib
import json
import re
import secrets
from typing import Any, Literal, NamedTuple

import sqlalchemy as sa

from pipeline.errors import EvergreenError
from pipeline.params import Jobs
from serving.jobs.outbound import check_url
from state.tables import jobs

Status = Literal["queued", "running", "done", "failed"]
Payload = dict[str, Any]

FIRST_RETRY_S = 5.0
LONGEST_RETRY_S = 600.0
SWEPT_AT_ONCE = 500  # jobs of one transaction: SQLite has one writer, and it must not wait long
MAX_ERROR_CHARS = 2000
KEY = re.compile(r"[\x20-\x7e]{1,200}")
ID = re.compile(r"[0-9a-f]{32}")


class Job(NamedTuple):
    """A job as its caller sees it."""

    id: str
    status: Status
    attempts: int
    result: list[dict[str, Any]] | None
    error: str | None
    created_at: float
    finished_at: float | None
    callback_status: str


SHOWN = [jobs.c[name] for name in Job._fields]


class Claim(NamedTuple):
    """A job in a worker's hands, until its lease ends or a higher fence is given out."""

    id: str
    payload: Payload
    fence: int
    attempts: int  # this one included


class BadKeyError(EvergreenError):
    """An idempotency key that cannot be kept; the gateway's 422."""


class KeyReusedError(EvergreenError):
    """The same idempotency key with another request; the gateway's 409."""


class QueueFullError(EvergreenError):
    """More jobs wait than `jobs.max_waiting`; the gateway's 503."""


def submit(
    connection: sa.Connection,
    payload: Payload,
    *,
    idempotency_key: str | None,
    callback_url: str | None,
    now: float,
    settings: Jobs,
) -> Job:
    """Enter a job, or find the one that the same request entered before; the caller's transaction decides whether it stays.

    Raises `BadKeyError`, `KeyReusedError`, `QueueFullError` or `outbound.CallbackRefusedError`. A key is free again once its
    job was swept.
    """
    if idempotency_key is not None and not KEY.fullmatch(idempotency_key):
        raise BadKeyError("idempotency key", "this is not 1 to 200 printable ASCII characters", "use a UUID")
    if callback_url is not None:
        check_url(callback_url, settings)
    text = json.dumps(payload, sort_keys=True)
    digest = hashlib.sha256(json.dumps([text, callback_url]).encode()).hexdigest()
    if known := _of_same_request(connection, idempotency_key, digest):
        return known
    if _waiting(connection) >= settings.max_waiting:
        raise QueueFullError("jobs", f"{settings.max_waiting} jobs are waiting already", "submit this one again later")
    row = _new_row(text, digest, now) | {"idempotency_key": idempotency_key, "callback_url": callback_url}
    try:
        with connection.begin_nested():
            connection.execute(jobs.insert().values(row))
    except sa.exc.IntegrityError:  # another gateway entered it since we looked
        if known := _of_same_request(connection, idempotency_key, digest):
            return known
        raise
    return Job(row["id"], "queued", 0, None, None, now, None, "none")


def find(connection: sa.Connection, id: str) -> Job | None:
    """The job with this id, if there is one."""
    if not ID.fullmatch(id):
        return None  # PostgreSQL refuses to look for a NUL
    row = connection.execute(sa.select(*SHOWN).where(jobs.c.id == id)).one_or_none()
    return _job(row) if row else None


def census(connection: sa.Connection) -> dict[str, int]:
    """How many jobs there are by status, and how many callbacks as `callback_<status>`; for gauges."""
    counted: dict[str, int] = {}
    for column, prefix in ((jobs.c.status, ""), (jobs.c.callback_status, "callback_")):
        rows = connection.execute(sa.select(column, sa.func.count()).group_by(column))
        counted |= {prefix + status: number for status, number in rows}
    return counted


def claim(engine: sa.Engine, *, owner: str, now: float, settings: Jobs) -> Claim | None:
    """Take the job that has been due for longest: one whose lease ran out, else one that is queued. None: nothing is due.

    A job whose workers ended `max_attempts` times without a word is failed, not tried for ever.
    """
    with engine.begin() as connection:
        while row := _longest_due(connection, now):
            chosen = jobs.update().where(jobs.c.id == row.id)
            if row.attempts < settings.max_attempts:
                fence, attempts = row.fence + 1, row.attempts + 1
                lease = {"status": "running", "owner": owner[:64], "due_at": now + settings.lease_s}
                connection.execute(chosen.values(fence=fence, attempts=attempts, **lease))
                break
            error = f"each of {row.attempts} workers ended, or fell silent, before it had an answer"
            connection.execute(chosen.values(_ending("failed", now, error=error)))
    return Claim(row.id, json.loads(row.payload), fence, attempts) if row else None


def renew(engine: sa.Engine, held: Claim, *, now: float, settings: Jobs) -> bool:
    """Begin the lease anew; False: the job is somebody else's by now, or ended."""
    return _write(engine, held, {"due_at": now + settings.lease_s})


def finish(engine: sa.Engine, held: Claim, result: str, *, now: float) -> bool:
    """End the job with its result (JSON); False: the fence is stale, and nothing was written."""
    return _write(engine, held, _ending("done", now, result=result))


def fail(engine: sa.Engine, held: Claim, error: str, *, now: float, settings: Jobs) -> bool:
    """Queue the job again after a pause, or end it when this was its last attempt; False: the fence is stale."""
    error = _storable(error)
    if held.attempts >= settings.max_attempts:
        return _write(engine, held, _ending("failed", now, error=error))
    later = now + backoff_s(held.attempts)
    return _write(engine, held, {"status": "queued", "owner": None, "due_at": later, "error": error})


def hand_back(engine: sa.Engine, held: Claim) -> bool:
    """Queue the job again in its old place, as if this attempt had never been; False: the fence is stale."""
    return _write(engine, held, {"status": "queued", "owner": None, "due_at": jobs.c.created_at, "attempts": held.attempts - 1})


def sweep(engine: sa.Engine, *, now: float, settings: Jobs) -> int:
    """Delete jobs that ended `retention_s` ago, never one whose callback is still on its way; how many."""
    old = (
        sa.select(jobs.c.id)
        .where(
            jobs.c.status.in_(("done", "failed")),
            jobs.c.due_at <= now - settings.retention_s,
            jobs.c.callback_status.not_in(("pending", "sending")),
        )
        .limit(SWEPT_AT_ONCE)
    )
    swept = 0
    while True:
        with engine.begin() as connection:
            deleted = connection.execute(jobs.delete().where(jobs.c.id.in_(old))).rowcount
        swept += deleted
        if deleted < SWEPT_AT_ONCE:
            return swept


def backoff_s(attempt: int) -> float:
    """The pause after this attempt (1, 2, …): doubled each time, up to a limit."""
    return float(min(LONGEST_RETRY_S, FIRST_RETRY_S * 2 ** min(attempt - 1, 30)))


def _longest_due(connection: sa.Connection, now: float) -> sa.Row[*tuple[Any, ...]] | None:
    """The row to take next, locked against other takers: by SKIP LOCKED, in SQLite by the transaction itself."""
    for status in ("running", "queued"):  # one at a time, so that the index gives the first row without sorting
        due = sa.select(jobs.c.id, jobs.c.payload, jobs.c.fence, jobs.c.attempts).where(
            jobs.c.status == status, jobs.c.due_at <= now
        )
        first = due.order_by(jobs.c.due_at).limit(1).with_for_update(skip_locked=True)
        if row := connection.execute(first).one_or_none():
            return row
    return None


def _write(engine: sa.Engine, held: Claim, values: dict[str, Any]) -> bool:
    """Change a running job if the fence is still ours."""
    ours = (jobs.c.id == held.id) & (jobs.c.fence == held.fence) & (jobs.c.status == "running")
    with engine.begin() as connection:
        return connection.execute(jobs.update().where(ours).values(values)).rowcount == 1


def _ending(status: Status, now: float, *, result: str | None = None, error: str | None = None) -> dict[str, Any]:
    """Columns of a job that has ended; its callback is due from now on."""
    return {
        "status": status,
        "owner": None,
        "due_at": now,
        "finished_at": now,
        "result": result,
        "error": error,
        "callback_status": sa.case((jobs.c.callback_url.is_(None), "none"), else_="pending"),
        "callback_due_at": now,
    }


def _new_row(payload: str, digest: str, now: float) -> dict[str, Any]:
    return {
        "id": secrets.token_hex(16),
        "payload": payload,
        "payload_digest": digest,
        "status": "queued",
        "attempts": 0,
        "due_at": now,
        "fence": 0,
        "created_at": now,
        "callback_status": "none",
        "callback_attempts": 0,
        "callback_due_at": now,
    }


def _waiting(connection: sa.Connection) -> int:
    return connection.execute(sa.select(sa.func.count()).select_from(jobs).where(jobs.c.status == "queued")).scalar_one()


def _of_same_request(connection: sa.Connection, key: str | None, digest: str) -> Job | None:
    """The job that this key entered; raises `KeyReusedError` when it was another request."""
    if key is None:
        return None
    known = connection.execute(sa.select(*SHOWN, jobs.c.payload_digest).where(jobs.c.idempotency_key == key)).one_or_none()
    if known is None:
        return None
    if known.payload_digest != digest:
        raise KeyReusedError("idempotency key", "it came with another request before", "use a new key for a new request")
    return _job(known)


def _job(row: sa.Row[*tuple[Any, ...]]) -> Job:
    """The record of a row that begins with the columns SHOWN."""
    job = Job(*row[: len(SHOWN)])
    return job._replace(result=json.loads(row.result)) if row.result else job


def _storable(text: str) -> str:
    """The text without what PostgreSQL cannot keep: NUL and lone surrogates."""
    return text[:MAX_ERROR_CHARS].encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")
