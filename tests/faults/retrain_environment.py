"""Where retrains are drilled: a clone with a small real pipeline, a champion made by it, and controllers as real processes."""

import multiprocessing
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import sqlalchemy as sa

from monitoring.retrain.__main__ import request_retrain
from monitoring.retrain.run_local import MARK, RunLocal
from pipeline.errors import RefusedError
from serving.processes.lifetime import end_with_parent
from serving.processes.ports import free_port
from serving.release.manifest import model_name, read_verified, repository
from serving.release.publish import publish
from serving.release.release_table import roles
from serving.triton.server import with_free_ports
from state.database import open_state, read_state
from state.tables import decisions, retrain_steps, retrains
from tests.conftest import Project, commit
from tests.faults.kill_points import live
from tests.faults.sampled import sampled
from tests.faults.stack import clean_environment, wait_until

LEASE_S = 2  # short: it is waited for after each death, and nobody else is there who could take a retrain over
PATIENT: dict[str, Any] = {  # nothing is waited for that the drill does not ask for, and no retrain is given up for being killed
    "settle_s": 0, "poll_s": 0.2, "min_labels": 1, "cooldown_s": 0, "lease_s": LEASE_S, "retry_s": 1, "attempts": 60,
    "budget_s": 10**6, "stop_within_s": 5,
}  # fmt: skip
POINT_WITHIN_S, OVER_WITHIN_S, ENDS_WITHIN_S, LOOK_S = 600.0, 30.0, 900.0, 2.0


class Environment(NamedTuple):
    """The clone; retrains are asked for, so that nothing but the asking decides."""

    project: Project

    @property
    def home(self) -> Path:
        return self.project.home

    def rows(self, query: sa.Select[Any]) -> Sequence[Any]:
        """Of the state database, read only."""
        with read_state(self.home) as connection:
            return connection.execute(query).all() if connection is not None else []

    def retrain(self) -> Any:
        """The newest; None where there is none."""
        found = self.rows(sa.select(retrains).order_by(retrains.c.id.desc()).limit(1))
        return found[0] if found else None

    def failures(self, step: str) -> int:
        """Attempts of the newest retrain that failed at this step."""
        newest = sa.select(sa.func.max(retrains.c.id)).scalar_subquery()
        own = (retrain_steps.c.retrain_id == newest) & (retrain_steps.c.step == step) & (retrain_steps.c.outcome == "failed")
        return len(self.rows(sa.select(retrain_steps.c.id).where(own)))

    def is_idle(self, retrain: int) -> bool:
        """Whether this retrain was begun and is over, and nothing waits."""
        newest = self.retrain()
        waiting = self.rows(sa.select(decisions.c.id).where(decisions.c.verdict == "waiting"))
        return newest is not None and newest.id >= retrain and newest.state != "running" and not waiting


def furnish(project: Project) -> Environment:
    """Version 1 is champion, and the params are those of a drill."""
    ports = with_free_ports(project.params.serve)  # where no Triton answers
    publish(project / "artifacts/package", project / "dvc.lock", "evergreen", project.home)
    project.set(
        retrain=PATIENT,
        alerts={"controller_port": free_port("127.0.0.1")},
        serve={"http_port": ports.http_port, "grpc_port": ports.grpc_port, "metrics_port": ports.metrics_port},
    )
    return Environment(project)


def ask(environment: Environment, number: int, **changed: dict[str, Any]) -> None:
    """A commit that makes another package, and a person who asks for a retrain."""
    backend = environment.project / "serving/backend/model.py"  # part of every package, and of no earlier stage
    backend.write_text(f"{backend.read_text(encoding='utf-8')}# {number}\n", encoding="utf-8")
    environment.project.set(**changed)
    commit(environment.project, f"package {number}")
    with open_state(environment.home) as engine:
        request_retrain(engine, f"drill {number}")


def dies(environment: Environment, number: int, point: str) -> bool:
    """Whether a controller came to this point of this retrain, and died there; not waited for long once the retrain is over.

    It is forked off a server that has everything imported: seconds a death, and there are dozens.
    """
    nursery = multiprocessing.get_context("forkserver")
    nursery.set_forkserver_preload(["__main__", live.__module__])
    process = nursery.Process(target=live, args=(point, environment.project.folder, _environment(environment)), daemon=True)
    process.start()
    until = time.monotonic() + POINT_WITHIN_S
    is_over = False
    while process.is_alive() and time.monotonic() < until:
        process.join(1.0)
        if not is_over and (is_over := environment.is_idle(number)):
            until = min(until, time.monotonic() + OVER_WITHIN_S)
    if process.is_alive():
        process.terminate()
        process.join()
        return False
    return process.exitcode == -signal.SIGKILL


@contextmanager
def controlling(environment: Environment, **variables: str) -> Iterator[subprocess.Popen[bytes]]:
    """`python -m monitoring.retrain`; ended with SIGTERM."""
    with (environment.project.folder / "controller.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "monitoring.retrain"],
            cwd=environment.project.folder,
            env=_environment(environment) | variables,
            stdout=log,
            stderr=log,
            preexec_fn=end_with_parent,
        )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(timeout=ENDS_WITHIN_S)


def _environment(environment: Environment) -> dict[str, str]:
    kept = {name: value for name, value in clean_environment().items() if not name.startswith("DVC_")}
    return kept | {
        "EVERGREEN_HOME": str(environment.home),
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    }


def finish(environment: Environment, retrain: int) -> float:
    """Let a controller work until the retrain is over; seconds that it took."""
    with controlling(environment):
        return wait_until(lambda: environment.is_idle(retrain), ENDS_WITHIN_S, lambda: last_words(environment))


def last_words(environment: Environment) -> str:
    """Of the controllers."""
    return (environment.project.folder / "controller.log").read_text(encoding="utf-8", errors="replace")[-3000:]


def kill_repro(environment: Environment, retrain: int, stage: str) -> bool:
    """SIGKILL to `dvc repro` itself once it runs this stage; False: the retrain was over before."""
    folder = environment.home / "retrain" / str(retrain)
    found: list[psutil.Process] = []

    def runs_stage() -> bool:
        own = [one for one in psutil.process_iter() if _is_marked(one, folder)]
        at_work = any(_runs(one, STAGES[stage]) for one in own)
        found[:] = [one for one in own if _runs(one, "bin/dvc")] if at_work else []
        newest = environment.retrain()
        return bool(found) or (newest is not None and newest.id >= retrain and newest.state != "running")

    wait_until(runs_stage, ENDS_WITHIN_S, lambda: last_words(environment))
    for process in found:
        process.kill()
    return bool(found)


STAGES = {  # in an order in which DVC may run them, and the drill kills them
    **{
        name: f"pipeline.stages.{name}"
        for name in ("ingest", "split", "spread", "train", "evaluate", "export", "reference", "select_session")
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
def little_room(folder: Path, mib: int, *, stays: bool) -> Iterator[bool]:
    """The folder is a file system of a few MiB meanwhile; False: nothing can be mounted here.

    One that stays has environment enough afterwards, until the end of the drill: what was written to it is needed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mib}m", "drill", str(folder)], capture_output=True)
    try:
        yield made.returncode == 0
    finally:
        if made.returncode == 0:
            after = ["mount", "-o", "remount,size=4g"] if stays else ["umount", "--lazy"]
            subprocess.run([*after, str(folder)], check=True)


def take_down(environment: Environment) -> None:
    """No `dvc repro` outlives the drill, and no file system."""
    folder = environment.home / "retrain"
    RunLocal(environment.project.folder, environment.home, environment.project.params.retrain).sweep(None)
    if folder.is_mount():
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Somebody writes to this SQLite file and does not come to an end."""
    connection = sqlite3.connect(path, timeout=60, isolation_level=None)
    connection.execute("BEGIN EXCLUSIVE")
    try:
        yield
    finally:
        connection.rollback()
        connection.close()


class Look(NamedTuple):
    """Whether a whole champion was there."""

    at: float  # seconds of the epoch
    is_good: bool


def watching(environment: Environment) -> AbstractContextManager[list[Look]]:
    """Looks at the champion all the time: by the release table, its folder whole."""
    return sampled(lambda: Look(time.time(), champion_is_whole(environment)), LOOK_S)


def champion_is_whole(environment: Environment) -> bool:
    """What Triton would load when it starts now."""
    try:
        with read_state(environment.home) as connection:
            assert connection is not None
            version = roles(connection)["champion"]
        read_verified(repository(environment.home) / model_name(version))
    except (RefusedError, KeyError, OSError):
        return False
    except sa.exc.OperationalError:  # locked on purpose: nobody can be asked
        return True
    return True
