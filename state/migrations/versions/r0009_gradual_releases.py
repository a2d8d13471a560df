"""Gradual releases: their runs, what each arm answered, and how long the previous champion stays loaded."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"

MADE: dict[str, sa.types.TypeEngine[Any]] = {"made_wall": sa.Float(), "made_mono": sa.Float(), "made_boot": sa.String(64)}


def upgrade() -> None:
    op.create_table(
        "arm_counts",
        sa.Column("salt", sa.String(32), primary_key=True),
        sa.Column("arm", sa.String(16), primary_key=True),
        sa.Column("answered", sa.Integer, nullable=False),
        sa.Column("failed", sa.Integer, nullable=False),
        sa.Column("broken", sa.Integer, nullable=False),
    )
    op.create_table(
        "arm_latencies",
        sa.Column("salt", sa.String(32), primary_key=True),
        sa.Column("arm", sa.String(16), primary_key=True),
        sa.Column("bucket", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("answers", sa.Integer, nullable=False),
    )
    op.create_table(
        "release_runs",
        sa.Column("retrain_id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("champion", sa.Integer, nullable=False),
        sa.Column("salt", sa.String(32), nullable=False),
        sa.Column("stage", sa.String(16), nullable=False),
        sa.Column("rung", sa.Integer, nullable=False),
        sa.Column("wish", sa.String(16), nullable=False),
        sa.Column("evidence", sa.Text, nullable=False),
        sa.Column("began_at", sa.Float, nullable=False),
        sa.Column("stage_began_at", sa.Float, nullable=False),
        sa.Column("looked_at", sa.Float),
        sa.Column("outcome", sa.String(16)),
        sa.Column("reason", sa.Text),
        sa.Column("broken", sa.String(32)),
        sa.Column("examples", sa.Text),
        sa.Column("ended_at", sa.Float),
    )
    with op.batch_alter_table("routing", recreate="never") as batch:
        batch.add_column(sa.Column("keep_previous_until", sa.Float))
    with op.batch_alter_table("retrains", recreate="never") as batch:
        for name, kind in MADE.items():
            batch.add_column(sa.Column(name, kind))
    op.execute("UPDATE retrains SET step = 'promote' WHERE step = 'swap' AND state = 'running'")  # the step's new name


def downgrade() -> None:
    op.execute("UPDATE retrains SET step = 'swap' WHERE step = 'promote' AND state = 'running'")
    with op.batch_alter_table("retrains", recreate="never") as batch:
        for name in MADE:
            batch.drop_column(name)
    with op.batch_alter_table("routing", recreate="never") as batch:
        batch.drop_column("keep_previous_until")
    op.drop_table("release_runs")
    op.drop_table("arm_latencies")
    op.drop_table("arm_counts")
