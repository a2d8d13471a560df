"""The flywheel: measured disagreements of two models, what people did in the label queue, and labels that they took back."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    _create_disagreements()
    _create_queue_actions()
    _create_intent_proposals()
    _create_label_returns()
    with op.batch_alter_table("feedback", recreate="never") as batch:
        batch.add_column(sa.Column("withdrawn_by", sa.String(64)))


def downgrade() -> None:
    with op.batch_alter_table("feedback", recreate="never") as batch:
        batch.drop_column("withdrawn_by")
    op.drop_table("label_returns")
    op.drop_table("intent_proposals")
    op.drop_table("queue_actions")
    op.drop_table("disagreements")


def _create_disagreements() -> None:
    op.create_table(
        "disagreements",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("other", sa.String(64), nullable=False),
        sa.Column("began_at", sa.Float, nullable=False),
        sa.Column("ended_at", sa.Float, nullable=False),
        sa.Column("compared", sa.Integer, nullable=False),
        sa.Column("differing", sa.Integer, nullable=False),
        sa.Column("repeated", sa.Integer, nullable=False),
        sa.Column("unstable", sa.Integer, nullable=False),
        sa.Column("reference_rows", sa.Integer, nullable=False, server_default="0"),
        sa.Column("reference_differing", sa.Integer, nullable=False, server_default="0"),
        sa.Column("gaps", sa.Integer, nullable=False, server_default="0"),
        sa.Column("slower", sa.Integer, nullable=False, server_default="0"),
        sa.Column("failed", sa.Integer, nullable=False, server_default="0"),
        sa.Column("share", sa.Float, nullable=False),
        sa.Column("lower", sa.Float, nullable=False),
        sa.Column("upper", sa.Float, nullable=False),
        sa.Column("measured_at", sa.Float, nullable=False),
    )
    op.create_index("disagreements_of_version", "disagreements", ["version", "measured_at"])


def _create_queue_actions() -> None:
    op.create_table(
        "queue_actions",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("text_id", sa.String(64), nullable=False),
        sa.Column("prediction_id", sa.String(64), nullable=False),
        sa.Column("labeller", sa.String(64), nullable=False),
        sa.Column("action", sa.String(16), nullable=False),
        sa.Column("label", sa.String(200)),
        sa.Column("cluster", sa.Integer),
        sa.Column("shown_at", sa.Float, nullable=False),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("undone_at", sa.Float),
        sa.UniqueConstraint("prediction_id", "labeller", "shown_at", name="one_action_a_showing"),
    )
    op.create_index("queue_actions_of_text", "queue_actions", ["text_id"])
    op.create_index("queue_actions_of_labeller", "queue_actions", ["labeller", "at"])


def _create_intent_proposals() -> None:
    op.create_table(
        "intent_proposals",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("cluster", sa.Integer, nullable=False),
        sa.Column("label", sa.String(200), nullable=False),
        sa.Column("proposed_by", sa.String(64), nullable=False),
        sa.Column("at", sa.Float, nullable=False),
        sa.UniqueConstraint("cluster", "label", name="one_proposal_once"),
    )


def _create_label_returns() -> None:
    op.create_table(
        "label_returns",
        sa.Column("content_digest", sa.String(64), primary_key=True),
        sa.Column("cluster", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("labels", sa.Integer, nullable=False),
        sa.Column("texts", sa.Integer, nullable=False),
        sa.Column("rows", sa.Integer, nullable=False),
        sa.Column("gained", sa.Integer, nullable=False),
        sa.Column("lost", sa.Integer, nullable=False),
        sa.Column("removed", sa.Float, nullable=False),
        sa.Column("lower", sa.Float, nullable=False),
        sa.Column("upper", sa.Float, nullable=False),
    )
