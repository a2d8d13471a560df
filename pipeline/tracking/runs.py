"""The run in MLflow of the stages that make a model.

Telemetry never stops a stage: failed calls are logged and the stage continues, because `publish` reads only files.
"""

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn
from warnings import catch_warnings, simplefilter

import mlflow
import structlog
from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException
from mlflow.utils.time import get_current_time_millis

from pipeline.errors import ToolError
from pipeline.home import git, is_dirty
from pipeline.process_identity import is_gone, this_process
from pipeline.tracking.address import tracking_uri
from pipeline.tracking.descriptions import DVC_NAME, RECIPE, as_tags, recipe, run_name, with_line
from pipeline.tracking.logged_models import ensure_model
from pipeline.tracking.store import ARTIFACTS, EXPERIMENT, NOTE, connect, restore_run

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

GIVE_UP_AFTER = 3  # failed calls in a row
OWNER = "evergreen.owner"
CAUSES = {
    DVC_NAME: "dvc.exp_name",
    RECIPE: "evergreen.recipe",
    "EVERGREEN_DECISION": "evergreen.decision",
    "EVERGREEN_ALERT": "evergreen.alert",
}
MAX_TAG_CHARS = 500
log = structlog.get_logger()


class Run:
    """One MLflow run, as a stage uses it; `id` is None when MLflow cannot be reached."""

    def __init__(self, run_id: str | None) -> None:
        self.id = run_id
        self._failures = 0 if run_id else GIVE_UP_AFTER
        self._client: Any = mlflow.MlflowClient() if run_id else None  # a client without a store would create one

    def sweep(self, home: Path) -> None:
        """Close the runs that killed stages have left open."""
        self._try(lambda: close_orphans(home))

    def params(self, values: dict[str, str]) -> None:
        self._try(lambda: self._client.log_batch(self.id, params=[Param(k, v) for k, v in values.items()]))

    def tags(self, values: Mapping[str, object]) -> None:
        """Set tags; a value that is None sets none."""
        self._try(lambda: [self._client.set_tag(self.id, key, value) for key, value in as_tags(values).items()])

    def note(self, title: str, text: str) -> None:
        """Set the line of this title in the run's description."""

        def send() -> None:
            before = self._client.get_run(self.id).data.tags.get(NOTE, "")
            self._client.set_tag(self.id, NOTE, with_line(before, title, text))

        self._try(send)

    def metrics(self, values: dict[str, float], step: int = 0) -> None:
        now = get_current_time_millis()
        self._try(lambda: self._client.log_batch(self.id, metrics=[Metric(k, float(v), now, step) for k, v in values.items()]))

    def figure(self, figure: "Figure", name: str) -> None:
        self._try(lambda: self._client.log_figure(self.id, figure, f"figures/{name}.png"))

    def file(self, path: Path, folder: str) -> None:
        self._try(lambda: self._client.log_artifact(self.id, str(path), folder))

    def files(self, folder: Path) -> None:
        self._try(lambda: self._client.log_artifacts(self.id, str(folder), folder.name))

    def dataset(self, frame: "pd.DataFrame", *, name: str, source: str, context: str, digest: str) -> None:
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
            self._call(call)
            self._failures = 0
        except Exception as error:  # stores, drivers and plug-ins raise anything, and telemetry must not stop a stage
            self._failures += 1
            log.warning("mlflow_call_failed", error=str(error)[:300], giving_up=self._failures >= GIVE_UP_AFTER)

    def _call(self, call: Callable[[], Any]) -> None:
        """Call again when the run was deleted in MLflow's pages meanwhile, and could be restored."""
        try:
            call()
        except MlflowException:
            if not restore_run(str(self.id)):
                raise
            call()


def show(home: Path, port: int, announce: Callable[[str], None]) -> NoReturn:
    """Replace this process by MLflow's server, on loopback and the local store; raise `ToolError` when the store is a server.

    `announce` is called with the address of the runs.
    """
    if tracking_uri(home).startswith("http"):
        raise ToolError("MLFLOW_TRACKING_URI", "the runs are on a server with its own pages", f"open {tracking_uri(home)}")
    close_orphans(home)
    experiment = mlflow.get_experiment_by_name(EXPERIMENT)
    # the kind of the experiment is not enough: without `workflowType` these pages open among traces of chats
    announce(f"http://127.0.0.1:{port}/#/experiments/{experiment.experiment_id}/runs?workflowType=machine_learning")
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    store = ["--backend-store-uri", tracking_uri(home), "--default-artifact-root", (home / ARTIFACTS).as_uri()]
    os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"  # unused here, and its routes need no login
    sys.stdout.flush()
    os.execv(sys.executable, [*command, *store])  # noqa: S606  # without a shell


@contextmanager
def stage_run(
    stage: str,
    params: dict[str, str],
    home: Path,
    *,
    continues: str | None = None,
    parent: str | None = None,
    project: Path | None = None,
) -> Iterator[Run]:
    """Open the run of this stage: the one that it continues, a new one, or with `parent` a new nested one.

    A run's params cannot change, so a stage repeated with other params gets a child of the run it would have continued. The run
    names the commit of the `project`, by default that of the current folder.
    """
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")  # training must not wait for a dead server
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    try:
        connect(home)
        active = _open_run(stage, params, continues, parent, project)
    except Exception as error:  # as in Run._try
        log.warning("mlflow_unreachable", error=str(error)[:300], consequence=f"stage {stage} continues without tracking")
        yield Run(None)
        return
    run = Run(active.info.run_id)
    status = "FAILED"
    try:
        run.sweep(home)
        run.params(params)
        yield run
        run.tags({f"stage.{stage}": "done"})
        status = "FINISHED"
    except (KeyboardInterrupt, SystemExit):
        status = "KILLED"
        raise
    finally:
        try:
            _end(run, status)
        except Exception as error:
            log.warning("mlflow_run_left_open", run=run.id, error=str(error)[:300])


def _end(run: Run, status: str) -> None:
    try:
        mlflow.end_run(status)
    except MlflowException:
        if not restore_run(str(run.id)):
            raise
        mlflow.MlflowClient().set_terminated(run.id, status)


def _open_run(
    stage: str, params: dict[str, str], continues: str | None, parent: str | None, project: Path | None
) -> mlflow.ActiveRun:
    mlflow.set_system_metrics_sampling_interval(2)
    nested = parent is not None
    for run_id in filter(None, (parent, continues)):
        with suppress(MlflowException):  # unknown here
            restore_run(run_id)
    if continues is None:
        name = (not nested and run_name(params, os.environ)) or stage
        settings = recipe(params, os.environ)
        tags = _origin(project) | ({NOTE: with_line("", "Recipe", settings)} if settings else {})
        return mlflow.start_run(run_name=name, log_system_metrics=not nested, tags=tags, nested=nested, parent_run_id=parent)
    try:
        known = mlflow.get_run(continues).data.params
    except MlflowException:  # the model was trained elsewhere and fetched with `dvc pull`
        return mlflow.start_run(tags={"evergreen.trained_in": continues, **_origin(project)}, log_system_metrics=True)
    if all(known.get(key, value) == value for key, value in params.items()):
        mlflow.MlflowClient().set_tag(continues, OWNER, this_process())  # first, or `close_orphans` may close the run
        return mlflow.start_run(run_id=continues, log_system_metrics=True, nested=nested)
    return mlflow.start_run(run_name=f"{stage} again", parent_run_id=continues, tags=_origin(project), log_system_metrics=True)


def _origin(project: Path | None) -> dict[str, str]:
    commit, dirty = git("rev-parse", "HEAD", folder=project), str(is_dirty(project)).lower()
    tags = {"git.commit": commit, "git.dirty": dirty, OWNER: this_process()}
    causes = {CAUSES[name]: os.environ[name][:MAX_TAG_CHARS] for name in CAUSES if os.environ.get(name)}
    return tags | causes


def note_release(run_id: str, home: Path, verdict: str, tags: Mapping[str, object], metrics: dict[str, float]) -> None:
    """Write into the run of a model what became of its release; a store that is away is logged."""
    try:
        connect(home)
    except Exception as error:  # as in Run._try
        log.warning("mlflow_unreachable", error=str(error)[:300], consequence="the run does not say what became of its release")
        return
    run = Run(run_id)
    run.tags(tags)
    run.metrics(metrics)
    run.note("Release", verdict)


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
