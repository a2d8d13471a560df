"""Run the real retrain controller as a process that kills itself with SIGKILL at a crash point.

Crash points lie before and after every write of the journal, and between the parts of every step.
"""

import os
import signal
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from monitoring.release.gradual import GradualRelease
from monitoring.retrain import app as process
from monitoring.retrain import run_local
from monitoring.retrain import steps as work
from monitoring.retrain.journal import STEPS, Journal, Step
from monitoring.retrain.run_local import RunLocal
from monitoring.retrain.steps import LocalSteps
from pipeline.errors import run_stage
from pipeline.lifetime import end_with_parent
from pipeline.tracking import registry as model_registry
from serving.release.live import swap

PUBLISHING = ("before registering", "registered", "staged", "copied", "released")


class Point(NamedTuple):
    """Name a call of the controller by the owner of its name, and the step that the journal has to be in."""

    owner: Any
    name: str
    is_after: bool
    step: Step | None = None


def _around(owner: Any, name: str, event: str, step: Step | None = None) -> dict[str, Point]:
    return {f"{when} {event}": Point(owner, name, when == "after", step) for when in ("before", "after")}


def _points() -> dict[str, Point]:
    """Return the crash points in the order of a retrain; those of a step stand between its begin and its end."""
    inside = {
        "collect": _around(RunLocal, "prepare", "the tree is laid out")
        | {"tree half made": Point(run_local, "_git", True), "after feedback is written": Point(work, "write_file", True)}
        | _around(RunLocal, "commit", "feedback is committed", "collect"),
        "reproduce": _around(RunLocal, "start", "dvc repro is started")
        | {"while dvc repro runs": Point(Journal, "renew", True, "reproduce")}
        | _around(RunLocal, "commit", "dvc.lock is committed", "reproduce"),
        "gate": {"after the verdict": Point(LocalSteps, "gate", True)},
        "publish": {f"publish: {at}": Point(work, "publish", False) for at in PUBLISHING}
        | {"publish: one alias is set": Point(model_registry, "set_alias", True)},
        "shadow": _around(GradualRelease, "begin", "the release is begun")
        | _around(GradualRelease, "_look", "a look of the shadow", "shadow")
        | _around(GradualRelease, "_ensure_routed", "the copies are ordered", "shadow"),
        "canary": _around(GradualRelease, "_look", "a look of the canary", "canary")
        | _around(GradualRelease, "_move", "a move of the canary", "canary")
        | _around(GradualRelease, "_ensure_routed", "a share is set", "canary"),
        "promote": {
            "swap: promoted, not committed": Point(swap, "promote", True),
            "swap: committed": Point(model_registry, "set_alias", False),
            "swap: aliases set": Point(swap, "park", False),
        },
    }
    points = _around(Journal, "record_episodes", "the alert is seen")
    points |= _around(Journal, "decide", "the decision is written") | _around(Journal, "claim", "the lease is taken")
    for step in STEPS:
        points |= _around(Journal, "begin_step", f"{step} is begun", step) | inside[step]
        if step != STEPS[-1]:
            points |= _around(Journal, "end_step", f"{step} is ended", step)
    return points | _around(Journal, "finish", "the end is written") | _around(RunLocal, "clean", "the tree is taken away")


POINTS = _points()
OVER = ("before the tree is taken away", "after the tree is taken away")  # the end is written, and no other controller follows


def arm(name: str) -> None:
    """Make this process die at the point."""
    point = POINTS[name]
    call = getattr(point.owner, point.name)
    if name.startswith("publish: ") and point.owner is work:
        setattr(point.owner, point.name, partial(call, reached=partial(_die_at, name.removeprefix("publish: "))))
        return
    setattr(point.owner, point.name, with_death(call, point))


def with_death(call: Callable[..., Any], point: Point) -> Callable[..., Any]:
    """Return the call with death before or after it."""

    def wrapper(*arguments: Any, **options: Any) -> Any:
        is_there = point.step is None or _step(arguments) == point.step
        if is_there and not point.is_after:
            die()
        result = call(*arguments, **options)
        if is_there:
            die()
        return result

    return wrapper


def _step(arguments: tuple[Any, ...]) -> Step | None:
    """Return the retrain's step: `RunLocal` gets the job, a release its row; the journal is asked for it."""
    if isinstance(arguments[0], GradualRelease):
        stage: Step = arguments[1].stage
        return stage
    if isinstance(arguments[0], Journal):
        job = arguments[0].running_job()
        return job.step if job else None
    step: Step = arguments[1].step
    return step


def _die_at(point: str, reached: str) -> None:
    if reached == point:
        die()


def die() -> None:
    """Kill this process without any clean-up or flush."""
    os.kill(os.getpid(), signal.SIGKILL)


def run_until(point: str, folder: Path, variables: Mapping[str, str]) -> None:
    """Run `python -m monitoring.retrain` in this folder until the point. The child has imported everything before."""
    end_with_parent()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(variables)
    sys.argv = ["monitoring.retrain"]
    with Path("controller.log").open("ab") as log:
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)
    arm(point)
    run_stage(process.main)
