"""The journal: every read and write of alerts, decisions, retrains and their steps. What decides and what acts is not known here.

Unique indexes make an alert, a decision and a live retrain one each, whoever writes. Who works on a retrain holds a lease with a
fence number; every later write carries it, and one that is older than the journal's is refused with `StaleError`.
"""

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Literal, NamedTuple

import sqlalchemy as sa

from monitoring.retrain import statements
from monitoring.retrain.alerts import decision_row, insert_or_ignore, storable
from monitoring.retrain.clock import Moment, is_past, later
from monitoring.retrain.decide import Decision, Episode, Past
from monitoring.retrain.new_labels import learnt_upto
from state.tables import decisions, retrain_steps

Step = Literal["collect", "reproduce", "gate", "publish", "swap"]
STEPS: tuple[Step, ...] = ("collect", "reproduce", "gate", "publish", "swap")
Ending = Literal["done", "refused", "failed"]
DECIDING = 0x45564444  # the number of our advisory lock: EVDD
SEEN_AT_ONCE = 500
Begin = Callable[[], AbstractContextManager[sa.Connection]]


class Held(NamedTuple):
    """A retrain in its owner's hands, until the lease ends or a higher fence is given out."""

    id: int
    fence: int


class StaleError(Exception):
    """The retrain is somebody else's by now, or over: whoever meets this writes nothing more."""

    def __init__(self, held: Held) -> None:
        super().__init__(f"retrain {held.id}: fence {held.fence} is stale")


class Job(NamedTuple):
    """A retrain as its owner sees it."""

    id: int
    decision_id: int
    step: Step
    attempt: int  # of this step, so far
    git_commit: str | None
    version_in: int | None
    version_out: int | None
    fingerprint: str
    alertname: str


class Journal:
    """The tables behind one way to begin a transaction."""

    def __init__(self, begin: Begin, model: str) -> None:
        self._begin, self._model = begin, model

    def see(self, now: Moment) -> int:
        """Make episodes of alerts that were not seen yet, some hundreds at once; how many alerts there were."""
        with self._begin() as connection:
            rows = connection.execute(statements.UNSEEN, {"the_limit": SEEN_AT_ONCE}).all()
            if not rows:
                return 0
            new, batch = [decision_row(row, now) for row in rows], {"the_last": rows[-1].id}
            connection.execute(insert_or_ignore(connection, decisions), new)
            connection.execute(statements.END_EPISODES, batch)
            connection.execute(statements.MARK_SEEN, batch)
        return len(rows)

    def decide(self, think: Callable[[sa.Connection, list[Episode], list[Past]], list[Decision]], now: Moment) -> list[Decision]:
        """Let `think` decide what waits, and write down what has changed, in one transaction; returns that."""
        with self._begin() as connection:
            if connection.dialect.name == "postgresql":  # one at a time; SQLite has one writer anyway
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(DECIDING)))
            episodes = _waiting(connection)
            before = {episode.id: episode.reason for episode in episodes}
            made = think(connection, episodes, history(connection, self._model))
            changed = [one for one in made if one.outcome != "waiting" or one.reason != before[one.episode]]
            started = None
            for one in changed:
                if one.outcome == "started":
                    started = self._start(connection, one, now)
            rows = [_decided(one, started if one.retrain is None else one.retrain, now) for one in changed]
            if rows:
                connection.execute(statements.DECIDE, rows)
        return changed

    def claim(self, owner: str, now: Moment, *, lease_s: float) -> tuple[Held, Job] | None:
        """Take the live retrain, if there is one that is due and that nobody holds; a silent owner's steps are lost."""
        with self._begin() as connection:
            row = connection.execute(statements.LEASE, {"the_model": self._model}).one_or_none()
            if row is None or not is_past(Moment(row.lease_wall, row.lease_mono, row.lease_boot), now):
                return None
            held = Held(row.id, row.fence + 1)
            lease = {"fence": held.fence, "owner": owner[:128], **_lease(now, lease_s)}
            connection.execute(statements.CLAIM, {"the_id": row.id, **lease})
            lost = {"outcome": "lost", "ended_at": now.wall, "detail": "its owner fell silent"}
            connection.execute(statements.CLOSE_STEP, {"the_retrain_id": row.id, **lost})
            return held, _job(connection, held)

    def live(self) -> Job | None:
        """The retrain that runs or waits to be taken up."""
        with self._begin() as connection:
            row = connection.execute(statements.LIVE_JOB, {"the_model": self._model}).one_or_none()
            return Job(*row) if row else None

    def job(self, held: Held) -> Job:
        """The retrain as it stands."""
        with self._begin() as connection:
            return _job(connection, held)

    def renew(self, held: Held, now: Moment, *, lease_s: float, progress: str | None = None) -> None:
        """Begin the lease anew; raises `StaleError`."""
        values = _lease(now, lease_s) | ({} if progress is None else {"progress": storable(progress)})
        with self._begin() as connection:
            _write(connection, held, values)

    def begin_step(self, held: Held, now: Moment) -> int:
        """Enter another attempt at the step that is due; its number."""
        with self._begin() as connection:
            row = connection.execute(statements.BEGIN_ATTEMPT, _the(held)).one_or_none()
            if row is None:
                raise StaleError(held)
            entry = {"retrain_id": held.id, "step": row.step, "attempt": row.attempt, "fence": held.fence}
            begun = {"began_at": now.wall, "outcome": "running", "detail": ""}
            connection.execute(statements.ENTER_STEP, entry | begun)
        return int(row.attempt)

    def end_step(self, held: Held, now: Moment, detail: str, **learnt: Any) -> None:
        """The step at work is done, and the next one due; `learnt` are columns of the retrain."""
        with self._begin() as connection:
            step = self._close_step(connection, held, now, "done", detail)
            following = STEPS[STEPS.index(step) + 1] if step != STEPS[-1] else step
            known = {"step": following, "attempt": 0, **learnt}
            _write(connection, held, known)

    def put_off(self, held: Held, now: Moment, why: str, *, pause_s: float, counts: bool = True) -> None:
        """Hand the retrain back, to be taken up after a pause; an attempt that does not count is taken back."""
        with self._begin() as connection:
            self._close_step(connection, held, now, "failed" if counts else "lost", why)
            if not counts:  # its number will be given again
                own = (retrain_steps.c.retrain_id == held.id) & (retrain_steps.c.fence == held.fence)
                newest = sa.select(sa.func.max(retrain_steps.c.id)).where(own).scalar_subquery()
                connection.execute(retrain_steps.delete().where(retrain_steps.c.id == newest, retrain_steps.c.outcome == "lost"))
                connection.execute(statements.TAKE_BACK_ATTEMPT, _the(held))
            _write(connection, held, {"owner": None, **_lease(now, pause_s)})

    def end(self, held: Held, now: Moment, state: Ending, failure: str | None, detail: str, **learnt: Any) -> None:
        """The retrain is over; a step that is still at work ends with it."""
        with self._begin() as connection:
            self._close_step(connection, held, now, "failed" if state == "failed" else "done", failure or detail)
            over = {"state": state, "failure": storable(failure) if failure else None, "owner": None}
            ended = {"ended_wall": now.wall, "ended_mono": now.mono, "ended_boot": now.boot}
            _write(connection, held, over | ended | learnt)

    def _start(self, connection: sa.Connection, decision: Decision, now: Moment) -> int:
        """Enter a retrain; the index on live ones refuses a second."""
        begun = {"began_wall": now.wall, "began_mono": now.mono, "began_boot": now.boot}
        known = {"git_commit": decision.facts.get("head"), "version_in": decision.facts.get("champion")}
        new = {
            "decision_id": decision.episode,
            "model": self._model,
            "state": "running",
            "step": STEPS[0],
            "attempt": 0,
            "fence": 0,
        }
        upto = {"feedback_upto": learnt_upto(connection, self._model), "progress": ""}
        row = new | begun | known | upto | _lease(now, 0.0)
        return int(connection.execute(statements.START, row).scalar_one())

    def _close_step(self, connection: sa.Connection, held: Held, now: Moment, outcome: str, detail: str) -> Step:
        step = holds(connection, held)
        closed = {"outcome": outcome, "ended_at": now.wall, "detail": storable(detail)}
        connection.execute(statements.CLOSE_STEP, {"the_retrain_id": held.id, **closed})
        return step


def holds(connection: sa.Connection, held: Held) -> Step:
    """The step that is due. Raises `StaleError` unless the retrain is this owner's: what is written next is his to write."""
    step: Step | None = connection.execute(statements.HELD_STEP, _the(held)).scalar_one_or_none()
    if step is None:
        raise StaleError(held)
    return step


def history(connection: sa.Connection, model: str) -> list[Past]:
    """Every retrain of the model, oldest first."""
    return [_past(row) for row in connection.execute(statements.HISTORY, {"the_model": model})]


def _waiting(connection: sa.Connection) -> list[Episode]:
    return [_episode(row) for row in connection.execute(statements.WAITING)]


def _episode(row: sa.Row[*tuple[Any, ...]]) -> Episode:
    received = Moment(row.received_wall, row.received_mono, row.received_boot)
    return Episode(row.id, row.alertname, row.version, row.is_over, received, row.reason)


def _decided(decision: Decision, retrain: int | None, now: Moment) -> dict[str, Any]:
    return {
        "the_id": decision.episode,
        "verdict": decision.outcome,
        "reason": decision.reason,
        "at": now.wall,
        "facts": json.dumps(decision.facts),
        "retrain_id": retrain if decision.outcome in ("started", "joined") else None,
    }


def _write(connection: sa.Connection, held: Held, values: dict[str, Any]) -> None:
    if connection.execute(statements.WRITE, values | _the(held)).rowcount != 1:
        raise StaleError(held)


def _the(held: Held) -> dict[str, int]:
    return {"the_id": held.id, "the_fence": held.fence}


def _lease(now: Moment, by_s: float) -> dict[str, Any]:
    end = later(now, by_s)
    return {"lease_wall": end.wall, "lease_mono": end.mono, "lease_boot": end.boot}


def _past(row: sa.Row[*tuple[Any, ...]]) -> Past:
    ended = None if row.ended_wall is None else Moment(row.ended_wall, row.ended_mono, row.ended_boot)
    return Past(row.id, row.state, Moment(row.began_wall, row.began_mono, row.began_boot), ended, row.git_commit)


def _job(connection: sa.Connection, held: Held) -> Job:
    row = connection.execute(statements.HELD_JOB, _the(held)).one_or_none()
    if row is None:
        raise StaleError(held)
    return Job(*row)
