"""Create the tables of routing, jobs and feedback."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "routing",
        sa.Column("id", sa.Integer, sa.CheckConstraint("id = 1"), primary_key=True),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("challenger_weight", sa.Float, nullable=False),
        sa.Column("shadow_share", sa.Float, nullable=False),
        sa.Column("salt", sa.String(32), nullable=False),
    )
    op.execute("INSERT INTO routing (id, revision, challenger_weight, shadow_share, salt) VALUES (1, 0, 0, 0, 'first')")
    op.create_table(
        "jobs",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("idempotency_key", sa.String(200), unique=True),
        sa.Column("payload", sa.Text, nullable=False),
        sa.Column("payload_digest", sa.String(64), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("due_at", sa.Float, nullable=False),
        sa.Column("owner", sa.String(64)),
        sa.Column("fence", sa.Integer, nullable=False),
        sa.Column("result", sa.Text),
        sa.Column("error", sa.Text),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("finished_at", sa.Float),
        sa.Column("callback_url", sa.Text),
        sa.Column("callback_status", sa.String(16), nullable=False),
        sa.Column("callback_attempts", sa.Integer, nullable=False),
        sa.Column("callback_due_at", sa.Float, nullable=False),
    )
    op.create_index("jobs_due", "jobs", ["status", "due_at"])
    op.create_index("callbacks_due", "jobs", ["callback_status", "callback_due_at"])
    op.create_table(
        "feedback",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("prediction_id", sa.String(64), nullable=False),
        sa.Column("label", sa.String(200), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("source", sa.String(64), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.UniqueConstraint("prediction_id", "source", "label", name="one_opinion_once"),
    )


def downgrade() -> None:
    for table in ("feedback", "jobs", "routing"):
        op.drop_table(table)
