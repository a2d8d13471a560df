"""MLflow in a process that belongs to a caller, such as a notebook: afterwards its settings are the caller's again."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import mlflow
from mlflow.tracking import fluent

from pipeline.errors import InputError

PREFIX = "MLFLOW_"  # of MLflow's variables in the environment


@contextmanager
def borrowed_mlflow() -> Iterator[None]:
    """Restore store, experiment and environment after the block; raise `InputError` when the caller has a run open."""
    if run := mlflow.active_run():
        what = f"the run {run.info.run_name} is open in this thread, and a training has a run of its own"
        raise InputError("MLflow", what, "end it first: mlflow.end_run(); or train without a run: track=False")
    environment = _environment()
    store = mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else None
    experiment = fluent._active_experiment_id  # `set_experiment` would ask a store for it
    try:
        yield
    finally:
        mlflow.set_tracking_uri(store)
        fluent._active_experiment_id = experiment
        for name in _environment():
            del os.environ[name]
        os.environ.update(environment)


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith(PREFIX)}
