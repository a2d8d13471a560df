"""The gate's last verdict on each package."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.create_table(
        "gate_verdicts",
        sa.Column("content_digest", sa.String(64), primary_key=True),
        sa.Column("champion_digest", sa.String(64)),
        sa.Column("verdict", sa.Text, nullable=False),
        sa.Column("judged_at", sa.DateTime(timezone=True), nullable=False),
    )


def downgrade() -> None:
    op.drop_table("gate_verdicts")
