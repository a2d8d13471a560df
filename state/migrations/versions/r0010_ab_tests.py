"""A/B tests, and the outcomes of answers that callers report."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    op.create_table(
        "outcomes",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("prediction_id", sa.String(64), nullable=False),
        sa.Column("caller", sa.String(64), nullable=False),
        sa.Column("value", sa.Float, nullable=False),
        sa.Column("received_at", sa.Float, nullable=False),
        sa.UniqueConstraint("prediction_id", "caller", name="one_outcome_once"),
    )
    op.create_index("outcomes_by_time", "outcomes", ["received_at"])
    op.create_table(
        "ab_tests",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("champion", sa.Integer, nullable=False),
        sa.Column("challenger", sa.Integer, nullable=False),
        sa.Column("salt", sa.String(32), nullable=False),
        sa.Column("weight", sa.Float, nullable=False),
        sa.Column("weight_before", sa.Float, nullable=False),
        sa.Column("metric", sa.String(16), nullable=False),
        sa.Column("caller", sa.String(64)),
        sa.Column("is_lower_better", sa.Boolean, nullable=False),
        sa.Column("alpha", sa.Float, nullable=False),
        sa.Column("margin", sa.Float, nullable=False),
        sa.Column("min_units", sa.Integer, nullable=False),
        sa.Column("expected_units", sa.Integer, nullable=False),
        sa.Column("began_at", sa.Float, nullable=False),
        sa.Column("ended_at", sa.Float),
        sa.Column("verdict", sa.Text),
    )
    is_running = sa.text("state = 'running'")
    op.create_index(
        "one_running_ab_test", "ab_tests", ["state"], unique=True, sqlite_where=is_running, postgresql_where=is_running
    )


def downgrade() -> None:
    op.drop_table("ab_tests")
    op.drop_table("outcomes")
