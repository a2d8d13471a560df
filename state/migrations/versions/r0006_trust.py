"""Jobs belong to their callers; labels name their labeller, can be withdrawn, and are measured; disputes are settled."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    with op.batch_alter_table("jobs", recreate="never") as batch:
        batch.add_column(sa.Column("caller", sa.String(64), nullable=False, server_default="local"))
    with op.batch_alter_table("feedback", recreate="never") as batch:
        batch.alter_column("source", new_column_name="labeller")
        batch.add_column(sa.Column("note", sa.String(64)))
        batch.add_column(sa.Column("version", sa.Integer))
        batch.add_column(sa.Column("withdrawn_at", sa.DateTime(timezone=True)))
    with op.batch_alter_table("judgements", recreate="never") as batch:
        batch.add_column(sa.Column("feedback_id", sa.Integer))
    op.execute(
        "UPDATE judgements SET feedback_id = "
        "(SELECT min(feedback.id) FROM feedback WHERE feedback.prediction_id = judgements.prediction_id)"
    )
    op.create_table(
        "labellers",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("controls", sa.Integer, nullable=False),
        sa.Column("controls_right", sa.Integer, nullable=False),
        sa.Column("is_counted", sa.Boolean, nullable=False),
        sa.Column("measured_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_table(
        "settlements",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("text_id", sa.String(64), nullable=False),
        sa.Column("label", sa.String(200), nullable=False),
        sa.Column("verdict", sa.String(16), nullable=False),
        sa.Column("settled_by", sa.String(64), nullable=False),
        sa.Column("settled_at", sa.DateTime(timezone=True), nullable=False),
    )


def downgrade() -> None:
    op.drop_table("settlements")
    op.drop_table("labellers")
    with op.batch_alter_table("judgements", recreate="never") as batch:
        batch.drop_column("feedback_id")
    with op.batch_alter_table("feedback", recreate="never") as batch:
        for name in ("withdrawn_at", "version", "note"):
            batch.drop_column(name)
        batch.alter_column("labeller", new_column_name="source")
    with op.batch_alter_table("jobs", recreate="never") as batch:
        batch.drop_column("caller")
