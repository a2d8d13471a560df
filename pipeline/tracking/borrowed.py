"""MLflow in a process that belongs to a caller, such as a notebook: afterwards its settings are the caller's again."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import mlflow
from mlflow.tracking import fluent

from pipeline.errors import InputError

SET_BY_US = (
    *("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_ID", "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT"),
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR",
)


@contextmanager
def borrowed_mlflow() -> Iterator[None]:
    """Restore store, experiment and environment after the block; raise `InputError` when the caller has a run open."""
    if run := mlflow.active_run():
        what = f"the run {run.info.run_name} is open in this thread, and a training has a run of its own"
        raise InputError("MLflow", what, "end it first: mlflow.end_run(); or train without a run: track=False")
    environment = {name: os.environ.get(name) for name in SET_BY_US}
    store = mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else None
    experiment = fluent._active_experiment_id  # `set_experiment` would ask a store for it
    try:
        yield
    finally:
        mlflow.set_tracking_uri(store)
        fluent._active_experiment_id = experiment
        for name, value in environment.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
