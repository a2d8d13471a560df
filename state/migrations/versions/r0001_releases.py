"""Create the release table."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "releases",
        sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("content_digest", sa.String(64), nullable=False, unique=True),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("published_at", sa.DateTime(timezone=True), nullable=False),
    )
    active = sa.text("role != 'retired'")
    op.create_index("one_version_a_role", "releases", ["role"], unique=True, sqlite_where=active, postgresql_where=active)


def downgrade() -> None:
    op.drop_table("releases")
