"""Prepare retrains under faults: a clone with a small real pipeline, its champion, and controllers as real processes."""

import multiprocessing
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import sqlalchemy as sa

from monitoring.retrain.request import request_retrain
from monitoring.retrain.run_local import MARK, RunLocal
from pipeline.errors import RefusedError
from serving.processes.ports import free_port
from serving.release.manifest import model_name, read_verified, repository
from serving.release.publish import publish
from serving.release.release_table import roles
from serving.triton.server import with_free_ports
from state.database import open_state, read_state
from state.tables import decisions, retrain_steps, retrains
from tests.conftest import Project, commit
from tests.faults.child import running_module
from tests.faults.retraining.kill_points import run_until
from tests.faults.retraining.released_traffic import QUICK_RELEASE
from tests.faults.sampled import sampled
from tests.faults.stack import clean_environment, wait_until

LEASE_S = 2  # short: the drill waits for it after each death, and no other controller competes for the retrain
DRILL_SETTINGS: dict[str, Any] = {  # no waiting beyond the drill's needs, and no limit on a retrain's attempts
    "settle_s": 0, "poll_s": 0.2, "min_labels": 1, "cooldown_s": 0, "label_wait_s": 0, "lease_s": LEASE_S, "retry_s": 1,
    "attempts": 60,
    "budget_s": 10**6, "stop_within_s": 5,
}  # fmt: skip
POINT_TIMEOUT_S, IDLE_TIMEOUT_S, END_TIMEOUT_S, CHECK_EVERY_S = 600.0, 30.0, 900.0, 2.0


class Environment(NamedTuple):
    """Read the clone's state; retrains are requested, so that nothing else starts one."""

    project: Project

    @property
    def home(self) -> Path:
        return self.project.home

    def rows(self, query: sa.Select[Any]) -> Sequence[Any]:
        """Return rows of the state database, read only."""
        with read_state(self.home) as connection:
            return connection.execute(query).all() if connection is not None else []

    def retrain(self) -> Any:
        """Return the newest retrain; None when there is none."""
        newest = self.rows(sa.select(retrains).order_by(retrains.c.id.desc()).limit(1))
        return newest[0] if newest else None

    def failures(self, step: str) -> int:
        """Count the attempts of the newest retrain that failed at this step."""
        newest = sa.select(sa.func.max(retrains.c.id)).scalar_subquery()
        failed = (retrain_steps.c.retrain_id == newest) & (retrain_steps.c.step == step) & (retrain_steps.c.outcome == "failed")
        return len(self.rows(sa.select(retrain_steps.c.id).where(failed)))

    def is_idle(self, retrain: int) -> bool:
        """Return whether this retrain was started and has ended, and nothing waits."""
        newest = self.retrain()
        waiting = self.rows(sa.select(decisions.c.id).where(decisions.c.verdict == "waiting"))
        return newest is not None and newest.id >= retrain and newest.state != "running" and not waiting


def prepare(project: Project) -> Environment:
    """Publish version 1 as champion, and set the params of a drill."""
    ports = with_free_ports(project.params.serve)  # no Triton answers there
    publish(project / "artifacts/package", project / "dvc.lock", "evergreen", project.home)
    project.set(
        retrain=DRILL_SETTINGS,
        release=QUICK_RELEASE,
        alerts={"controller_port": free_port("127.0.0.1")},
        serve={"http_port": ports.http_port, "grpc_port": ports.grpc_port, "metrics_port": ports.metrics_port},
    )
    return Environment(project)


def request(environment: Environment, number: int, **changed: dict[str, Any]) -> None:
    """Commit a change that makes another package, and request a retrain as a person does."""
    backend = environment.project / "serving/backend/model.py"  # part of every package, and of no earlier stage
    backend.write_text(f"{backend.read_text(encoding='utf-8')}# {number}\n", encoding="utf-8")
    environment.project.set(**changed)
    commit(environment.project, f"package {number}")
    with open_state(environment.home) as engine:
        request_retrain(engine, f"drill {number}")


def controller_dies(environment: Environment, number: int, point: str) -> bool:
    """Return whether a controller reached this point of this retrain and died there; give up soon when the retrain is over.

    The controller is forked from a server that has imported everything: this saves seconds at each of dozens of deaths.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", run_until.__module__])
    process = context.Process(target=run_until, args=(point, environment.project.folder, _environment(environment)), daemon=True)
    process.start()
    deadline = time.monotonic() + POINT_TIMEOUT_S
    is_over = False
    while process.is_alive() and time.monotonic() < deadline:
        process.join(1.0)
        if not is_over and (is_over := environment.is_idle(number)):
            deadline = min(deadline, time.monotonic() + IDLE_TIMEOUT_S)
    if process.is_alive():
        process.terminate()
        process.join()
        return False
    return process.exitcode == -signal.SIGKILL


def running_controller(environment: Environment, **variables: str) -> AbstractContextManager[subprocess.Popen[bytes]]:
    """Run `python -m monitoring.retrain`; end it with SIGTERM."""
    log = environment.project.folder / "controller.log"
    return running_module("monitoring.retrain", log, _environment(environment) | variables, END_TIMEOUT_S)


def _environment(environment: Environment) -> dict[str, str]:
    variables = {name: value for name, value in clean_environment().items() if not name.startswith("DVC_")}
    return variables | {
        "EVERGREEN_HOME": str(environment.home),
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    }


def wait_for_end(environment: Environment, retrain: int) -> float:
    """Run a controller until the retrain is over; return the seconds that it took."""
    with running_controller(environment):
        return wait_until(lambda: environment.is_idle(retrain), END_TIMEOUT_S, lambda: log_end(environment))


def log_end(environment: Environment) -> str:
    """Return the end of the controllers' log."""
    return (environment.project.folder / "controller.log").read_text(encoding="utf-8", errors="replace")[-3000:]


def kill_repro(environment: Environment, retrain: int, stage: str) -> bool:
    """Kill `dvc repro` with SIGKILL in this stage; return False when the retrain was over before."""
    folder = environment.home / "retrain" / str(retrain)
    repro: list[psutil.Process] = []

    def runs_stage() -> bool:
        marked = [process for process in psutil.process_iter() if _is_marked(process, folder)]
        is_running = any(_runs(process, STAGES[stage]) for process in marked)
        repro[:] = [process for process in marked if _runs(process, "bin/dvc")] if is_running else []
        newest = environment.retrain()
        return bool(repro) or (newest is not None and newest.id >= retrain and newest.state != "running")

    wait_until(runs_stage, END_TIMEOUT_S, lambda: log_end(environment))
    for process in repro:
        process.kill()
    return bool(repro)


STAGES = {  # in an order in which DVC may run them; the drill kills them in it
    **{
        name: f"pipeline.stages.{name}"
        for name in ("ingest", "split", "spread", "control", "train", "evaluate", "export", "reference", "select_session")
    },
    "package": "serving.release.model_repository",
}


def _runs(process: psutil.Process, word: str) -> bool:
    try:
        line = process.cmdline()
    except psutil.Error:
        return False
    return "monitoring.retrain.run_local" not in line and any(part == word or part.endswith(f"/{word}") for part in line)


def _is_marked(process: psutil.Process, folder: Path) -> bool:
    try:
        return process.environ().get(MARK) == str(folder)
    except psutil.Error:
        return False


@contextmanager
def small_disk(folder: Path, mib: int, *, keep: bool) -> Iterator[bool]:
    """Mount a file system of a few MiB on the folder; yield False when nothing can be mounted here.

    With `keep` it stays until the end of the drill, with enough space: its files are needed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mib}m", "drill", str(folder)], capture_output=True)
    try:
        yield mounted.returncode == 0
    finally:
        if mounted.returncode == 0:
            command = ["mount", "-o", "remount,size=4g"] if keep else ["umount", "--lazy"]
            subprocess.run([*command, str(folder)], check=True)


def clean_up(environment: Environment) -> None:
    """End every `dvc repro` of the drill, and unmount its file system."""
    folder = environment.home / "retrain"
    RunLocal(environment.project.folder, environment.home, environment.project.params.retrain).sweep(None)
    if folder.is_mount():
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def database_lock(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on this SQLite file."""
    connection = sqlite3.connect(path, timeout=60, isolation_level=None)
    connection.execute("BEGIN EXCLUSIVE")
    try:
        yield
    finally:
        connection.rollback()
        connection.close()


class ChampionCheck(NamedTuple):
    """Record whether the champion's folder was complete."""

    at: float  # seconds of the epoch
    is_good: bool


def champion_sampled(environment: Environment) -> AbstractContextManager[list[ChampionCheck]]:
    """Check the champion of the release table repeatedly; yield the list of checks."""
    return sampled(lambda: ChampionCheck(time.time(), champion_is_whole(environment)), CHECK_EVERY_S)


def champion_is_whole(environment: Environment) -> bool:
    """Return whether Triton could load the champion now."""
    try:
        with read_state(environment.home) as connection:
            assert connection is not None
            version = roles(connection)["champion"]
        read_verified(repository(environment.home) / model_name(version))
    except (RefusedError, KeyError, OSError):
        return False
    except sa.exc.OperationalError:  # the drill has locked the database
        return True
    return True
