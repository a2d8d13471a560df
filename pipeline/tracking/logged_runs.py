"""Reads a finished run from MLflow: its params and the files of its evaluation.

MLflow takes seconds to import, so only a question that it can answer imports it.
"""

import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from pipeline.tracking.address import has_store

RUN_ID = re.compile(r"[0-9a-f]{32}")
EVALUATION = "evaluation"  # folder of the run's artifacts that stage evaluate logs


class LoggedRun(NamedTuple):
    """A run as MLflow stores it."""

    id: str
    name: str
    params: dict[str, str]


def find_run(name: str, home: Path) -> LoggedRun | None:
    """Return the run with this id, or the newest with this name; None when there is none."""
    if not has_store(home):
        return None
    import mlflow
    from mlflow.exceptions import MlflowException

    from pipeline.tracking.store import EXPERIMENT, connect

    connect(home)
    client = mlflow.MlflowClient()
    try:
        if RUN_ID.fullmatch(name):
            run = client.get_run(name)
        else:
            experiment = mlflow.get_experiment_by_name(EXPERIMENT)
            wanted = "attributes.run_name = '{}'".format(name.replace("'", ""))
            newest = ["attributes.start_time DESC"]
            named = client.search_runs([experiment.experiment_id], wanted, max_results=1, order_by=newest)
            if not named:
                return None
            run = named[0]
    except MlflowException:
        return None
    return LoggedRun(run.info.run_id, run.info.run_name or "", dict(run.data.params))


def read_evaluation(run_id: str, file: str, home: Path) -> bytes | None:
    """Return a file that stage evaluate logged to the run; None when the run has none."""
    import mlflow
    from mlflow.exceptions import MlflowException

    from pipeline.tracking.store import connect

    connect(home)
    with TemporaryDirectory(prefix="evergreen-") as folder:
        try:
            path = mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path=f"{EVALUATION}/{file}", dst_path=folder)
        except (MlflowException, OSError):
            return None
        return Path(path).read_bytes()
