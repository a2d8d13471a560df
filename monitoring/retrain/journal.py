"""The journal: every read and write of alerts, decisions, retrains and their steps. It neither decides nor acts.

Unique indexes allow each alert, each decision and the running retrain only once, whoever writes. The owner of a retrain holds a
lease with a fence number. Every later write carries the number, and one with an older number raises `StaleLeaseError`.
"""

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Literal, NamedTuple, get_args

import sqlalchemy as sa

from monitoring.clock import Moment, later
from monitoring.retrain import statements
from monitoring.retrain.alerts import decision_row, insert_or_ignore, storable
from monitoring.retrain.decide import Decision, Episode, PastRetrain
from monitoring.retrain.new_labels import last_learnt_feedback
from monitoring.retrain_activity import RELEASE_STEPS, is_claimable
from state.tables import decisions, retrain_steps

Step = Literal["collect", "reproduce", "gate", "publish", "shadow", "canary", "promote"]
STEPS: tuple[Step, ...] = get_args(Step)
FinalState = Literal["done", "refused", "rolled_back", "aborted", "failed", "cancelled"]
DECIDE_LOCK = 0x45564444  # the number of PostgreSQL's advisory lock: EVDD
BATCH_ALERTS = 500
Begin = Callable[[], AbstractContextManager[sa.Connection]]
MakeDecisions = Callable[[sa.Connection, list[Episode], list[PastRetrain]], list[Decision]]


class Lease(NamedTuple):
    """A lease on a retrain, valid until it expires or a higher fence is issued."""

    id: int  # of the retrain
    fence: int


class StaleLeaseError(Exception):
    """Another owner has the retrain, or it has ended: the caller must write nothing more."""

    def __init__(self, lease: Lease) -> None:
        super().__init__(f"retrain {lease.id}: fence {lease.fence} is stale")


class RetrainJob(NamedTuple):
    """A running retrain."""

    id: int
    decision_id: int
    step: Step
    attempt: int  # at this step, so far
    git_commit: str | None
    version_in: int | None
    version_out: int | None
    fingerprint: str
    alertname: str


class Journal:
    """The journal of one model; `begin` opens a transaction."""

    def __init__(self, begin: Begin, model: str) -> None:
        self._begin, self._model = begin, model

    def record_episodes(self, now: Moment) -> int:
        """Turn unseen alerts into episodes, at most `BATCH_ALERTS` at once; return the number of alerts."""
        with self._begin() as connection:
            rows = connection.execute(statements.UNSEEN, {"the_limit": BATCH_ALERTS}).all()
            if not rows:
                return 0
            new, batch = [decision_row(row, now) for row in rows], {"the_last": rows[-1].id}
            connection.execute(insert_or_ignore(connection, decisions), new)
            connection.execute(statements.END_EPISODES, batch)
            connection.execute(statements.MARK_SEEN, batch)
        return len(rows)

    def decide(self, make_decisions: MakeDecisions, now: Moment) -> list[Decision]:
        """Decide the waiting episodes and store the decisions that changed, in one transaction; return those."""
        with self._begin() as connection:
            if connection.dialect.name == "postgresql":  # one decider at a time; SQLite has a single writer anyway
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(DECIDE_LOCK)))
            episodes = _waiting(connection)
            stored = {episode.id: episode.reason for episode in episodes}
            made = make_decisions(connection, episodes, past_retrains(connection, self._model))
            changed = [
                decision for decision in made if decision.outcome != "waiting" or decision.reason != stored[decision.episode_id]
            ]
            started = None
            for decision in changed:
                if decision.outcome == "started":
                    started = self._start(connection, decision, now)
            rows = [
                _decided(decision, started if decision.retrain_id is None else decision.retrain_id, now) for decision in changed
            ]
            if rows:
                connection.execute(statements.DECIDE, rows)
        return changed

    def claim(self, owner: str, now: Moment, *, lease_s: float) -> tuple[Lease, RetrainJob] | None:
        """Lease the running retrain if it is due and nobody works on it; the last owner's open step becomes `lost`."""
        with self._begin() as connection:
            row = connection.execute(statements.LEASE, {"the_model": self._model}).one_or_none()
            if row is None or not is_claimable(row.owner, Moment(row.lease_wall, row.lease_mono, row.lease_boot), now):
                return None
            lease = Lease(row.id, row.fence + 1)
            values = {"fence": lease.fence, "owner": owner[:128], **_lease_end(now, lease_s)}
            connection.execute(statements.CLAIM, {"the_id": row.id, **values})
            lost = {"outcome": "lost", "ended_at": now.wall, "detail": "its owner stopped renewing the lease"}
            connection.execute(statements.CLOSE_STEP, {"the_retrain_id": row.id, **lost})
            return lease, _job(connection, lease)

    def running_job(self) -> RetrainJob | None:
        """Return the retrain that runs or waits for an owner."""
        with self._begin() as connection:
            row = connection.execute(statements.RUNNING_JOB, {"the_model": self._model}).one_or_none()
            return RetrainJob(*row) if row else None

    def is_asked(self, retrain_id: int) -> bool:
        """Return whether a person has asked for this retrain: it began, or was joined, by a request."""
        with self._begin() as connection:
            return bool(connection.execute(statements.IS_ASKED, {"the_retrain_id": retrain_id}).scalar_one())

    def job(self, lease: Lease) -> RetrainJob:
        """Return the current state of the leased retrain; raises `StaleLeaseError`."""
        with self._begin() as connection:
            return _job(connection, lease)

    def renew(
        self, lease: Lease, now: Moment, *, lease_s: float, progress: str | None = None, is_first_attempt: bool = False
    ) -> None:
        """Extend the lease and store the progress; raises `StaleLeaseError`.

        A step that waits for days calls its attempt the first one whenever it gets on: those before it do not count any more.
        """
        values = _lease_end(now, lease_s) | ({} if progress is None else {"progress": storable(progress)})
        values |= {"attempt": 1} if is_first_attempt else {}
        with self._begin() as connection:
            _write(connection, lease, values)

    def begin_step(self, lease: Lease, now: Moment) -> int:
        """Insert another attempt at the due step and return how many count; raises `StaleLeaseError`."""
        with self._begin() as connection:
            row = connection.execute(statements.BEGIN_ATTEMPT, _params(lease)).one_or_none()
            if row is None:
                raise StaleLeaseError(lease)
            of_step = {"the_retrain_id": lease.id, "the_step": row.step}
            earlier = connection.execute(statements.COUNT_ATTEMPTS, of_step).scalar_one()
            entry = {"retrain_id": lease.id, "step": row.step, "attempt": earlier + 1, "fence": lease.fence}
            begun = {"began_at": now.wall, "outcome": "running", "detail": ""}
            connection.execute(statements.INSERT_STEP, entry | begun)
        return int(row.attempt)

    def end_step(self, lease: Lease, now: Moment, detail: str, **columns: Any) -> None:
        """Mark the running step as done and the next one as due, unless `columns`, which are set on the retrain, name another."""
        with self._begin() as connection:
            step = self._close_step(connection, lease, now, "done", detail)
            next_step = STEPS[STEPS.index(step) + 1] if step != STEPS[-1] else step
            made = _moment("made", now) if step == "publish" else {}
            _write(connection, lease, {"step": next_step, "attempt": 0, **made, **columns})

    def postpone(self, lease: Lease, now: Moment, why: str, *, pause_s: float, counts: bool = True) -> None:
        """Give the lease back; the retrain is due again after the pause. An attempt that does not count is deleted."""
        with self._begin() as connection:
            self._close_step(connection, lease, now, "failed" if counts else "lost", why)
            if not counts:  # its number is used again
                same_lease = (retrain_steps.c.retrain_id == lease.id) & (retrain_steps.c.fence == lease.fence)
                newest = sa.select(sa.func.max(retrain_steps.c.id)).where(same_lease).scalar_subquery()
                connection.execute(retrain_steps.delete().where(retrain_steps.c.id == newest, retrain_steps.c.outcome == "lost"))
                connection.execute(statements.TAKE_BACK_ATTEMPT, _params(lease))
            _write(connection, lease, {"owner": None, **_lease_end(now, pause_s)})

    def finish(self, lease: Lease, now: Moment, state: FinalState, failure: str | None, detail: str, **columns: Any) -> None:
        """End the retrain, and a step that is still running with it; `columns` are set on the retrain."""
        with self._begin() as connection:
            self._close_step(connection, lease, now, "failed" if state == "failed" else "done", failure or detail)
            final = {"state": state, "failure": storable(failure) if failure else None, "owner": None}
            _write(connection, lease, final | _moment("ended", now) | columns)

    def _start(self, connection: sa.Connection, decision: Decision, now: Moment) -> int:
        """Insert a retrain; the unique index on running ones refuses a second."""
        origin = {"git_commit": decision.facts.get("head"), "version_in": decision.facts.get("champion"), "step": STEPS[0]}
        origin |= {"version_out": None} | _no_moment("made")
        if decision.release is not None:  # nothing is made
            origin |= {"git_commit": None, "step": RELEASE_STEPS[0], "version_out": decision.release} | _moment("made", now)
        new = {
            "decision_id": decision.episode_id,
            "model": self._model,
            "state": "running",
            "attempt": 0,
            "fence": 0,
            "feedback_upto": last_learnt_feedback(connection, self._model),
            "progress": "",
        }
        row = new | _moment("began", now) | origin | _lease_end(now, 0.0)
        return int(connection.execute(statements.START, row).scalar_one())

    def _close_step(self, connection: sa.Connection, lease: Lease, now: Moment, outcome: str, detail: str) -> Step:
        step = require_lease(connection, lease)
        closed = {"outcome": outcome, "ended_at": now.wall, "detail": storable(detail)}
        connection.execute(statements.CLOSE_STEP, {"the_retrain_id": lease.id, **closed})
        return step


def require_lease(connection: sa.Connection, lease: Lease) -> Step:
    """Return the due step, and lock the retrain until the transaction ends; raises `StaleLeaseError` for a lost lease."""
    step: Step | None = connection.execute(statements.LEASED_STEP, _params(lease)).scalar_one_or_none()
    if step is None:
        raise StaleLeaseError(lease)
    return step


def cancel_retrain(connection: sa.Connection, model: str, now: Moment, why: str) -> RetrainJob | None:
    """End the running retrain, whoever owns it; return it, or None when none runs. The owner's next write fails."""
    row = connection.execute(statements.RUNNING_JOB, {"the_model": model}).one_or_none()
    if row is None:
        return None
    values = {"the_model": model, "the_id": row.id, "failure": storable(why), **_moment("ended", now)}
    if connection.execute(statements.CANCEL, values).rowcount != 1:  # it has just ended
        return None
    closed = {"outcome": "failed", "ended_at": now.wall, "detail": storable(why)}
    connection.execute(statements.CLOSE_STEP, {"the_retrain_id": row.id, **closed})
    return RetrainJob(*row)


def past_retrains(connection: sa.Connection, model: str) -> list[PastRetrain]:
    """Return every retrain of the model, oldest first."""
    return [_past_retrain(row) for row in connection.execute(statements.HISTORY, {"the_model": model})]


def _waiting(connection: sa.Connection) -> list[Episode]:
    return [_episode(row) for row in connection.execute(statements.WAITING)]


def _episode(row: sa.Row[*tuple[Any, ...]]) -> Episode:
    received = Moment(row.received_wall, row.received_mono, row.received_boot)
    return Episode(row.id, row.alertname, row.version, row.is_over, received, row.reason)


def _decided(decision: Decision, retrain_id: int | None, now: Moment) -> dict[str, Any]:
    return {
        "the_id": decision.episode_id,
        "verdict": decision.outcome,
        "reason": decision.reason,
        "at": now.wall,
        "facts": json.dumps(decision.facts),
        "retrain_id": retrain_id if decision.outcome in ("started", "joined") else None,
    }


def _write(connection: sa.Connection, lease: Lease, values: dict[str, Any]) -> None:
    if connection.execute(statements.WRITE, values | _params(lease)).rowcount != 1:
        raise StaleLeaseError(lease)


def _params(lease: Lease) -> dict[str, int]:
    return {"the_id": lease.id, "the_fence": lease.fence}


def _lease_end(now: Moment, by_s: float) -> dict[str, Any]:
    return _moment("lease", later(now, by_s))


def _moment(name: str, moment: Moment) -> dict[str, Any]:
    return dict(zip(statements.moment_names(name), moment, strict=True))


def _no_moment(name: str) -> dict[str, Any]:
    return dict.fromkeys(statements.moment_names(name))


def _past_retrain(row: sa.Row[*tuple[Any, ...]]) -> PastRetrain:
    ended = None if row.ended_wall is None else Moment(row.ended_wall, row.ended_mono, row.ended_boot)
    made = None if row.made_wall is None else Moment(row.made_wall, row.made_mono, row.made_boot)
    return PastRetrain(row.id, row.state, Moment(row.began_wall, row.began_mono, row.began_boot), ended, row.git_commit, made)


def _job(connection: sa.Connection, lease: Lease) -> RetrainJob:
    row = connection.execute(statements.LEASED_JOB, _params(lease)).one_or_none()
    if row is None:
        raise StaleLeaseError(lease)
    return RetrainJob(*row)
