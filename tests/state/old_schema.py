"""Databases with the schema of an earlier release."""

from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from state import database


def alembic_config(connection: sa.Connection | None = None) -> Config:
    """Return the configuration of our migrations."""
    config = Config()
    config.set_main_option("script_location", str(Path(database.__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    return config


def downgrade(engine: sa.Engine, revision: str) -> None:
    """Downgrade the schema to an older revision."""
    with engine.begin() as connection:
        command.downgrade(alembic_config(connection), revision)
