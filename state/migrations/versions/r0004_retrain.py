"""Create the tables of retraining: alerts, decisions, retrains and their steps."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.create_table(
        "alerts",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("fingerprint", sa.String(200), nullable=False),
        sa.Column("starts_at", sa.Float, nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("heard_at", sa.Float, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("decision_id", sa.Integer),
        sa.UniqueConstraint("fingerprint", "starts_at", "status", name="one_alert_once"),
    )
    op.create_table(
        "decisions",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("fingerprint", sa.String(200), nullable=False),
        sa.Column("starts_at", sa.Float, nullable=False),
        sa.Column("alertname", sa.String(200), nullable=False),
        sa.Column("version", sa.Integer),
        sa.Column("is_over", sa.Boolean, nullable=False),
        sa.Column("verdict", sa.String(16), nullable=False),
        sa.Column("reason", sa.String(32), nullable=False),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("heard_wall", sa.Float, nullable=False),
        sa.Column("heard_mono", sa.Float, nullable=False),
        sa.Column("heard_boot", sa.String(64), nullable=False),
        sa.Column("facts", sa.Text, nullable=False),
        sa.Column("retrain_id", sa.Integer),
        sa.UniqueConstraint("fingerprint", "starts_at", name="one_decision_an_episode"),
    )
    op.create_table(
        "retrains",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("decision_id", sa.Integer, nullable=False, unique=True),
        sa.Column("model", sa.String(128), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("step", sa.String(16), nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("owner", sa.String(128)),
        sa.Column("fence", sa.Integer, nullable=False),
        sa.Column("lease_wall", sa.Float, nullable=False),
        sa.Column("lease_mono", sa.Float, nullable=False),
        sa.Column("lease_boot", sa.String(64), nullable=False),
        sa.Column("began_wall", sa.Float, nullable=False),
        sa.Column("began_mono", sa.Float, nullable=False),
        sa.Column("began_boot", sa.String(64), nullable=False),
        sa.Column("ended_wall", sa.Float),
        sa.Column("ended_mono", sa.Float),
        sa.Column("ended_boot", sa.String(64)),
        sa.Column("git_commit", sa.String(64)),
        sa.Column("version_in", sa.Integer),
        sa.Column("version_out", sa.Integer),
        sa.Column("labels", sa.Integer),
        sa.Column("feedback_upto", sa.Integer, nullable=False),
        sa.Column("progress", sa.Text, nullable=False),
        sa.Column("verdict", sa.Text),
        sa.Column("failure", sa.Text),
    )
    op.create_table(
        "retrain_steps",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("retrain_id", sa.Integer, nullable=False),
        sa.Column("step", sa.String(16), nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("fence", sa.Integer, nullable=False),
        sa.Column("began_at", sa.Float, nullable=False),
        sa.Column("ended_at", sa.Float),
        sa.Column("outcome", sa.String(16), nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
        sa.UniqueConstraint("retrain_id", "step", "attempt", name="one_attempt_once"),
    )
    unseen = sa.text("decision_id IS NULL")
    op.create_index("alerts_unseen", "alerts", ["id"], sqlite_where=unseen, postgresql_where=unseen)
    op.create_index("decisions_by_verdict", "decisions", ["verdict"])
    live = sa.text("state = 'running'")
    op.create_index("one_live_retrain_a_model", "retrains", ["model"], unique=True, sqlite_where=live, postgresql_where=live)


def downgrade() -> None:
    for table in ("retrain_steps", "retrains", "decisions", "alerts"):
        op.drop_table(table)
