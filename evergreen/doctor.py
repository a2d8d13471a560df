"""`evergreen doctor`: check what a moved folder, a killed process or a click in MLflow can break, and mend it.

Only what has one right answer is mended; the rest is named, with the command to type.
"""

import json
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from evergreen.inspection import out
from pipeline.errors import EvergreenError
from pipeline.output.terminal import styled

State = Literal["well", "mended", "open"]
MARKS: dict[State, tuple[str, str]] = {"well": ("✓", "green"), "mended": ("mended", "yellow"), "open": ("✗", "red")}
RWLOCK = Path(".dvc/tmp/rwlock")


class Finding(NamedTuple):
    """What a check has found."""

    state: State
    text: str


Check = Callable[[Path], Iterator[Finding]]


def doctor() -> None:
    """Check git, the home of state, DVC and MLflow; mend what a move, a crash or a deletion has broken."""
    from pipeline.home import find_home

    states = set()
    for finding in (finding for check in CHECKS for finding in examine(check, find_home())):
        out.print(styled(*MARKS[finding.state]), finding.text)  # at once: MLflow's checks take seconds
        states.add(finding.state)
    if "open" in states:
        raise SystemExit(1)


def examine(check: Check, home: Path) -> Iterator[Finding]:
    """Yield the findings of a check; its error is a finding too, and stops no other check."""
    try:
        yield from check(home)
    except EvergreenError as error:
        yield Finding("open", f"{error.where}: {error.what.strip()}; what to do: {error.do}")


def check_git(_home: Path) -> Iterator[Finding]:
    """Find a repository without a commit, another user's clone, and the lock that a killed git command leaves."""
    from pipeline.home import git, require_commit

    require_commit()
    lock = Path(git("rev-parse", "--path-format=absolute", "--git-path", "index.lock"))
    if lock.exists():
        yield Finding("open", f"git is locked; if no git command runs, one was killed: rm {shlex.quote(str(lock))}")
    else:
        yield Finding("well", "git: the project is in a repository with a commit")


def check_modes(home: Path) -> Iterator[Finding]:
    """Take from other users what they may read or change in the home: it holds texts of customers, tokens and keys."""
    from pipeline.home import close_to_others

    opened = close_to_others(home)
    if opened:
        yield Finding("mended", f"{home}: {opened} files and folders were open to other users; now they are yours alone")
    else:
        yield Finding("well", f"{home}: only you can read it")


def check_dvc(_home: Path) -> Iterator[Finding]:
    """Point DVC at this clone and this home, and delete its list of locks when a crash has damaged it."""
    from pipeline.worktree import set_up_dvc

    if set_up_dvc():
        yield Finding("mended", "DVC: its cache and its remote were those of another folder; now they are here")
    if RWLOCK.is_file() and not _is_json(RWLOCK):
        RWLOCK.unlink()
        yield Finding("mended", f"DVC: {RWLOCK} was damaged, and no command could start; it is deleted")
    yield Finding("well", "DVC: cache, remote and locks")


def check_mlflow(home: Path) -> Iterator[Finding]:
    """Connect to MLflow, which follows a moved home and restores a deleted experiment; close the runs of dead processes."""
    from pipeline.tracking.address import tracking_uri
    from pipeline.tracking.registry import registry
    from pipeline.tracking.runs import close_orphans

    with registry(home) as mended:
        yield from (Finding("mended", f"MLflow: {text}") for text in mended)
        closed = close_orphans(home)
    if closed:
        yield Finding("mended", f"MLflow: {len(closed)} runs of processes that have ended are closed")
    yield Finding("well", f"MLflow: {tracking_uri(home)} answers")


def check_versions(home: Path) -> Iterator[Finding]:
    """Compare the registry with the release table, which decides: versions, aliases, runs and files."""
    from pipeline.params import load_params
    from pipeline.tracking import registry as model_registry
    from serving.release.publish import release_of, restore_registry
    from serving.release.release_table import UNIQUE_ROLES

    name = load_params().publish.name
    released = {role: release for role in UNIQUE_ROLES if (release := release_of(home, role))}
    if not released:
        yield Finding("well", "versions: none is published yet")
        return
    with model_registry.registry(home):
        if numbers := restore_registry(name, home):
            yield Finding("mended", f"MLflow: the model {name} was deleted; versions {numbers} are registered again")
        for role, release in released.items():
            model_registry.set_alias(name, role, release.version)
            fault = model_registry.registry_fault(name, release.version)
            state: State = "open" if fault else "well"
            yield Finding(state, f"versions: {role} is version {release.version}{f', but {fault}' if fault else ''}")


CHECKS: tuple[Check, ...] = (check_git, check_modes, check_dvc, check_mlflow, check_versions)


def _is_json(path: Path) -> bool:
    try:
        return isinstance(json.loads(path.read_text(encoding="utf-8")), dict)
    except ValueError:
        return False
