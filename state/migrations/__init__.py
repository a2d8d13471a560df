"""Alembic revisions of the state database, oldest first in `versions/`. They import no tables, because tables change later."""
