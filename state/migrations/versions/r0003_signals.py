"""Create the monitor's tables: its position in the prediction log, windows, signals, answers and judgements."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_table(
        "monitor",
        sa.Column("id", sa.Integer, sa.CheckConstraint("id = 1"), primary_key=True),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("cursor", sa.Text, nullable=False),
        sa.Column("watched", sa.LargeBinary),
    )
    op.execute("INSERT INTO monitor (id, revision, cursor) VALUES (1, 0, '[0, {}, {}]')")
    op.create_table(
        "windows",
        sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("began_at", sa.Float, nullable=False),
        sa.Column("ended_at", sa.Float, nullable=False),
        sa.Column("rows", sa.Integer, nullable=False),
        sa.Column("foreign_share", sa.Float),
        sa.Column("accuracy_estimate", sa.Float),
        sa.Column("accuracy_lower", sa.Float),
        sa.Column("accuracy_upper", sa.Float),
        sa.Column("told", sa.Text, nullable=False),
    )
    op.create_table(
        "signals",
        sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("signal", sa.String(32), primary_key=True),
        sa.Column("value", sa.Float),
        sa.Column("threshold", sa.Float),
        sa.Column("p", sa.Float),
        sa.Column("effect", sa.Float),
        sa.Column("log_e", sa.Float, nullable=False),
        sa.Column("log_threshold", sa.Float, nullable=False),
        sa.Column("alarm", sa.String(8), nullable=False),
    )
    op.create_table(
        "answers",
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("id", sa.String(64), nullable=False, unique=True),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("label", sa.String(200), nullable=False),
    )
    op.create_table(
        "judgements",
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("prediction_id", sa.String(64), nullable=False, unique=True),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("correct", sa.Boolean, nullable=False),
    )
    op.create_index("judgements_of_version", "judgements", ["version", "number"])


def downgrade() -> None:
    for table in ("judgements", "answers", "signals", "windows", "monitor"):
        op.drop_table(table)
