"""The durable queue of asynchronous jobs, in the table `jobs`. Knows neither what answers them nor the callbacks.

A job is queued, running under a lease, then done or failed for good. Each claim gets a new fence number, and an older one cannot
write, so a job ends once however many workers claimed it. Times are seconds of the epoch, passed in: hosts that share a database
must agree on them to within a fraction of `lease_s`.
"""

import hashlib
import json
import re
import secrets
from collections.abc import Sequence
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
SWEEP_BATCH = 500  # jobs deleted in one transaction: SQLite has one writer, and others must not wait long
MAX_ERROR_CHARS = 2000
KEY = re.compile(r"[\x20-\x7e]{1,200}")
ID = re.compile(r"[0-9a-f]{32}")


class Job(NamedTuple):
    """A job as its caller sees it."""

    id: str
    status: Status
    attempts: int
    result: list[dict[str, Any]] | None  # `Prediction.as_response` for each text
    error: str | None
    created_at: float
    finished_at: float | None
    callback_status: str


JOB_COLUMNS = [jobs.c[name] for name in Job._fields]
CLAIM_COLUMNS = [jobs.c.id, jobs.c.payload, jobs.c.fence, jobs.c.attempts]


class Claim(NamedTuple):
    """A job that a worker holds until its lease ends or another claim gets a higher fence."""

    id: str
    payload: Payload
    fence: int
    attempts: int  # this one included


class BadKeyError(EvergreenError):
    """An idempotency key that cannot be stored; the gateway's 422."""


class KeyReusedError(EvergreenError):
    """An idempotency key that an earlier, different request used; the gateway's 409."""


class QueueFullError(EvergreenError):
    """More jobs wait than `jobs.max_waiting`, or all need more space than `jobs.max_stored_bytes`; the gateway's 503."""


def submit(
    connection: sa.Connection,
    payload: Payload,
    *,
    caller: str,
    idempotency_key: str | None,
    callback_url: str | None,
    now: float,
    settings: Jobs,
) -> Job:
    """Add a job of a caller, or return the one that the same request added before; the surrounding transaction commits it.

    A key belongs to its caller: a digest of both is stored. It is free again once its job has been swept. Raises `BadKeyError`,
    `KeyReusedError`, `QueueFullError` or `outbound.CallbackRefusedError`.
    """
    if idempotency_key is not None and not KEY.fullmatch(idempotency_key):
        raise BadKeyError("idempotency key", "this is not 1 to 200 printable ASCII characters", "use a UUID")
    if callback_url is not None:
        check_url(callback_url, settings)
    text = json.dumps(payload, sort_keys=True)
    digest = hashlib.sha256(json.dumps([text, callback_url]).encode()).hexdigest()
    key = None if idempotency_key is None else hashlib.sha256(json.dumps([caller, idempotency_key]).encode()).hexdigest()
    if existing := _find_by_key(connection, key, digest):
        return existing
    if _waiting(connection) >= settings.max_waiting:
        raise QueueFullError("jobs", f"{settings.max_waiting} jobs are waiting already", "submit this one again later")
    if stored_bytes(connection) + len(text) > settings.max_stored_bytes:
        raise QueueFullError("jobs", "the stored jobs need too much space", "submit this one again when old ones are deleted")
    row = _new_row(text, digest, now) | {"caller": caller, "idempotency_key": key, "callback_url": callback_url}
    try:
        with connection.begin_nested():
            connection.execute(jobs.insert().values(row))
    except sa.exc.IntegrityError:  # another gateway has just added it
        if existing := _find_by_key(connection, key, digest):
            return existing
        raise
    return Job(row["id"], "queued", 0, None, None, now, None, "none")


def find(connection: sa.Connection, id: str, caller: str) -> Job | None:
    """Return the caller's job with this id, if there is one."""
    if not ID.fullmatch(id):
        return None  # PostgreSQL refuses a NUL in a query
    row = connection.execute(sa.select(*JOB_COLUMNS).where(jobs.c.id == id, jobs.c.caller == caller)).one_or_none()
    return _job(row) if row else None


def claim_next(engine: sa.Engine, *, owner: str, now: float, settings: Jobs) -> Claim | None:
    """Claim the job that has been due for longest, or return None when none is due. Expired leases come before queued jobs.

    A job whose lease has expired `max_attempts` times fails, so that it is not retried for ever.
    """
    with engine.begin() as connection:
        while row := longest_due(connection, CLAIM_COLUMNS, jobs.c.status, ("running", "queued"), jobs.c.due_at, now):
            chosen = jobs.update().where(jobs.c.id == row.id)
            if row.attempts < settings.max_attempts:
                fence, attempts = row.fence + 1, row.attempts + 1
                lease = {"status": "running", "owner": owner[:64], "due_at": now + settings.lease_s}
                connection.execute(chosen.values(fence=fence, attempts=attempts, **lease))
                break
            error = f"each of {row.attempts} workers ended, or stopped renewing its lease, before it had an answer"
            connection.execute(chosen.values(_final_values("failed", now, error=error)))
    return Claim(row.id, json.loads(row.payload), fence, attempts) if row else None


def renew(engine: sa.Engine, claim: Claim, *, now: float, settings: Jobs) -> bool:
    """Extend the lease; False: the fence is stale, or the job has ended."""
    return _update_claimed(engine, claim, {"due_at": now + settings.lease_s})


def finish(engine: sa.Engine, claim: Claim, result: str, *, now: float) -> bool:
    """End the job with its result (JSON); False: the fence is stale and nothing was written."""
    return _update_claimed(engine, claim, _final_values("done", now, result=result))


def fail(engine: sa.Engine, claim: Claim, error: str, *, now: float, settings: Jobs) -> bool:
    """Queue the job again after a pause, or end it when this was its last attempt; False: the fence is stale."""
    error = _storable(error)
    if claim.attempts >= settings.max_attempts:
        return _update_claimed(engine, claim, _final_values("failed", now, error=error))
    later = now + backoff_s(claim.attempts)
    return _update_claimed(engine, claim, {"status": "queued", "owner": None, "due_at": later, "error": error})


def release(engine: sa.Engine, claim: Claim) -> bool:
    """Queue the job again in its old place without counting the attempt; False: the fence is stale."""
    unclaimed = {"status": "queued", "owner": None, "due_at": jobs.c.created_at, "attempts": claim.attempts - 1}
    return _update_claimed(engine, claim, unclaimed)


def sweep(engine: sa.Engine, *, now: float, settings: Jobs) -> int:
    """Delete jobs that ended `retention_s` ago unless their callback is still pending; return their number."""
    old = (
        sa.select(jobs.c.id)
        .where(
            jobs.c.status.in_(("done", "failed")),
            jobs.c.due_at <= now - settings.retention_s,
            jobs.c.callback_status.not_in(("pending", "sending")),
        )
        .limit(SWEEP_BATCH)
    )
    swept = 0
    while True:
        with engine.begin() as connection:
            deleted = connection.execute(jobs.delete().where(jobs.c.id.in_(old))).rowcount
        swept += deleted
        if deleted < SWEEP_BATCH:
            return swept


def backoff_s(attempt: int) -> float:
    """Return the pause after this attempt (1, 2, …): doubled each time, up to a limit."""
    return float(min(LONGEST_RETRY_S, FIRST_RETRY_S * 2 ** min(attempt - 1, 30)))


def longest_due(
    connection: sa.Connection,
    columns: Sequence[sa.Column[Any]],
    status_column: sa.Column[str],
    statuses: Sequence[str],
    due_column: sa.Column[float],
    now: float,
) -> sa.Row[*tuple[Any, ...]] | None:
    """Return the row that has been due for longest, and lock it. Statuses are tried in order; rows locked by others are skipped.

    In SQLite the transaction itself is the lock.
    """
    for status in statuses:  # one at a time, so that the index returns the first row without sorting
        due = sa.select(*columns).where(status_column == status, due_column <= now)
        first = due.order_by(due_column).limit(1).with_for_update(skip_locked=True)
        if row := connection.execute(first).one_or_none():
            return row
    return None


def _update_claimed(engine: sa.Engine, claim: Claim, values: dict[str, Any]) -> bool:
    """Change a running job if the claim's fence is still valid."""
    is_valid = (jobs.c.id == claim.id) & (jobs.c.fence == claim.fence) & (jobs.c.status == "running")
    with engine.begin() as connection:
        return connection.execute(jobs.update().where(is_valid).values(values)).rowcount == 1


def _final_values(status: Status, now: float, *, result: str | None = None, error: str | None = None) -> dict[str, Any]:
    """Return the columns of a job that has ended; its callback is due at once."""
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


def stored_bytes(connection: sa.Connection) -> int:
    """Return how many bytes all jobs take. SQLite cannot tell that quickly: there it is the size of the whole database."""
    if connection.dialect.name == "sqlite":
        pages, unused, size = (
            connection.execute(sa.select(getattr(sa.func, f"pragma_{name}")().table_valued(name).c[name])).scalar_one()
            for name in ("page_count", "freelist_count", "page_size")
        )
        return int((pages - unused) * size)
    sizes = sa.func.pg_column_size(jobs.c.payload) + sa.func.coalesce(sa.func.pg_column_size(jobs.c.result), 0)
    return int(connection.execute(sa.select(sa.func.coalesce(sa.func.sum(sizes), 0))).scalar_one())


def _find_by_key(connection: sa.Connection, key: str | None, digest: str) -> Job | None:
    """Return the job that was added with this key; raise `KeyReusedError` when its request was a different one."""
    if key is None:
        return None
    row = connection.execute(sa.select(*JOB_COLUMNS, jobs.c.payload_digest).where(jobs.c.idempotency_key == key)).one_or_none()
    if row is None:
        return None
    if row.payload_digest != digest:
        raise KeyReusedError("idempotency key", "an earlier, different request used it", "use a new key for a new request")
    return _job(row)


def _job(row: sa.Row[*tuple[Any, ...]]) -> Job:
    """Return the job of a row that begins with `JOB_COLUMNS`."""
    job = Job(*row[: len(JOB_COLUMNS)])
    return job._replace(result=json.loads(row.result)) if row.result else job


def _storable(text: str) -> str:
    """Escape what PostgreSQL cannot store: NUL and lone surrogates."""
    return text[:MAX_ERROR_CHARS].encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")
