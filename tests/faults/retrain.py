"""Retrains in every unkind way: the controller killed at every crash point, `dvc repro` in every stage, then what they lean on.

MLflow goes away, the database is locked, the disk is full.
Controllers, journal and pipeline are the real ones. Each fault hits a retrain of its own; after each the history is judged.
"""

import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import sqlalchemy as sa

from serving.processes import Announce
from serving.processes.ports import free_port
from state.tables import retrain_steps
from tests.conftest import Project
from tests.faults.alert_environment import is_up
from tests.faults.history import CHECKS, History, broken, read_history
from tests.faults.kill_points import OVER
from tests.faults.retrain_environment import (
    Environment,
    Look,
    ask,
    controlling,
    dies,
    finish,
    furnish,
    kill_repro,
    last_words,
    little_room,
    locked,
    take_down,
    watching,
)
from tests.faults.retrain_timeline import Fault, RetrainStory
from tests.faults.scorecard import Outcome, Promise
from tests.faults.stack import wait_until

FAILS_WITHIN_S = 600.0
SMALL_DISK_MIB = 8
MODEL = "evergreen"


class Amount(NamedTuple):
    """Which faults: crash points in the order in which a retrain comes by, stages of the pipeline, and what is taken away."""

    points: Sequence[str]
    stages: Sequence[str]
    is_mlflow_away: bool
    is_database_locked: bool
    is_disk_full: bool


class Hit(NamedTuple):
    """What came of one retrain."""

    faults: list[Fault]
    missed: list[str]  # faults that could not be brought about


class Case(NamedTuple):
    """One retrain, and what is done to it; given the environment and the number that the retrain will have."""

    name: str
    strike: Callable[[Environment, int], Hit]


class Figures(NamedTuple):
    """What the verdict depends on."""

    asked: int
    ended: Counter[str]  # retrains by how they ended
    versions: int  # published since the first
    felt: int
    missed: int
    bad_looks: int
    broken: Counter[str]  # by promise, over all looks at the history


def run(project: Project, amount: Amount, say: Announce) -> tuple[Outcome, RetrainStory]:
    """The drill in a project that has been made once and is changed by it."""
    environment = furnish(project)
    faults: list[Fault] = []
    missed: list[str] = []
    violations: list[str] = []
    chosen = cases(amount)
    with ExitStack() as stack:
        stack.callback(take_down, environment)
        looks = stack.enter_context(watching(environment))
        for number, case in enumerate(chosen, start=1):
            say(case.name)
            hit = case.strike(environment, number)
            took_s = finish(environment, number)
            faults += hit.faults
            missed += hit.missed
            found = broken(history(environment))
            violations += [f"{case.name}: {words}" for words in found]
            say(
                f"  {len(hit.faults)} faults, then {_told(environment.retrain())} after {took_s:.0f} s; "
                f"{len(found)} promises broken"
            )
    return summed_up(environment, chosen, Hit(faults, missed), violations, looks)


def summed_up(
    environment: Environment, chosen: Sequence[Case], hit: Hit, violations: list[str], looks: Sequence[Look]
) -> tuple[Outcome, RetrainStory]:
    """Verdict and picture."""
    left = history(environment)
    figures = Figures(
        asked=len(chosen),
        ended=Counter(row.state for row in left.retrains),
        versions=len(left.releases) - 1,
        felt=len(hit.faults),
        missed=len(hit.missed),
        bad_looks=sum(not look.is_good for look in looks),
        broken=Counter(words.split(": ")[1] for words in violations),
    )
    told = figures._asdict() | {
        "cases": [case.name for case in chosen],
        "looks": len(looks),
        "faults": hit.faults,
    }
    notes = [*violations, *(f"not brought about: {name}" for name in hit.missed), *untold(environment, left)]
    outcome = Outcome("retrain", "controllers, dvc repro, MLflow, database and disk taken away", judge(figures), notes, told)
    steps = environment.rows(sa.select(retrain_steps).order_by(retrain_steps.c.id))
    ends = {row.id: _told(row) for row in left.retrains}
    return outcome, RetrainStory([case.name for case in chosen], steps, ends, hit.faults, looks)


def judge(figures: Figures) -> list[Promise]:
    """What has to hold."""
    over = figures.ended["done"] + figures.ended["refused"] + figures.ended["failed"]
    return [
        Promise("asked for, and not ended exactly once", abs(figures.asked - over), "retrains", at_most=0, goal="K1"),
        Promise(
            "versions, against retrains that were done", abs(figures.versions - figures.ended["done"]), "versions", at_most=0
        ),
        Promise("faults that were felt", figures.felt, "faults", at_least=figures.asked, goal="K1"),
        Promise("faults that could not be brought about", figures.missed, "faults", at_most=0),
        Promise("looks at which no whole champion was there", figures.bad_looks, "looks", at_most=0),
        *(
            Promise(f"{name}: {check.__doc__}", figures.broken[name], "times", at_most=0, goal=name)
            for name, check in CHECKS.items()
        ),
    ]


def cases(amount: Amount) -> list[Case]:
    """Those that were asked for."""
    made = []
    if points := [point for point in amount.points if point not in OVER]:
        made.append(Case("controller killed", lambda environment, number: killed(environment, number, points)))
    made += [Case(f"killed {point}", partial(killed, points=[point])) for point in OVER if point in amount.points]
    if amount.stages:
        made.append(Case("dvc repro killed", lambda environment, number: repro_killed(environment, number, amount.stages)))
    if amount.is_mlflow_away:
        made.append(Case("MLflow away", mlflow_away))
    if amount.is_database_locked:
        made.append(Case("database locked", database_locked))
    if amount.is_disk_full:
        made += [Case("disk full: tree", disk_full_below_tree), Case("disk full: copy", disk_full_in_publish)]
    return made


def killed(environment: Environment, number: int, points: Sequence[str]) -> Hit:
    """One controller after the other, each of which dies at its point; the next finds what it left."""
    ask(environment, number)
    hit = Hit([], [])
    for point in points:
        if dies(environment, number, point):
            hit.faults.append(kill(number, point))
        else:
            hit.missed.append(point)
    return hit


def kill(number: int, name: str) -> Fault:
    """A fault that has just been, and took no time."""
    at_s = time.time()
    return Fault(number, name, at_s, at_s)


def repro_killed(environment: Environment, number: int, stages: Sequence[str]) -> Hit:
    """Other rows, so that every stage has work to do."""
    rows = (environment.project / "data/few.jsonl").read_text(encoding="utf-8").splitlines()
    (environment.project / "data/fewer.jsonl").write_text("\n".join(rows[3:]) + "\n", encoding="utf-8")
    ask(environment, number, data={"source": "data/fewer.jsonl"})
    hit = Hit([], [])
    with controlling(environment):
        for stage in stages:
            if kill_repro(environment, number, stage):
                hit.faults.append(kill(number, stage))
            else:
                hit.missed.append(f"dvc repro killed in {stage}")
    return hit


def mlflow_away(environment: Environment, number: int) -> Hit:
    """Nobody answers where the registry is said to be."""
    stands_at_publish(environment, number)
    begun = time.time()
    with controlling(environment, MLFLOW_TRACKING_URI=f"http://127.0.0.1:{free_port('127.0.0.1')}"):
        fails(environment, "publish")
    return Hit([Fault(number, "MLflow away", begun, time.time())], [])


def database_locked(environment: Environment, number: int) -> Hit:
    """For longer than the controller waits for SQLite, and not before it is up: one that starts meanwhile ends at once."""
    stands_at_publish(environment, number)
    page = f"http://127.0.0.1:{environment.project.params.alerts.controller_port}/healthz"
    with controlling(environment):
        wait_until(lambda: is_up(page), FAILS_WITHIN_S, lambda: last_words(environment))
        begun = time.time()
        with locked(environment.home / "state.db"):
            wait_until(lambda: "database is locked" in last_words(environment), FAILS_WITHIN_S, lambda: last_words(environment))
        fault = Fault(number, "database locked", begun, time.time())
    return Hit([fault], [])


def disk_full_below_tree(environment: Environment, number: int) -> Hit:
    """Environment enough for the working tree, and not for what `dvc repro` makes in it."""
    ask(environment, number)
    return _with_little_room(environment, number, environment.home / "retrain", "reproduce", stays=True)


def disk_full_in_publish(environment: Environment, number: int) -> Hit:
    """The copy that goes into the live repository does not fit."""
    stands_at_publish(environment, number)
    return _with_little_room(environment, number, environment.home / "staging", "publish", stays=False)


def _with_little_room(environment: Environment, number: int, folder: Path, step: str, *, stays: bool) -> Hit:
    begun = time.time()
    with little_room(folder, SMALL_DISK_MIB, stays=stays) as is_little:
        if not is_little:
            return Hit([], [f"disk full below {folder.name}: nothing can be mounted here"])
        with controlling(environment):
            fails(environment, step)
    return Hit([Fault(number, "disk full", begun, time.time())], [])


def stands_at_publish(environment: Environment, number: int) -> None:
    """A retrain that has passed the gate, and whose controller is gone."""
    ask(environment, number)
    assert dies(environment, number, "before publish is begun"), last_words(environment)


def fails(environment: Environment, step: str) -> None:
    """Wait until an attempt at this step has failed."""
    wait_until(lambda: environment.failures(step) > 0, FAILS_WITHIN_S, lambda: last_words(environment))


def history(environment: Environment) -> History:
    """Everything there is; the alerts are the asking's own, so that each row was acknowledged."""
    found = read_history(environment.project.folder, environment.home, MODEL, frozenset(), 1)
    return found._replace(acknowledged=frozenset((row.fingerprint, row.starts_at, row.status) for row in found.heard))


def untold(environment: Environment, left: History) -> list[str]:
    """Ends that stand in the journal only: the controller died before it could say them."""
    lines = (environment.project.folder / "controller.log").read_text(encoding="utf-8", errors="replace").splitlines()
    said = {json.loads(line)["retrain"] for line in lines if '"retrain ended"' in line}
    return [
        f"retrain {row.id} ended without a line in a log, by being killed after the commit"
        for row in left.retrains
        if row.id not in said
    ]


def _told(row: Any) -> str:
    return f"{row.state}{f', version {row.version_out}' if row.version_out else ''}"
