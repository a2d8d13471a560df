"""Tables of `serving`: releases, routing and jobs; what each arm of a release answered, and outcomes that callers report."""

import sqlalchemy as sa

from state.tables.schema import metadata

releases = sa.Table(
    "releases",
    metadata,
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("content_digest", sa.String(64), nullable=False, unique=True),
    sa.Column("role", sa.String(16), nullable=False),
    sa.Column("published_at", sa.DateTime(timezone=True), nullable=False),
    sa.Index(
        "one_version_a_role",
        "role",
        unique=True,
        sqlite_where=sa.text("role != 'retired'"),
        postgresql_where=sa.text("role != 'retired'"),
    ),
)
routing = sa.Table(
    "routing",
    metadata,
    sa.Column("id", sa.Integer, sa.CheckConstraint("id = 1"), primary_key=True),  # one row
    sa.Column("revision", sa.Integer, nullable=False),  # grows with every change of releases or routing
    sa.Column("challenger_weight", sa.Float, nullable=False),  # share of units that the challenger answers
    sa.Column("shadow_share", sa.Float, nullable=False),  # share of texts copied to the challenger, whose answers are discarded
    sa.Column("salt", sa.String(32), nullable=False),  # new with every challenger, so that each one gets different units first
    sa.Column("keep_previous_until", sa.Float),  # the previous champion stays loaded until then, ready for a roll-back
)
arm_counts = sa.Table(
    "arm_counts",  # what each arm of a release has answered, over all gateways
    metadata,
    sa.Column("salt", sa.String(32), primary_key=True),  # of the release
    sa.Column("arm", sa.String(16), primary_key=True),  # challenger, baseline, champion (everybody else), shadow (copies)
    sa.Column("answered", sa.Integer, nullable=False),
    sa.Column("failed", sa.Integer, nullable=False),  # the arm's version did not answer; the champion answered in its place
    sa.Column("broken", sa.Integer, nullable=False),  # of the answered: an empty label, or a confidence that is no number
)
arm_latencies = sa.Table(
    "arm_latencies",  # histogram of the answers that no cache gave
    metadata,
    sa.Column("salt", sa.String(32), primary_key=True),
    sa.Column("arm", sa.String(16), primary_key=True),
    sa.Column("bucket", sa.Integer, primary_key=True, autoincrement=False),  # serving.arm_counts says which milliseconds
    sa.Column("answers", sa.Integer, nullable=False),
)
outcomes = sa.Table(
    "outcomes",  # what came of an answer, as callers report it: a click, minutes, solved or not
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("prediction_id", sa.String(64), nullable=False),
    sa.Column("caller", sa.String(64), nullable=False),  # name of the caller who reported it
    sa.Column("value", sa.Float, nullable=False),  # true and false are 1 and 0
    sa.Column("received_at", sa.Float, nullable=False),
    sa.UniqueConstraint("prediction_id", "caller", name="one_outcome_once"),
    sa.Index("outcomes_by_time", "received_at"),
)
jobs = sa.Table(
    "jobs",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("caller", sa.String(64), nullable=False, server_default="local"),  # who may read it; the default is for older rows
    sa.Column("idempotency_key", sa.String(200), unique=True),  # digest of caller and key
    sa.Column("payload", sa.Text, nullable=False),  # JSON
    sa.Column("payload_digest", sa.String(64), nullable=False),
    sa.Column("status", sa.String(16), nullable=False),  # queued, running, done, failed
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("due_at", sa.Float, nullable=False),  # queued: earliest start; running: end of the lease; else when it ended
    sa.Column("owner", sa.String(64)),
    sa.Column("fence", sa.Integer, nullable=False),  # grows with every claim; a write with an older number is refused
    sa.Column("result", sa.Text),  # JSON
    sa.Column("error", sa.Text),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("finished_at", sa.Float),
    sa.Column("callback_url", sa.Text),
    sa.Column("callback_status", sa.String(16), nullable=False),  # none, pending, sending, delivered, given_up
    sa.Column("callback_attempts", sa.Integer, nullable=False),
    sa.Column("callback_due_at", sa.Float, nullable=False),  # pending: earliest attempt; sending: end of the lease
    sa.Index("jobs_due", "status", "due_at"),
    sa.Index("callbacks_due", "callback_status", "callback_due_at"),
)
