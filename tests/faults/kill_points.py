"""The real retrain controller as a process that kills itself with SIGKILL when it reaches a point.

Points lie before and after every write of the journal, and between the parts of every step.
"""

import os
import signal
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from monitoring.retrain import __main__ as process
from monitoring.retrain import run_local
from monitoring.retrain import steps as work
from monitoring.retrain.journal import STEPS, Journal, Step
from monitoring.retrain.run_local import RunLocal
from monitoring.retrain.steps import LocalSteps
from pipeline.errors import run_stage
from pipeline.tracking import registry as model_registry
from serving.processes.lifetime import end_with_parent
from serving.release import swap

PUBLISHING = ("before registering", "registered", "staged", "copied", "released")


class Point(NamedTuple):
    """A call of the controller's: where its name is looked up, and the step at which the journal has to stand."""

    owner: Any
    name: str
    is_after: bool
    step: Step | None = None


def _around(owner: Any, name: str, what: str, step: Step | None = None) -> dict[str, Point]:
    return {f"{when} {what}": Point(owner, name, when == "after", step) for when in ("before", "after")}


def _points() -> dict[str, Point]:
    """In the order in which a retrain comes by, each step's own between its begin and its end."""
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
        "swap": {
            "swap: promoted, not committed": Point(swap, "promote", True),
            "swap: committed": Point(model_registry, "set_alias", False),
            "swap: aliases set": Point(swap, "park", False),
        },
    }
    made = _around(Journal, "record_episodes", "the alert is seen")
    made |= _around(Journal, "decide", "the decision is written") | _around(Journal, "claim", "the lease is taken")
    for step in STEPS:
        made |= _around(Journal, "begin_step", f"{step} is begun", step) | inside[step]
        if step != STEPS[-1]:
            made |= _around(Journal, "end_step", f"{step} is ended", step)
    return made | _around(Journal, "finish", "the end is written") | _around(RunLocal, "clean", "the tree is taken away")


POINTS = _points()
OVER = ("before the tree is taken away", "after the tree is taken away")  # the end is written, and no other controller comes by


def arm(name: str) -> None:
    """Let this process die there."""
    point = POINTS[name]
    call = getattr(point.owner, point.name)
    if name.startswith("publish: ") and point.owner is work:
        setattr(point.owner, point.name, partial(call, reached=partial(_die_at, name.removeprefix("publish: "))))
        return
    setattr(point.owner, point.name, kill_points(call, point))


def kill_points(call: Callable[..., Any], point: Point) -> Callable[..., Any]:
    """The call, and death before or after it."""

    def called(*arguments: Any, **more: Any) -> Any:
        is_there = point.step is None or _step(arguments) == point.step
        if is_there and not point.is_after:
            die()
        made = call(*arguments, **more)
        if is_there:
            die()
        return made

    return called


def _step(arguments: tuple[Any, ...]) -> Step | None:
    """Where the retrain stands: `RunLocal` is given the job, the journal can be asked."""
    if isinstance(arguments[0], Journal):
        live = arguments[0].running_job()
        return live.step if live else None
    step: Step = arguments[1].step
    return step


def _die_at(wanted: str, reached: str) -> None:
    if reached == wanted:
        die()


def die() -> None:
    """Nothing is tidied, nothing is flushed."""
    os.kill(os.getpid(), signal.SIGKILL)


def live(point: str, folder: Path, variables: Mapping[str, str]) -> None:
    """Be `python -m monitoring.retrain` in this folder, until the point. Runs in a child that had everything imported."""
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
