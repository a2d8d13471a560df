"""What retraining has left behind, held against the promises P1 to P8: read from the stores, judged without them.

It may be read while nothing waits and nothing runs. What a timeline does not have (a registry, branches) is None, and not judged.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from subprocess import run
from typing import Any, NamedTuple

import mlflow
import sqlalchemy as sa

from pipeline.errors import RefusedError
from pipeline.process_identity import is_gone
from pipeline.tracking.address import default_uri
from pipeline.tracking.runs import OWNER
from serving.release.manifest import LINEAGE, content_digest, model_name, read_verified, repository
from serving.release.release_table import roles
from state.database import open_state
from state.tables import alerts, decisions, releases, retrain_steps, retrains
from tests.faults.scorecard import Promise

DrillTimeline = tuple[str, float, str]  # fingerprint, startsAt, status
Row = Any  # of a table


class Made(NamedTuple):
    """A version as the files tell it."""

    digest: str  # of its content; "": torn, or gone
    decision: int | None
    lock: str  # digest of the dvc.lock that it was published with


class History(NamedTuple):
    """All that is judged."""

    acknowledged: frozenset[DrillTimeline]
    first: int | None  # champion before the first retrain
    heard: Sequence[Row]
    decided: Sequence[Row]
    retrains: Sequence[Row]
    steps: Sequence[Row]
    releases: Mapping[int, str]  # content digest by version
    roles: Mapping[str, int]
    running: int = 0  # runs of MLflow that nobody owns
    aliases: Mapping[str, int] | None = None  # of the registry
    made: Mapping[int, Made] | None = None
    locks: Mapping[int, str] | None = None  # by retrain: digest of dvc.lock on its branch


def promises(history: History) -> list[Promise]:
    """One promise each: so many are broken."""
    return [
        Promise(f"{name} broken: {check.__doc__}", len([*check(history)]), "times", at_most=0) for name, check in CHECKS.items()
    ]


def broken(history: History) -> list[str]:
    """Every violation in words, with the promise before it."""
    return [f"{name}: {words}" for name, check in CHECKS.items() for words in check(history)]


def p1(history: History) -> Iterator[str]:
    """an acknowledged alert is not in the journal, or there twice"""
    told = Counter((row.fingerprint, row.starts_at, row.status) for row in history.heard)
    yield from (f"in the journal twice: {alert}" for alert, count in told.items() if count > 1)
    for lost in history.acknowledged - {(row.fingerprint, row.starts_at, row.status) for row in history.heard}:
        yield f"acknowledged and not in the journal: {lost}"


def p2(history: History) -> Iterator[str]:
    """an episode has no decision, or two"""
    told = Counter((row.fingerprint, row.starts_at) for row in history.decided)
    for episode in {(row.fingerprint, row.starts_at) for row in history.heard} ^ set(told):
        yield f"an episode without decision, or a decision without episode: {episode}"
    yield from (f"an episode has {count} decisions: {episode}" for episode, count in told.items() if count > 1)
    known = {row.id: row for row in history.decided}
    yield from (f"alert {row.id} leads to no decision" for row in history.heard if row.decision_id not in known)
    for row in history.decided:
        if row.verdict not in ("started", "joined", "refused") or not row.reason:
            yield f"{row.verdict}: {row.reason!r} is no decision"
        elif (row.retrain_id is None) != (row.verdict == "refused"):
            yield f"{row.verdict} with retrain {row.retrain_id}"
    started = sorted(row.retrain_id or 0 for row in history.decided if row.verdict == "started")
    if started != sorted(row.id for row in history.retrains):
        yield f"decided on {started}, run {[row.id for row in history.retrains]}"
    for row in history.retrains:
        if row.decision_id not in known or known[row.decision_id].retrain_id != row.id:
            yield f"retrain {row.id} is not what decision {row.decision_id} started"


def p3(history: History) -> Iterator[str]:
    """two retrains lived at once, or a stale owner wrote"""
    live = [row.id for row in history.retrains if row.state == "running"]
    if len(live) > 1:
        yield f"retrains {live} live at once"
    fences = {row.id: row.fence for row in history.retrains}
    newest: Counter[int] = Counter()
    for step in sorted(history.steps, key=lambda step: step.id):
        if step.fence < newest[step.retrain_id] or step.fence > fences.get(step.retrain_id, -1):
            yield f"retrain {step.retrain_id}: {step.step} was begun under fence {step.fence}"
        newest[step.retrain_id] = max(newest[step.retrain_id], step.fence)
    for (retrain, step), count in Counter((one.retrain_id, one.step) for one in history.steps if one.outcome == "done").items():
        if count > 1:
            yield f"retrain {retrain}: {step} was done {count} times"


def p4(history: History) -> Iterator[str]:
    """what serves is not what the release table says, or did not pass the gate"""
    done = [row for row in history.retrains if row.state == "done"]
    wanted, now = done[-1].version_out if done else history.first, history.roles.get("champion")
    if now != wanted:
        yield f"champion {now}, and the last retrain that was done made {wanted}"
    if history.aliases is not None and dict(history.aliases) != dict(history.roles):
        yield f"the registry says {dict(history.aliases)}, the release table {dict(history.roles)}"
    for row in history.retrains:
        if row.version_out is not None and not (row.verdict and json.loads(row.verdict)["passed"]):
            yield f"version {row.version_out} was published without having passed the gate"
        if row.version_out is not None and row.version_out not in history.releases:
            yield f"version {row.version_out} of retrain {row.id} is no release"
    for version in history.roles.values():
        if history.made is not None and history.made[version].digest != history.releases[version]:
            yield f"the folder of version {version} does not hold what was released"
    asked = Counter(made.decision for made in (history.made or {}).values() if made.decision is not None)
    yield from (f"decision {decision} made {count} versions" for decision, count in asked.items() if count > 1)


def p5(history: History) -> Iterator[str]:
    """the previous champion cannot be loaded any more"""
    previous, has_moved = history.roles.get("previous"), any(row.state == "done" for row in history.retrains)
    if has_moved and history.first is not None and previous not in history.releases:
        yield f"the previous champion is gone: {previous}"
    if previous is not None and history.made is not None and not history.made[previous].digest:
        yield f"the folder of the previous champion, {previous}, is torn or gone"


def p6(history: History) -> Iterator[str]:
    """an interrupted run is not the run that its branch tells"""
    by_decision = {row.decision_id: row.id for row in history.retrains}
    for version, made in (history.made or {}).items():
        retrain = by_decision.get(made.decision or 0)
        if history.locks is not None and retrain is not None and history.locks.get(retrain) != made.lock:
            yield f"version {version} was not made by the dvc.lock on branch retrain/{retrain}"


def p7(history: History) -> Iterator[str]:
    """an MLflow run stays RUNNING without an owner"""
    if history.running:
        yield f"{history.running} MLflow runs stay RUNNING"


def p8(history: History) -> Iterator[str]:
    """something ended without a word"""
    for row in history.retrains:
        if row.state not in ("done", "refused", "failed") or row.ended_wall is None:
            yield f"retrain {row.id} never ended: {row.state} at {row.step}"
        elif (row.failure is None) != (row.state == "done"):
            yield f"retrain {row.id}: {row.state} with failure {row.failure!r}"
    for step in history.steps:
        if step.outcome == "running" or step.ended_at is None:
            yield f"retrain {step.retrain_id}: nobody ended {step.step}"
        elif step.outcome != "done" and not step.detail:
            yield f"retrain {step.retrain_id}: {step.step} was {step.outcome}, and nothing says why"


Check = Callable[[History], Iterator[str]]
CHECKS: dict[str, Check] = {"P1": p1, "P2": p2, "P3": p3, "P4": p4, "P5": p5, "P6": p6, "P7": p7, "P8": p8}


def read_tables(connection: sa.Connection, acknowledged: frozenset[DrillTimeline], first: int | None) -> History:
    """What the state database tells."""
    heard, decided, runs, steps = (
        connection.execute(sa.select(table).order_by(table.c.id)).all() for table in (alerts, decisions, retrains, retrain_steps)
    )
    known = {row.version: row.content_digest for row in connection.execute(sa.select(releases))}
    return History(acknowledged, first, heard, decided, runs, steps, known, {**roles(connection)})


def read_history(clone: Path, home: Path, model: str, acknowledged: frozenset[DrillTimeline], first: int | None) -> History:
    """All of it: state database, registry and runs, folders of versions, branches of the clone."""
    with open_state(home) as engine, engine.begin() as connection:
        history = read_tables(connection, acknowledged, first)
    return history._replace(
        running=unowned(home),
        aliases=aliases(home, model),
        made={version: made(home, version) for version in history.releases},
        locks={row.id: lock_on_branch(clone, row.id) for row in history.retrains},
    )


def unowned(home: Path) -> int:
    """Runs that stand as RUNNING though their owner is gone, or unknown."""
    client = mlflow.MlflowClient(default_uri(home))
    experiments = [one.experiment_id for one in client.search_experiments()]
    owners = [one.data.tags.get(OWNER) for one in client.search_runs(experiments, "attributes.status = 'RUNNING'")]
    return sum(owner is None or is_gone(owner) for owner in owners)


def aliases(home: Path, model: str) -> dict[str, int]:
    """Roles by the registry."""
    found = mlflow.MlflowClient(default_uri(home)).get_registered_model(model).aliases
    return {alias: int(version) for alias, version in found.items()}


def made(home: Path, version: int) -> Made:
    """The version's folder, live or parked."""
    for folder in (repository(home) / model_name(version), home / "parked" / model_name(version)):
        try:
            digest = content_digest(read_verified(folder))
        except RefusedError:
            continue
        lineage = json.loads((folder / LINEAGE).read_text(encoding="utf-8"))
        return Made(digest, lineage["decision"], lineage["dvc_lock_digest"])
    return Made("", None, "")


def lock_on_branch(clone: Path, retrain: int) -> str:
    """Digest of dvc.lock as the retrain's branch has it; "" where there is none."""
    shown = run(["git", "show", f"retrain/{retrain}:dvc.lock"], cwd=clone, capture_output=True)
    return "" if shown.returncode else sha256(shown.stdout).hexdigest()
