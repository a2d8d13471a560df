"""The rows of gradual releases: read by everybody, written by the release under its retrain's lease, wishes by people.

`check_lease` raises when the caller may no longer write; it is called first in each transaction that writes.
"""

import json
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import sqlalchemy as sa

from serving.release.release_table import CheckLease
from state.tables import release_runs

Stage = Literal["shadow", "canary", "promote", "ended"]
Wish = Literal["none", "pause", "abort"]
ReleaseOutcome = Literal["promoted", "refused", "rolled_back", "aborted"]


class ReleaseExample(NamedTuple):
    """A text that shows how the versions differ."""

    prediction_id: str
    text: str
    champion: str  # the label that it gave
    challenger: str
    label: str | None  # that people gave; None: nobody has


class ReleaseRun(NamedTuple):
    """A gradual release that runs or has ended. Times are seconds of the epoch."""

    retrain_id: int
    version: int  # the challenger
    champion: int  # with which it is compared
    salt: str  # of the routing, under which the gateways count
    stage: Stage
    rung: int  # of release.steps, in the canary; counts from 0
    wish: Wish
    evidence: dict[str, Any]  # the state of every test
    began_at: float
    stage_began_at: float  # the stage's, or the rung's
    looked_at: float | None
    outcome: ReleaseOutcome | None  # None: it runs
    reason: str | None
    broken: str | None  # the guardrail that broke
    examples: list[ReleaseExample]  # texts that show it
    ended_at: float | None


_OF_RETRAIN = release_runs.c.retrain_id == sa.bindparam("the_retrain_id")
_IS_RUNNING = release_runs.c.outcome.is_(None)
_READ = sa.select(*(release_runs.c[name] for name in ReleaseRun._fields))
_READ_ONE = _READ.where(_OF_RETRAIN)
_READ_RUNNING = _READ.where(_IS_RUNNING).order_by(release_runs.c.retrain_id.desc()).limit(1)
_READ_NEWEST = _READ.order_by(release_runs.c.retrain_id.desc()).limit(sa.bindparam("the_limit"))
_WRITE = release_runs.update().where(_OF_RETRAIN, _IS_RUNNING)


def read_run(connection: sa.Connection, retrain_id: int) -> ReleaseRun | None:
    """Return the release of a retrain, None without one."""
    row = connection.execute(_READ_ONE, {"the_retrain_id": retrain_id}).one_or_none()
    return _run(row) if row else None


def running_run(connection: sa.Connection) -> ReleaseRun | None:
    """Return the release that runs, None when none does."""
    row = connection.execute(_READ_RUNNING).one_or_none()
    return _run(row) if row else None


def newest_runs(connection: sa.Connection, at_most: int) -> list[ReleaseRun]:
    """Return the newest releases, running or ended, the newest first."""
    return [_run(row) for row in connection.execute(_READ_NEWEST, {"the_limit": at_most})]


def first_run(retrain_id: int, version: int, champion: int, salt: str, now: float) -> ReleaseRun:
    """Return a release that has just begun."""
    return ReleaseRun(
        retrain_id, version, champion, salt, "shadow", 0, "none", {}, now, now, None, None, None, None, [], None
    )  # fmt: skip


def begin_run(connection: sa.Connection, run: ReleaseRun, check_lease: CheckLease) -> ReleaseRun:
    """Insert a release, unless its retrain has one; return the one that stands."""
    check_lease(connection)
    known = read_run(connection, run.retrain_id)
    if known is not None:
        return known
    connection.execute(release_runs.insert(), _stored(run._asdict()))
    return run


def write_run(connection: sa.Connection, retrain_id: int, check_lease: CheckLease, **columns: Any) -> bool:
    """Set columns of a release that runs; return False, and change nothing, when it has ended."""
    check_lease(connection)
    return connection.execute(_WRITE, {"the_retrain_id": retrain_id, **_stored(columns)}).rowcount == 1


def end_run(
    connection: sa.Connection,
    retrain_id: int,
    check_lease: CheckLease,
    *,
    outcome: ReleaseOutcome,
    reason: str,
    at: float,
    broken: str | None = None,
    examples: Sequence[ReleaseExample] = (),
) -> bool:
    """End a release; return False, and change nothing, when it has ended before: an outcome is set once."""
    columns = {"stage": "ended", "outcome": outcome, "reason": reason, "ended_at": at, "broken": broken}
    return write_run(connection, retrain_id, check_lease, **columns, examples=list(examples))


def set_wish(connection: sa.Connection, retrain_id: int, wish: Wish) -> bool:
    """Store what a person wishes of a release that runs; return False when it has ended. An abort is never taken back."""
    may_change = release_runs.c.wish != "abort"
    return connection.execute(_WRITE.where(may_change), {"the_retrain_id": retrain_id, "wish": wish}).rowcount == 1


def _run(row: sa.Row[Any]) -> ReleaseRun:
    values = dict(row._mapping)
    evidence = json.loads(values["evidence"])
    examples = [ReleaseExample(**example) for example in json.loads(values["examples"] or "[]")]
    return ReleaseRun(**values | {"evidence": evidence, "examples": examples})


def _stored(columns: dict[str, Any]) -> dict[str, Any]:
    stored = dict(columns)
    if "evidence" in stored:
        stored["evidence"] = json.dumps(stored["evidence"])
    if "examples" in stored:
        stored["examples"] = json.dumps([example._asdict() for example in stored["examples"]])
    return stored
