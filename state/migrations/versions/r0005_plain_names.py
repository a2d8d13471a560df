"""Plain names for the columns that say when an alert was received and what a window's report holds."""

from alembic import op

revision = "0005"
down_revision = "0004"

RENAMED = {
    "alerts": {"heard_at": "received_at"},
    "decisions": {"heard_wall": "received_wall", "heard_mono": "received_mono", "heard_boot": "received_boot"},
    "windows": {"told": "details"},
}


def upgrade() -> None:
    for table, names in RENAMED.items():
        with op.batch_alter_table(table, recreate="never") as batch:  # SQLite renames in place too
            for old, new in names.items():
                batch.alter_column(old, new_column_name=new)


def downgrade() -> None:
    for table, names in RENAMED.items():
        with op.batch_alter_table(table, recreate="never") as batch:
            for old, new in names.items():
                batch.alter_column(new, new_column_name=old)
