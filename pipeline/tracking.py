"""The MLflow door: one run for the processes train, evaluate, reference and export, and the registry that publish writes.

Telemetry never stops a stage: calls that fail are told once and the stage goes on; all that publish needs stands in files.
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
ASKED_BY = {"DVC_EXP_NAME": "dvc.exp_name", "EVERGREEN_DECISION": "evergreen.decision", "EVERGREEN_ALERT": "evergreen.alert"}
MAX_TAG_CHARS = 500
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

    def file(self, path: Path, folder: str) -> None:
        self._try(lambda: self._client.log_artifact(self.id, str(path), folder))

    def files(self, folder: Path) -> None:
        self._try(lambda: self._client.log_artifacts(self.id, str(folder), folder.name))

    def dataset(self, frame: pd.DataFrame, *, name: str, source: str, context: str, digest: str) -> None:
        """A dataset input; MLflow's digest column keeps at most 36 characters."""

        def send() -> None:
            with catch_warnings():
                simplefilter("ignore")  # a path "can be interpreted in multiple ways", all of them the same
                data = mlflow.data.from_pandas(frame, source=source, name=name, targets="label", digest=digest[:36])
            mlflow.log_input(data, context=context)

        self._try(send)

    def model(self, exported: Path) -> None:
        """The servable model, once for each content."""
        self._try(lambda: ensure_model(str(self.id), exported))

    def _try(self, call: Callable[[], Any]) -> None:
        if self._failures >= GIVE_UP_AFTER:
            return
        try:
            call()
            self._failures = 0
        except Exception as error:  # whatever a store, a driver or a plug-in raises: telemetry stops no stage
            self._failures += 1
            log.warning("mlflow_call_failed", error=str(error)[:300], giving_up=self._failures >= GIVE_UP_AFTER)


def connect(home: Path) -> None:
    """Point MLflow at `MLFLOW_TRACKING_URI`, by default an SQLite file in the home of state."""
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    uri, named = tracking_uri(home), os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(uri)
    if named is None:  # MLflow has set it now: this home's store would pass for the user's choice in the next home
        os.environ.pop("MLFLOW_TRACKING_URI", None)
    with FileLock(home / "mlflow.lock"):  # two processes must not both lay out a fresh database
        if mlflow.get_experiment_by_name(EXPERIMENT) is None:
            local = uri == default_uri(home)
            mlflow.create_experiment(EXPERIMENT, artifact_location=(home / "mlartifacts").as_uri() if local else None)
    mlflow.set_experiment(EXPERIMENT)


def tracking_uri(home: Path) -> str:
    """The store that the environment names, else the SQLite file in the home of state."""
    return os.environ.get("MLFLOW_TRACKING_URI") or default_uri(home)


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
        what = f"the registry did not do what was asked: {str(error)[:300]}"
        do = "see that it runs, then call `.venv/bin/evergreen publish` again: it goes on where it was"
        raise ToolError(f"MLflow at {tracking_uri(home)}", what, do) from None


def show(home: Path, port: int) -> NoReturn:
    """Become MLflow's server, on loopback and on the local store; raises `ToolError` when the store has a server of its own."""
    if tracking_uri(home).startswith("http"):
        raise ToolError(
            "MLFLOW_TRACKING_URI", "the runs are on a server, which has pages of its own", f"open {tracking_uri(home)}"
        )
    connect(home)
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    store = ["--backend-store-uri", tracking_uri(home), "--default-artifact-root", (home / "mlartifacts").as_uri()]
    os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"  # nothing here uses it, and its routes need no login
    sys.stdout.flush()
    os.execv(sys.executable, [*command, *store])  # noqa: S606  # no shell is wanted


@contextmanager
def stage_run(
    stage: str, params: dict[str, str], home: Path, *, continues: str | None = None, parent: str | None = None
) -> Iterator[Run]:
    """The run of this stage: the one it continues, or a new one; with a parent, a run inside of that one.

    A run's params cannot change; a stage that is run again with other params gets a child of the run it would have continued.
    """
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")  # short patience with dead servers: training waits for none
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    try:
        connect(home)
        active = _open_run(stage, params, continues, parent)
    except Exception as error:  # as in Run._try
        log.warning("mlflow_unreachable", error=str(error)[:300], consequence=f"stage {stage} goes on without tracking")
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
    except MlflowException:  # the model was made elsewhere and came with `dvc pull`
        return mlflow.start_run(tags={"evergreen.trained_in": continues, **_origin()}, log_system_metrics=True)
    if all(known.get(key, value) == value for key, value in params.items()):
        mlflow.MlflowClient().set_tag(continues, OWNER, this_process())  # first: a run without a living owner would be closed
        return mlflow.start_run(run_id=continues, log_system_metrics=True, nested=nested)
    return mlflow.start_run(run_name=f"{stage} again", parent_run_id=continues, tags=_origin(), log_system_metrics=True)


def _origin() -> dict[str, str]:
    tags = {"git.commit": git("rev-parse", "HEAD"), "git.dirty": str(is_dirty()).lower(), OWNER: this_process()}
    asked = {name: os.environ[name] for name in ASKED_BY if os.environ.get(name)}
    return tags | {ASKED_BY[name]: value[:MAX_TAG_CHARS] for name, value in asked.items()}


def close_orphans(home: Path) -> list[str]:
    """End runs that stand as RUNNING though the process of this machine that owned them is gone; their ids. May raise."""
    connect(home)
    client = mlflow.MlflowClient()
    experiment = mlflow.get_experiment_by_name(EXPERIMENT)
    closed = []
    for run in client.search_runs([experiment.experiment_id], "attributes.status = 'RUNNING'"):
        owner = run.data.tags.get(OWNER)
        if owner and is_gone(owner):
            client.set_tag(run.info.run_id, "evergreen.closed", "its owner had ended without a word")
            client.set_terminated(run.info.run_id, "KILLED")
            closed.append(str(run.info.run_id))
    return closed


def ensure_model(run_id: str, exported: Path) -> str:
    """URI of the run's servable model with this content, logged now (signature from type hints) if it is not there; may raise."""
    client = mlflow.MlflowClient()
    experiment = mlflow.get_experiment_by_name(EXPERIMENT)
    digest = model_digest(exported)
    known = client.search_logged_models(
        [experiment.experiment_id], filter_string=f"source_run_id = '{run_id}' AND status = 'READY'"
    )
    for one in known:
        if one.tags.get("model_digest") == digest:
            return f"models:/{one.model_id}"
    here = Path(__file__).parent
    sys.path.insert(0, str(here))  # MLflow tries the input example now, and finds `runtime` by its own means only when it loads
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
