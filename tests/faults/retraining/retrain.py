"""Kill the retrain controller at every crash point and `dvc repro` in every stage, then take away what they depend on.

MLflow stops, the database is locked, the disk is full. Controllers, journal and pipeline are real. Each fault hits a separate
retrain, and the history is checked after each.
"""

import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, get_args

import sqlalchemy as sa

from monitoring.retrain.journal import FinalState
from serving.processes import Announce
from serving.processes.ports import free_port
from state.tables import retrain_steps
from tests.conftest import Project
from tests.faults.retraining.environment import (
    ChampionCheck,
    Environment,
    champion_sampled,
    clean_up,
    controller_dies,
    database_lock,
    kill_repro,
    log_end,
    prepare,
    request,
    running_controller,
    small_disk,
    wait_for_end,
)
from tests.faults.retraining.history import CHECKS, History, broken, read_history
from tests.faults.retraining.kill_points import OVER
from tests.faults.retraining.released_traffic import EVERY_S, play_traffic
from tests.faults.retraining.timeline import Fault, RetrainTimeline
from tests.faults.sampled import sampled
from tests.faults.scorecard import Outcome, Promise
from tests.faults.stack import wait_until
from tests.faults.watching.alert_environment import is_up

FAILURE_TIMEOUT_S = 600.0
SMALL_DISK_MIB = 8
MODEL = "evergreen"


class Amount(NamedTuple):
    """Choose the faults: crash points in the order of a retrain, stages of the pipeline, and the resources taken away."""

    points: Sequence[str]
    stages: Sequence[str]
    is_mlflow_stopped: bool
    is_database_locked: bool
    is_disk_full: bool


class Hit(NamedTuple):
    """Hold the faults of one retrain, and those that did not happen."""

    faults: list[Fault]
    missed: list[str]  # faults that did not happen


class Case(NamedTuple):
    """Describe what is done to one retrain; `strike` gets the environment and the retrain's number."""

    name: str
    strike: Callable[[Environment, int], Hit]


class Figures(NamedTuple):
    """Hold the figures that decide the verdict."""

    asked: int
    ended: Counter[str]  # retrains by how they ended
    versions: int  # published since the first
    felt: int
    missed: int
    bad_looks: int
    broken: Counter[str]  # violations by promise, over all checks of the history


def run(project: Project, amount: Amount, announce: Announce) -> tuple[Outcome, RetrainTimeline]:
    """Run the drill in a reproduced project; the drill changes it."""
    environment = prepare(project)
    faults: list[Fault] = []
    missed: list[str] = []
    violations: list[str] = []
    planned = cases(amount)
    with ExitStack() as stack:
        stack.callback(clean_up, environment)
        checks = stack.enter_context(champion_sampled(environment))
        stack.enter_context(sampled(play_traffic(environment.home), EVERY_S))
        for number, case in enumerate(planned, start=1):
            announce(case.name)
            hit = case.strike(environment, number)
            took_s = wait_for_end(environment, number)
            faults += hit.faults
            missed += hit.missed
            broken_promises = broken(current_history(environment))
            violations += [f"{case.name}: {violation}" for violation in broken_promises]
            announce(
                f"  {len(hit.faults)} faults, then {_describe_end(environment.retrain())} after {took_s:.0f} s; "
                f"{len(broken_promises)} promises broken"
            )
    return summarise(environment, planned, Hit(faults, missed), violations, checks)


def summarise(
    environment: Environment, planned: Sequence[Case], hit: Hit, violations: list[str], checks: Sequence[ChampionCheck]
) -> tuple[Outcome, RetrainTimeline]:
    """Return the verdict and the time line."""
    history = current_history(environment)
    figures = Figures(
        asked=len(planned),
        ended=Counter(row.state for row in history.retrains),
        versions=len(history.releases) - 1,
        felt=len(hit.faults),
        missed=len(hit.missed),
        bad_looks=sum(not check.is_good for check in checks),
        broken=Counter(violation.split(": ")[1] for violation in violations),
    )
    report = figures._asdict() | {
        "cases": [case.name for case in planned],
        "looks": len(checks),
        "faults": hit.faults,
    }
    notes = [*violations, *(f"did not happen: {name}" for name in hit.missed), *unlogged_ends(environment, history)]
    outcome = Outcome("retrain", "controllers, dvc repro, MLflow, database and disk taken away", judge(figures), notes, report)
    steps = environment.rows(sa.select(retrain_steps).order_by(retrain_steps.c.id))
    ends = {row.id: _describe_end(row) for row in history.retrains}
    return outcome, RetrainTimeline([case.name for case in planned], steps, ends, hit.faults, checks)


def judge(figures: Figures) -> list[Promise]:
    """Return the drill's promises."""
    ended = sum(figures.ended[state] for state in get_args(FinalState))
    return [
        Promise("asked for, and not ended exactly once", abs(figures.asked - ended), "retrains", at_most=0, goal="K1"),
        Promise(
            "versions, against retrains that were done", abs(figures.versions - figures.ended["done"]), "versions", at_most=0
        ),
        Promise("faults that were felt", figures.felt, "faults", at_least=figures.asked, goal="K1"),
        Promise("faults that could not be brought about", figures.missed, "faults", at_most=0),
        Promise("looks at which no whole champion was there", figures.bad_looks, "looks", at_most=0),
        *(
            Promise(f"{name}: {text}", figures.broken[name], "times", at_most=0, goal=name)
            for name, (text, _check) in CHECKS.items()
        ),
    ]


def cases(amount: Amount) -> list[Case]:
    """Return the cases of the chosen faults."""
    chosen = []
    if points := [point for point in amount.points if point not in OVER]:
        chosen.append(Case("controller killed", partial(kill_controllers, points=points)))
    chosen += [Case(f"killed {point}", partial(kill_controllers, points=[point])) for point in OVER if point in amount.points]
    if amount.stages:
        chosen.append(Case("dvc repro killed", partial(kill_repro_in_stages, stages=amount.stages)))
    if amount.is_mlflow_stopped:
        chosen.append(Case("MLflow away", stop_mlflow))
    if amount.is_database_locked:
        chosen.append(Case("database locked", lock_database))
    if amount.is_disk_full:
        chosen += [Case("disk full: tree", fill_disk_of_tree), Case("disk full: copy", fill_disk_of_copy)]
    return chosen


def kill_controllers(environment: Environment, number: int, points: Sequence[str]) -> Hit:
    """Run one controller after the other; each dies at its point, and the next continues from there."""
    request(environment, number)
    hit = Hit([], [])
    for point in points:
        if controller_dies(environment, number, point):
            hit.faults.append(instant_fault(number, point))
        else:
            hit.missed.append(point)
    return hit


def instant_fault(number: int, name: str) -> Fault:
    """Return a fault that has just happened and took no time."""
    at_s = time.time()
    return Fault(number, name, at_s, at_s)


def kill_repro_in_stages(environment: Environment, number: int, stages: Sequence[str]) -> Hit:
    """Kill `dvc repro` in each stage, on other rows, so that every stage has work to do."""
    rows = (environment.project / "data/few.jsonl").read_text(encoding="utf-8").splitlines()
    (environment.project / "data/fewer.jsonl").write_text("\n".join(rows[3:]) + "\n", encoding="utf-8")
    request(environment, number, data={"source": "data/fewer.jsonl"})
    hit = Hit([], [])
    with running_controller(environment):
        for stage in stages:
            if kill_repro(environment, number, stage):
                hit.faults.append(instant_fault(number, stage))
            else:
                hit.missed.append(f"dvc repro killed in {stage}")
    return hit


def stop_mlflow(environment: Environment, number: int) -> Hit:
    """Point the controller to a registry that does not answer."""
    stop_before_publish(environment, number)
    started_at = time.time()
    with running_controller(environment, MLFLOW_TRACKING_URI=f"http://127.0.0.1:{free_port('127.0.0.1')}"):
        wait_for_failure(environment, "publish")
    return Hit([Fault(number, "MLflow away", started_at, time.time())], [])


def lock_database(environment: Environment, number: int) -> Hit:
    """Lock SQLite for longer than the controller waits, once the controller is up: it could not start under a lock."""
    stop_before_publish(environment, number)
    page = f"http://127.0.0.1:{environment.project.params.alerts.controller_port}/healthz"
    with running_controller(environment):
        wait_until(lambda: is_up(page), FAILURE_TIMEOUT_S, lambda: log_end(environment))
        started_at = time.time()
        with database_lock(environment.home / "state.db"):
            wait_until(lambda: "database is locked" in log_end(environment), FAILURE_TIMEOUT_S, lambda: log_end(environment))
        fault = Fault(number, "database locked", started_at, time.time())
    return Hit([fault], [])


def fill_disk_of_tree(environment: Environment, number: int) -> Hit:
    """Give the working tree a disk that is too small for the outputs of `dvc repro`."""
    request(environment, number)
    return _on_small_disk(environment, number, environment.home / "retrain", "reproduce", keep=True)


def fill_disk_of_copy(environment: Environment, number: int) -> Hit:
    """Give the live repository's copy a disk that is too small."""
    stop_before_publish(environment, number)
    return _on_small_disk(environment, number, environment.home / "staging", "publish", keep=False)


def _on_small_disk(environment: Environment, number: int, folder: Path, step: str, *, keep: bool) -> Hit:
    started_at = time.time()
    with small_disk(folder, SMALL_DISK_MIB, keep=keep) as is_mounted:
        if not is_mounted:
            return Hit([], [f"disk full below {folder.name}: nothing can be mounted here"])
        with running_controller(environment):
            wait_for_failure(environment, step)
    return Hit([Fault(number, "disk full", started_at, time.time())], [])


def stop_before_publish(environment: Environment, number: int) -> None:
    """Run a retrain past the gate, and let its controller die there."""
    request(environment, number)
    assert controller_dies(environment, number, "before publish is begun"), log_end(environment)


def wait_for_failure(environment: Environment, step: str) -> None:
    """Wait until an attempt at this step has failed."""
    wait_until(lambda: environment.failures(step) > 0, FAILURE_TIMEOUT_S, lambda: log_end(environment))


def current_history(environment: Environment) -> History:
    """Read the history; the drill requests retrains itself, so that every alert row counts as acknowledged."""
    history = read_history(environment.project.folder, environment.home, MODEL, frozenset(), 1)
    return history._replace(acknowledged=frozenset((row.fingerprint, row.starts_at, row.status) for row in history.alerts))


def unlogged_ends(environment: Environment, history: History) -> list[str]:
    """Describe ends that only the journal has: the controller died before it logged them."""
    lines = (environment.project.folder / "controller.log").read_text(encoding="utf-8", errors="replace").splitlines()
    logged = {json.loads(line)["retrain"] for line in lines if '"retrain ended"' in line}
    return [
        f"retrain {row.id} ended without a line in a log: the controller was killed after the commit"
        for row in history.retrains
        if row.id not in logged
    ]


def _describe_end(row: Any) -> str:
    return f"{row.state}{f', version {row.version_out}' if row.version_out else ''}"
