"""Connects to MLflow's store of runs and models, follows a moved home of state, and restores deleted objects.

MLflow's pages delete softly, and a deleted experiment or run refuses every later call. Objects that Evergreen still needs are
restored, and the log says so; objects that were removed for good (`mlflow gc`) are created again.
"""

import logging
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote, urlparse

import mlflow
import structlog
from filelock import FileLock
from mlflow.exceptions import MlflowException

from pipeline.tracking.address import default_uri, tracking_uri

EXPERIMENT = "evergreen"
ARTIFACTS = "mlartifacts"
NOTE = "mlflow.note.content"  # the description that MLflow's pages show
EXPERIMENT_TAGS = {
    "mlflow.experimentKind": "custom_model_development",  # the pages show runs, curves and models, not traces of chats
    NOTE: "One run for each training: its settings, learning curves, scores beside the control, and the model that is served.",
}
LOCATIONS = (  # columns of MLflow's database that hold the place of files
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "storage_location"),
    ("model_versions", "source"),
)
DELETED, MISSING = "deleted", "RESOURCE_DOES_NOT_EXIST"
log = structlog.get_logger()


def connect(home: Path) -> list[str]:
    """Point MLflow at `MLFLOW_TRACKING_URI`, by default an SQLite file in the home of state; return what was mended."""
    mended = []
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    uri, named = tracking_uri(home), os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(uri)
    if named is None:  # MLflow has set it now, and another home would take this store for the user's choice
        os.environ.pop("MLFLOW_TRACKING_URI", None)
    with FileLock(home / "mlflow.lock"):  # two processes must not both create the tables
        is_local = uri == default_uri(home)
        if is_local and (before := follow_moved_home(home)):
            mended.append(f"the home was moved, and MLflow still named files in {before}; now it names those in this home")
        experiment = mlflow.get_experiment_by_name(EXPERIMENT)
        if experiment is None:
            mlflow.create_experiment(EXPERIMENT, artifact_location=(home / ARTIFACTS).as_uri() if is_local else None)
        elif experiment.lifecycle_stage == DELETED:
            _restore_experiment(experiment.experiment_id)
            mended.append(f"the experiment {EXPERIMENT} was deleted; it is restored, with its runs")
    tags = mlflow.set_experiment(EXPERIMENT).tags
    if missing := {key: value for key, value in EXPERIMENT_TAGS.items() if key not in tags}:
        mlflow.set_experiment_tags(missing)
    return mended


def follow_moved_home(home: Path) -> str | None:
    """Let MLflow's database name files in this home again when it still names another; return the place it named.

    A location that is not the folder `mlartifacts` of some home was chosen by a person, and stays.
    """
    database, new = home / "mlflow.db", (home / ARTIFACTS).as_uri()
    if not database.is_file():
        return None
    with closing(sqlite3.connect(database, timeout=30)) as store, store:
        columns = [(table, column) for table, column in LOCATIONS if _has_table(store, table)]
        query = "SELECT artifact_location FROM experiments WHERE name = ?"
        row = store.execute(query, (EXPERIMENT,)).fetchone() if columns else None
        old = str(row[0]) if row and row[0] else new
        if old == new or not (old.startswith("file:") and old.endswith(f"/{ARTIFACTS}")):
            return None
        old_path = unquote(urlparse(old).path)
        for before, after in ((old, new), (old_path, str(home / ARTIFACTS))):
            for table, column in columns:
                change = f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column} || '/', 1, ?) = ?"  # noqa: S608
                store.execute(change, (after, len(before) + 1, len(before) + 1, f"{before}/"))
    log.warning("mlflow_follows_moved_home", before=old_path, now=str(home / ARTIFACTS))
    return old_path


def restore_run(run_id: str) -> bool:
    """Restore a run that was deleted in MLflow's pages, with its experiment; return False when there was nothing to restore."""
    client = mlflow.MlflowClient()
    info = client.get_run(run_id).info
    experiment = client.get_experiment(info.experiment_id)
    if experiment.lifecycle_stage == DELETED:
        _restore_experiment(info.experiment_id)
        info = client.get_run(run_id).info
    elif info.lifecycle_stage != DELETED:
        return False
    if info.lifecycle_stage == DELETED:
        client.restore_run(run_id)
    log.warning("mlflow_run_restored", run=run_id, reason="it was deleted, and is still in use")
    return True


def is_missing(error: MlflowException) -> bool:
    """Return True when MLflow says that it has no such object."""
    return bool(error.error_code == MISSING)


def _restore_experiment(experiment_id: str) -> None:
    mlflow.MlflowClient().restore_experiment(experiment_id)
    log.warning("mlflow_experiment_restored", experiment=EXPERIMENT, reason="it was deleted, and Evergreen writes into it")


def _has_table(store: sqlite3.Connection, table: str) -> bool:
    return store.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?", (table,)).fetchone() is not None
