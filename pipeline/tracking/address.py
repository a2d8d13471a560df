"""Where MLflow's store is. Does not import MLflow, which takes seconds."""

import os
import shlex
from pathlib import Path

from pipeline.home import sqlite_url


def tracking_uri(home: Path) -> str:
    """Return the store that the environment names, else the SQLite file in the home of state."""
    return os.environ.get("MLFLOW_TRACKING_URI") or default_uri(home)


def default_uri(home: Path) -> str:
    """Return the URI of the SQLite database in the home of state."""
    return sqlite_url(home / "mlflow.db")


def has_store(home: Path) -> bool:
    """Return whether there may be runs: the environment names a store, or something was logged in this home."""
    return tracking_uri(home) != default_uri(home) or (home / "mlflow.db").is_file()


def export_line(home: Path) -> str:
    """Return the line for a shell that lets MLflow's own tools find the store: `export MLFLOW_TRACKING_URI=…`."""
    return f"export MLFLOW_TRACKING_URI={shlex.quote(tracking_uri(home))}"
