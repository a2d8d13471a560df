"""The journal's SQL statements, built once: SQLAlchemy takes longer to build one than a small database takes to run it.

Bound parameters of conditions begin with `the_`; written columns are bound by their own names.
"""

from typing import Any

import sqlalchemy as sa

from monitoring.retrain.decide import REQUESTS
from state.tables import alerts, decisions, retrain_steps, retrains


def matches(column: sa.Column[object]) -> sa.ColumnElement[bool]:
    """Return the condition that the column equals the parameter `the_<column>`."""
    return column == sa.bindparam(f"the_{column.name}", type_=column.type)


def moment_names(name: str) -> tuple[str, str, str]:
    """Return the three columns that store one moment."""
    return f"{name}_wall", f"{name}_mono", f"{name}_boot"


def columns(table: sa.Table, *names: str) -> list[sa.Column[Any]]:
    """Return columns of a table by name."""
    return [table.c[name] for name in names]


IS_RUNNING = matches(retrains.c.model) & (retrains.c.state == "running")
HAS_FENCE = matches(retrains.c.fence)
IS_LEASED = matches(retrains.c.id) & HAS_FENCE & (retrains.c.state == "running")
RUNNING_STEP = matches(retrain_steps.c.retrain_id) & (retrain_steps.c.outcome == "running")
IS_WAITING = decisions.c.verdict == "waiting"
SAME_EPISODE = (decisions.c.fingerprint == alerts.c.fingerprint) & (decisions.c.starts_at == alerts.c.starts_at)
IS_UNSEEN = alerts.c.decision_id.is_(None)
IS_IN_BATCH = IS_UNSEEN & (alerts.c.id <= sa.bindparam("the_last"))

# --- alerts become episodes

UNSEEN = (
    sa.select(alerts.c.id, alerts.c.fingerprint, alerts.c.starts_at, alerts.c.body)
    .where(IS_UNSEEN)
    .order_by(alerts.c.id)
    .limit(sa.bindparam("the_limit"))
)
END_EPISODES = (
    decisions.update().where(sa.exists().where(SAME_EPISODE, IS_IN_BATCH, alerts.c.status == "resolved")).values(is_over=True)
)
MARK_SEEN = alerts.update().where(IS_IN_BATCH).values(decision_id=sa.select(decisions.c.id).where(SAME_EPISODE).scalar_subquery())

# --- episodes are decided

WAITING = (
    sa.select(*columns(decisions, "id", "alertname", "version", "is_over", *moment_names("received"), "reason"))
    .where(IS_WAITING)
    .order_by(decisions.c.id)
)
DECIDE = decisions.update().where(matches(decisions.c.id) & IS_WAITING)
HISTORY = (
    sa.select(
        *columns(retrains, "id", "state", "git_commit"),
        *columns(retrains, *moment_names("began"), *moment_names("ended"), *moment_names("made")),
    )
    .where(matches(retrains.c.model))
    .order_by(retrains.c.id)
)
START = retrains.insert().returning(retrains.c.id)

# --- a retrain under a lease

_LEASE = columns(retrains, "id", "fence", "owner", *moment_names("lease"))
LEASE = sa.select(*_LEASE).where(IS_RUNNING).with_for_update(skip_locked=True)
CLAIM = retrains.update().where(matches(retrains.c.id))
LEASED_STEP = sa.select(retrains.c.step).where(IS_LEASED).with_for_update()
WRITE = retrains.update().where(IS_LEASED)
_JOB = sa.select(
    *columns(retrains, "id", "decision_id", "step", "attempt", "git_commit", "version_in", "version_out"),
    *columns(decisions, "fingerprint", "alertname"),
).join_from(retrains, decisions, decisions.c.id == retrains.c.decision_id)
RUNNING_JOB, LEASED_JOB = _JOB.where(IS_RUNNING), _JOB.where(IS_LEASED)

IS_ASKED = sa.select(sa.exists().where(matches(decisions.c.retrain_id), decisions.c.alertname.in_(sorted(REQUESTS))))
CANCEL = (
    retrains.update()
    .where(IS_RUNNING, matches(retrains.c.id))
    .values(state="cancelled", owner=None, fence=retrains.c.fence + 1)  # the owner's next write finds that it is stale
)

# --- steps

BEGIN_ATTEMPT = (
    retrains.update().where(IS_LEASED).values(attempt=retrains.c.attempt + 1).returning(*columns(retrains, "step", "attempt"))
)
TAKE_BACK_ATTEMPT = retrains.update().where(IS_LEASED, retrains.c.attempt > 0).values(attempt=retrains.c.attempt - 1)
INSERT_STEP = retrain_steps.insert()
COUNT_ATTEMPTS = sa.select(sa.func.count()).where(matches(retrain_steps.c.retrain_id), matches(retrain_steps.c.step))
CLOSE_STEP = retrain_steps.update().where(RUNNING_STEP)
