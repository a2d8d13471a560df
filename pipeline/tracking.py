"""All calls to MLflow: one run for the stages that make a model, and the registry that `publish` writes.

Telemetry never stops a stage: failed calls are logged and the stage continues, because `publish` reads only files.
Registry calls are not telemetry: they raise.
"""

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn
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
from pipeline.home import git, is_dirty
from pipeline.process_identity import is_gone, this_process
from pipeline.runtime.classifier import MODEL_FILES, model_digest

EXPERIMENT = "evergreen"
GIVE_UP_AFTER = 3  # failed calls in a row
MODEL_NAME_IN_RUN = "model"
OWNER = "evergreen.owner"
CAUSES = {"DVC_EXP_NAME": "dvc.exp_name", "EVERGREEN_DECISION": "evergreen.decision", "EVERGREEN_ALERT": "evergreen.alert"}
MAX_TAG_CHARS = 500
log = structlog.get_logger()


class Run:
    """One MLflow run, as a stage uses it; `id` is None when MLflow cannot be reached."""

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

    def file(self, path: Path, folder: str) -> None:
        self._try(lambda: self._client.log_artifact(self.id, str(path), folder))

    def files(self, folder: Path) -> None:
        self._try(lambda: self._client.log_artifacts(self.id, str(folder), folder.name))

    def dataset(self, frame: pd.DataFrame, *, name: str, source: str, context: str, digest: str) -> None:
        """Log a dataset input; MLflow's digest column holds at most 36 characters."""

        def send() -> None:
            with catch_warnings():
                simplefilter("ignore")  # MLflow warns that a path has several interpretations, all of them equal
                data = mlflow.data.from_pandas(frame, source=source, name=name, targets="label", digest=digest[:36])
            mlflow.log_input(data, context=context)

        self._try(send)

    def model(self, exported: Path) -> None:
        """Log the servable model, once for each content."""
        self._try(lambda: ensure_model(str(self.id), exported))

    def _try(self, call: Callable[[], Any]) -> None:
        if self._failures >= GIVE_UP_AFTER:
            return
        try:
            call()
            self._failures = 0
        except Exception as error:  # stores, drivers and plug-ins raise anything, and telemetry must not stop a stage
            self._failures += 1
            log.warning("mlflow_call_failed", error=str(error)[:300], giving_up=self._failures >= GIVE_UP_AFTER)


def connect(home: Path) -> None:
    """Point MLflow at `MLFLOW_TRACKING_URI`, by default an SQLite file in the home of state."""
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    uri, named = tracking_uri(home), os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(uri)
    if named is None:  # MLflow has set it now, and another home would take this store for the user's choice
        os.environ.pop("MLFLOW_TRACKING_URI", None)
    with FileLock(home / "mlflow.lock"):  # two processes must not both create the tables
        if mlflow.get_experiment_by_name(EXPERIMENT) is None:
            local = uri == default_uri(home)
            mlflow.create_experiment(EXPERIMENT, artifact_location=(home / "mlartifacts").as_uri() if local else None)
    mlflow.set_experiment(EXPERIMENT)


def tracking_uri(home: Path) -> str:
    """Return the store that the environment names, else the SQLite file in the home of state."""
    return os.environ.get("MLFLOW_TRACKING_URI") or default_uri(home)


def default_uri(home: Path) -> str:
    """Return the URI of the SQLite database in the home of state."""
    return f"sqlite:///{home / 'mlflow.db'}"


@contextmanager
def registry(home: Path) -> Iterator[None]:
    """Connect to MLflow for registry calls, and raise `ToolError` with advice when one of them fails."""
    try:
        connect(home)
        yield
    except MlflowException as error:
        what = f"a registry call failed: {str(error)[:300]}"
        do = "check that MLflow runs, then repeat `.venv/bin/evergreen publish`: it continues where it stopped"
        raise ToolError(f"MLflow at {tracking_uri(home)}", what, do) from None


def show(home: Path, port: int) -> NoReturn:
    """Replace this process by MLflow's server, on loopback and the local store; raise `ToolError` when the store is a server."""
    if tracking_uri(home).startswith("http"):
        raise ToolError("MLFLOW_TRACKING_URI", "the runs are on a server with its own pages", f"open {tracking_uri(home)}")
    connect(home)
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    store = ["--backend-store-uri", tracking_uri(home), "--default-artifact-root", (home / "mlartifacts").as_uri()]
    os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"  # unused here, and its routes need no login
    sys.stdout.flush()
    os.execv(sys.executable, [*command, *store])  # noqa: S606  # without a shell


@contextmanager
def stage_run(
    stage: str, params: dict[str, str], home: Path, *, continues: str | None = None, parent: str | None = None
) -> Iterator[Run]:
    """Open the run of this stage: the one that it continues, a new one, or with `parent` a new nested one.

    A run's params cannot change, so a stage repeated with other params gets a child of the run it would have continued.
    """
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")  # training must not wait for a dead server
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    try:
        connect(home)
        active = _open_run(stage, params, continues, parent)
    except Exception as error:  # as in Run._try
        log.warning("mlflow_unreachable", error=str(error)[:300], consequence=f"stage {stage} continues without tracking")
        yield Run(None)
        return
    run = Run(active.info.run_id)
    status = "FAILED"
    try:
        run.params(params)
        yield run
        run.tags({f"stage.{stage}": "done"})
        status = "FINISHED"
    except (KeyboardInterrupt, SystemExit):
        status = "KILLED"
        raise
    finally:
        try:
            mlflow.end_run(status)
        except Exception as error:
            log.warning("mlflow_run_left_open", run=run.id, error=str(error)[:300])


def _open_run(stage: str, params: dict[str, str], continues: str | None, parent: str | None) -> mlflow.ActiveRun:
    mlflow.set_system_metrics_sampling_interval(2)
    nested = parent is not None
    if continues is None:
        name = stage if nested else None
        return mlflow.start_run(run_name=name, log_system_metrics=not nested, tags=_origin(), nested=nested, parent_run_id=parent)
    try:
        known = mlflow.get_run(continues).data.params
    except MlflowException:  # the model was trained elsewhere and fetched with `dvc pull`
        return mlflow.start_run(tags={"evergreen.trained_in": continues, **_origin()}, log_system_metrics=True)
    if all(known.get(key, value) == value for key, value in params.items()):
        mlflow.MlflowClient().set_tag(continues, OWNER, this_process())  # first, or `close_orphans` may close the run
        return mlflow.start_run(run_id=continues, log_system_metrics=True, nested=nested)
    return mlflow.start_run(run_name=f"{stage} again", parent_run_id=continues, tags=_origin(), log_system_metrics=True)


def _origin() -> dict[str, str]:
    tags = {"git.commit": git("rev-parse", "HEAD"), "git.dirty": str(is_dirty()).lower(), OWNER: this_process()}
    causes = {CAUSES[name]: os.environ[name][:MAX_TAG_CHARS] for name in CAUSES if os.environ.get(name)}
    return tags | causes


def close_orphans(home: Path) -> list[str]:
    """End RUNNING runs whose owner was a process of this machine that has ended, and return their ids. May raise."""
    connect(home)
    client = mlflow.MlflowClient()
    experiment = mlflow.get_experiment_by_name(EXPERIMENT)
    closed = []
    for run in client.search_runs([experiment.experiment_id], "attributes.status = 'RUNNING'"):
        owner = run.data.tags.get(OWNER)
        if owner and is_gone(owner):
            client.set_tag(run.info.run_id, "evergreen.closed", "its owner ended without closing it")
            client.set_terminated(run.info.run_id, "KILLED")
            closed.append(str(run.info.run_id))
    return closed


def ensure_model(run_id: str, exported: Path) -> str:
    """Return the URI of the run's servable model with this content; log the model first when it is absent. May raise."""
    client = mlflow.MlflowClient()
    experiment = mlflow.get_experiment_by_name(EXPERIMENT)
    digest = model_digest(exported)
    known = client.search_logged_models(
        [experiment.experiment_id], filter_string=f"source_run_id = '{run_id}' AND status = 'READY'"
    )
    for model in known:
        if model.tags.get("model_digest") == digest:
            return f"models:/{model.model_id}"
    here = Path(__file__).parent
    sys.path.insert(0, str(here))  # MLflow runs the input example now, before it knows where `runtime` is
    try:
        logged = mlflow.pyfunc.log_model(
            name=MODEL_NAME_IN_RUN,
            python_model=str(here / "pyfunc_model.py"),
            code_paths=[str(here / "runtime")],
            artifacts={name: str(exported / name) for name in MODEL_FILES},
            tags={"model_digest": digest},
            input_example=["where is my parcel?", "the kettle leaks"],
            pip_requirements=[f"{name}=={version(name)}" for name in ("mlflow", "numpy", "onnxruntime", "tokenizers")],
        )
    finally:
        sys.path.remove(str(here))
    return str(logged.model_uri)


def register(name: str, run_id: str | None, exported: Path, tags: dict[str, str]) -> int:
    """Return the version number of the content `tags['content_digest']`; register it first when it is absent. May raise."""
    digest = tags["content_digest"]
    client = mlflow.MlflowClient()
    versions: list[ModelVersion] = client.search_model_versions(f"name = '{name}' and tags.content_digest = '{digest}'")
    if versions:
        return min(int(entry.version) for entry in versions)
    with _in_run(run_id):
        uri = ensure_model(mlflow.active_run().info.run_id, exported)
    return int(mlflow.register_model(uri, name, tags=tags).version)


@contextmanager
def _in_run(run_id: str | None) -> Iterator[None]:
    """Continue the run, or start a new one when this store does not know it."""
    try:
        known = run_id if run_id and mlflow.get_run(run_id) else None
    except MlflowException:
        known = None
    tags = None if known else {"evergreen.trained_in": str(run_id)}
    with mlflow.start_run(run_id=known, tags=tags):
        yield


def set_alias(name: str, alias: str, number: int | None) -> None:
    """Point `models:/name@alias` to version `number`, or remove the alias."""
    client = mlflow.MlflowClient()
    aliases = client.get_registered_model(name).aliases
    if number is None:
        if alias in aliases:
            client.delete_registered_model_alias(name, alias)
    elif str(aliases.get(alias)) != str(number):
        client.set_registered_model_alias(name, alias, str(number))
