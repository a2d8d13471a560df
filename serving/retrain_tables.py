"""Tables of retraining, in the state database: what was heard, what was decided, what was done. `serving.state` adds the others.

A moment that something is measured from is kept three ways: seconds of the epoch, seconds since the boot, and which boot it was,
so that a clock that jumps neither shortens nor lengthens a wait.
"""

import sqlalchemy as sa

metadata = sa.MetaData()
alerts = sa.Table(
    "alerts",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("fingerprint", sa.String(200), nullable=False),
    sa.Column("starts_at", sa.Float, nullable=False),  # seconds of the epoch; with the fingerprint it names an episode
    sa.Column("status", sa.String(16), nullable=False),  # firing, resolved
    sa.Column("heard_at", sa.Float, nullable=False),
    sa.Column("body", sa.Text, nullable=False),  # JSON: the whole alert as it was sent, ASCII
    sa.Column("decision_id", sa.Integer),  # null: the controller has not seen it yet
    sa.UniqueConstraint("fingerprint", "starts_at", "status", name="one_alert_once"),
    sa.Index("alerts_unseen", "id", sqlite_where=sa.text("decision_id IS NULL"), postgresql_where=sa.text("decision_id IS NULL")),
)
decisions = sa.Table(
    "decisions",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("fingerprint", sa.String(200), nullable=False),
    sa.Column("starts_at", sa.Float, nullable=False),
    sa.Column("alertname", sa.String(200), nullable=False),
    sa.Column("version", sa.Integer),  # that the alert speaks of; null: of none
    sa.Column("is_over", sa.Boolean, nullable=False),  # its end was heard
    sa.Column("verdict", sa.String(16), nullable=False),  # waiting; then for good: started, joined, refused
    sa.Column("reason", sa.String(32), nullable=False),
    sa.Column("at", sa.Float, nullable=False),  # of the last change
    sa.Column("heard_wall", sa.Float, nullable=False),
    sa.Column("heard_mono", sa.Float, nullable=False),
    sa.Column("heard_boot", sa.String(64), nullable=False),
    sa.Column("facts", sa.Text, nullable=False),  # JSON: what the decision rests on
    sa.Column("retrain_id", sa.Integer),  # that it started or joined
    sa.UniqueConstraint("fingerprint", "starts_at", name="one_decision_an_episode"),
    sa.Index("decisions_by_verdict", "verdict"),
)
retrains = sa.Table(
    "retrains",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("decision_id", sa.Integer, nullable=False, unique=True),
    sa.Column("model", sa.String(128), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),  # running; then for good: done, refused (by the gate), failed
    sa.Column("step", sa.String(16), nullable=False),  # running: the next to be done, or at work; else the last one
    sa.Column("attempt", sa.Integer, nullable=False),  # at this step, from 1; 0: not begun
    sa.Column("owner", sa.String(128)),
    sa.Column("fence", sa.Integer, nullable=False),  # grows with every claim; who writes with an older one is refused
    sa.Column("lease_wall", sa.Float, nullable=False),  # owned: the lease's end; else: not before
    sa.Column("lease_mono", sa.Float, nullable=False),
    sa.Column("lease_boot", sa.String(64), nullable=False),
    sa.Column("began_wall", sa.Float, nullable=False),
    sa.Column("began_mono", sa.Float, nullable=False),
    sa.Column("began_boot", sa.String(64), nullable=False),
    sa.Column("ended_wall", sa.Float),
    sa.Column("ended_mono", sa.Float),
    sa.Column("ended_boot", sa.String(64)),
    sa.Column("git_commit", sa.String(64)),  # that it was made from
    sa.Column("version_in", sa.Integer),  # champion when it was decided
    sa.Column("version_out", sa.Integer),
    sa.Column("labels", sa.Integer),  # labelled texts it has learnt from
    sa.Column("feedback_upto", sa.Integer, nullable=False),  # the last row of `feedback` that it has read
    sa.Column("progress", sa.Text, nullable=False),
    sa.Column("verdict", sa.Text),  # JSON: the gate's
    sa.Column("failure", sa.Text),  # why it did not end as done
    sa.Index(
        "one_live_retrain_a_model",
        "model",
        unique=True,
        sqlite_where=sa.text("state = 'running'"),
        postgresql_where=sa.text("state = 'running'"),
    ),
)
retrain_steps = sa.Table(
    "retrain_steps",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("retrain_id", sa.Integer, nullable=False),
    sa.Column("step", sa.String(16), nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("fence", sa.Integer, nullable=False),
    sa.Column("began_at", sa.Float, nullable=False),
    sa.Column("ended_at", sa.Float),
    sa.Column("outcome", sa.String(16), nullable=False),  # running, done, failed, lost (its owner fell silent)
    sa.Column("detail", sa.Text, nullable=False),
    sa.UniqueConstraint("retrain_id", "step", "attempt", name="one_attempt_once"),
)
