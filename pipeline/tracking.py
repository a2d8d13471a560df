"""The MLflow door: one run for the processes train, evaluate, reference and export, and the registry that publish writes.

Telemetry never stops a stage: calls that fail are told once and the stage goes on; all that publish needs stands in files.
Registry calls are not telemetry: they raise.
"""

import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any
from warnings import catch_warnings, simplefilter

import mlflow
import pandas as pd
import structlog
from filelock import FileLock
from matplotlib.figure import Figure
from mlflow.entities import Metric, Param
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.utils.time import get_current_time_millis

from pipeline.errors import ToolError
from pipeline.home import git

EXPERIMENT = "evergreen"
GIVE_UP_AFTER = 3  # failed calls in a row
MODEL_NAME_IN_RUN = "model"
log = structlog.get_logger()


class Run:
    """One MLflow run as one stage sees it; `id` is None when MLflow cannot be reached."""

    def __init__(self, run_id: str | None) -> None:
        self.id = run_id
        self._failures = 0 if run_id else GIVE_UP_AFTER
        self._client = mlflow.MlflowClient()

    def params(self, values: dict[str, str]) -> None:
        self._try(lambda: self._client.log_batch(self.id, params=[Param(k, v) for k, v in values.items()]))

    def tags(self, values: dict[str, str]) -> None:
        self._try(lambda: [self._client.set_tag(self.id, key, value) for key, value in values.items()])

    def metrics(self, values: dict[str, float], step: int = 0) -> None:
        now = get_current_time_millis()
        self._try(lambda: self._client.log_batch(self.id, metrics=[Metric(k, float(v), now, step) for k, v in values.items()]))

    def figure(self, figure: Figure, name: str) -> None:
        self._try(lambda: self._client.log_figure(self.id, figure, f"figures/{name}.png"))

    def files(self, folder: Path) -> None:
        self._try(lambda: self._client.log_artifacts(self.id, str(folder), folder.name))

    def dataset(self, frame: pd.DataFrame, *, name: str, source: str, context: str, digest: str) -> None:
        """A dataset input; MLflow's digest column keeps at most 36 characters."""
        with catch_warnings():
            simplefilter("ignore")  # a path "can be interpreted in multiple ways", all of them the same
            data = mlflow.data.from_pandas(frame, source=source, name=name, targets="label", digest=digest[:36])
        self._try(lambda: mlflow.log_input(data, context=context))

    def model(self, exported: Path) -> None:
        """The servable model, once a run."""
        self._try(lambda: ensure_model(str(self.id), exported))

    def _try(self, call: Callable[[], Any]) -> None:
        if self._failures >= GIVE_UP_AFTER:
            return
        try:
            call()
            self._failures = 0
        except (MlflowException, OSError) as error:
            self._failures += 1
            log.warning("mlflow_call_failed", error=str(error)[:300], giving_up=self._failures >= GIVE_UP_AFTER)


def connect(home: Path) -> None:
    """Point MLflow at `MLFLOW_TRACKING_URI`, by default an SQLite file in the home of state; short patience with dead servers."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_TRACKING_URI", default_uri(home))
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    mlflow.set_tracking_uri(os.environ["MLFLOW_TRACKING_URI"])
    with FileLock(home / "mlflow.lock"):  # two processes must not both lay out a fresh database
        if mlflow.get_experiment_by_name(EXPERIMENT) is None:
            local = mlflow.get_tracking_uri() == default_uri(home)
            mlflow.create_experiment(EXPERIMENT, artifact_location=(home / "mlartifacts").as_uri() if local else None)
    mlflow.set_experiment(EXPERIMENT)


def default_uri(home: Path) -> str:
    """The SQLite database in the home of state."""
    return f"sqlite:///{home / 'mlflow.db'}"


@contextmanager
def registry(home: Path) -> Iterator[None]:
    """Inside, registry calls reach MLflow; one that fails becomes a `ToolError` in words a person can act on."""
    try:
        connect(home)
        yield
    except MlflowException as error:
        uri = os.environ["MLFLOW_TRACKING_URI"]
        what = f"the registry did not do what was asked: {str(error)[:300]}"
        raise ToolError(
            f"MLflow at {uri}", what, "bring it back, then run `.venv/bin/evergreen publish` again: it goes on where it was"
        ) from None


def show(home: Path, port: int) -> int:
    """Run MLflow's pages on loopback until they are stopped; returns their exit code."""
    connect(home)
    server = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    store = ["--backend-store-uri", mlflow.get_tracking_uri(), "--default-artifact-root", (home / "mlartifacts").as_uri()]
    with suppress(KeyboardInterrupt):
        return subprocess.run([*server, *store], check=False).returncode
    return 0


@contextmanager
def stage_run(stage: str, params: dict[str, str], home: Path, *, continues: str | None = None) -> Iterator[Run]:
    """The run of this stage: the one it continues, or a new one.

    A run's params cannot change; a stage that is run again with other params gets a child of the run it would have continued.
    """
    try:
        connect(home)
        active = _open_run(stage, params, continues)
    except (MlflowException, OSError) as error:
        log.warning("mlflow_unreachable", error=str(error)[:300], consequence=f"stage {stage} goes on without tracking")
        yield Run(None)
        return
    run = Run(active.info.run_id)
    status = "FAILED"
    try:
        run.params(params)
        run.tags({f"stage.{stage}": "done", **_origin()})
        yield run
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        run._try(lambda: mlflow.end_run(status))


def _open_run(stage: str, params: dict[str, str], continues: str | None) -> mlflow.ActiveRun:
    mlflow.set_system_metrics_sampling_interval(2)
    if continues is None:
        return mlflow.start_run(log_system_metrics=True)
    try:
        known = mlflow.get_run(continues).data.params
    except MlflowException:  # the model was made elsewhere and came with `dvc pull`
        return mlflow.start_run(tags={"evergreen.trained_in": continues}, log_system_metrics=True)
    if all(known.get(key, value) == value for key, value in params.items()):
        return mlflow.start_run(run_id=continues, log_system_metrics=True)
    return mlflow.start_run(run_name=f"{stage} again", parent_run_id=continues, log_system_metrics=True)


def _origin() -> dict[str, str]:
    tags = {
        "git.commit": git("rev-parse", "HEAD"),
        "git.dirty": str(bool(git("status", "--porcelain", "--untracked-files=no"))).lower(),
    }
    if os.environ.get("DVC_EXP_NAME"):
        tags["dvc.exp_name"] = os.environ["DVC_EXP_NAME"]
    return tags


def ensure_model(run_id: str, exported: Path) -> str:
    """URI of the run's servable model, logged now (signature from type hints, input example) if it is not there; may raise."""
    client = mlflow.MlflowClient()
    experiment = mlflow.get_experiment_by_name(EXPERIMENT)
    found = client.search_logged_models(
        [experiment.experiment_id], filter_string=f"source_run_id = '{run_id}' AND status = 'READY'"
    )
    if found:
        return f"models:/{found[0].model_id}"
    here = Path(__file__).parent
    sys.path.insert(0, str(here))  # MLflow tries the input example now, and finds `runtime` by its own means only when it loads
    try:
        logged = mlflow.pyfunc.log_model(
            name=MODEL_NAME_IN_RUN,
            python_model=str(here / "pyfunc_model.py"),
            code_paths=[str(here / "runtime")],
            artifacts={"model": str(exported)},
            input_example=["where is my parcel?", "the kettle leaks"],
            pip_requirements=[f"{name}=={version(name)}" for name in ("mlflow", "numpy", "onnxruntime", "tokenizers")],
        )
    finally:
        sys.path.remove(str(here))
    return str(logged.model_uri)


def register(name: str, run_id: str, exported: Path, tags: dict[str, str]) -> int:
    """The registry's number for the content `tags['content_digest']`, registered now unless it is there; may raise."""
    digest = tags["content_digest"]
    client = mlflow.MlflowClient()
    found: list[ModelVersion] = client.search_model_versions(f"name = '{name}' and tags.content_digest = '{digest}'")
    if found:
        return min(int(one.version) for one in found)
    with _in_run(run_id):
        uri = ensure_model(mlflow.active_run().info.run_id, exported)
    return int(mlflow.register_model(uri, name, tags=tags).version)


@contextmanager
def _in_run(run_id: str | None) -> Iterator[None]:
    """Inside the run, or inside a new one where this store does not know it."""
    try:
        known = run_id if run_id and mlflow.get_run(run_id) else None
    except MlflowException:
        known = None
    tags = None if known else {"evergreen.trained_in": str(run_id)}
    with mlflow.start_run(run_id=known, tags=tags):
        yield


def set_alias(name: str, alias: str, number: int | None) -> None:
    """Make `models:/name@alias` mean version `number`, or nothing."""
    client = mlflow.MlflowClient()
    aliases = client.get_registered_model(name).aliases
    if number is None:
        if alias in aliases:
            client.delete_registered_model_alias(name, alias)
    elif str(aliases.get(alias)) != str(number):
        client.set_registered_model_alias(name, alias, str(number))
