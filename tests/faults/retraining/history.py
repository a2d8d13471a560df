"""Read what retraining has stored, and check it against the promises P1 to P8 and P11.

It may be read while nothing waits and nothing runs. A part that a history lacks (registry, branches) is None and not checked.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from subprocess import run
from typing import Any, NamedTuple, get_args

import mlflow
import sqlalchemy as sa

from monitoring.retrain.journal import FinalState
from pipeline.errors import RefusedError
from pipeline.process_identity import is_gone
from pipeline.tracking.address import default_uri
from pipeline.tracking.runs import OWNER
from serving.release.manifest import LINEAGE, content_digest, model_name, read_verified, repository
from serving.release.release_table import roles
from state.database import open_state
from state.tables import alerts, decisions, release_runs, releases, retrain_steps, retrains
from tests.faults.scorecard import Promise

AlertKey = tuple[str, float, str]  # fingerprint, startsAt, status
Row = Any  # a row of a table


class VersionFiles(NamedTuple):
    """Describe a version by its files."""

    digest: str  # of its content; "": incomplete or missing
    decision: int | None
    lock: str  # digest of the dvc.lock at publication


class History(NamedTuple):
    """Hold everything that is checked."""

    acknowledged: frozenset[AlertKey]
    first: int | None  # champion before the first retrain
    alerts: Sequence[Row]
    decisions: Sequence[Row]
    retrains: Sequence[Row]
    steps: Sequence[Row]
    releases: Mapping[int, str]  # content digest by version
    roles: Mapping[str, int]
    running: int = 0  # MLflow runs that are RUNNING without an owner
    aliases: Mapping[str, int] | None = None  # of the registry
    versions: Mapping[int, VersionFiles] | None = None
    locks: Mapping[int, str] | None = None  # by retrain: digest of dvc.lock on its branch
    release_runs: Sequence[Row] = ()


def promises(history: History) -> list[Promise]:
    """Return a promise for each check; its value counts the violations."""
    return [
        Promise(f"{name} broken: {text}", len([*check(history)]), "times", at_most=0) for name, (text, check) in CHECKS.items()
    ]


def broken(history: History) -> list[str]:
    """Return a description of each violation, after the promise that it breaks."""
    return [f"{name}: {violation}" for name, (_text, check) in CHECKS.items() for violation in check(history)]


def check_alerts(history: History) -> Iterator[str]:
    """Yield acknowledged alerts that the journal lacks, and alerts that it has twice."""
    counts = Counter((row.fingerprint, row.starts_at, row.status) for row in history.alerts)
    yield from (f"in the journal twice: {alert}" for alert, count in counts.items() if count > 1)
    for lost in history.acknowledged - {(row.fingerprint, row.starts_at, row.status) for row in history.alerts}:
        yield f"acknowledged and not in the journal: {lost}"


def check_decisions(history: History) -> Iterator[str]:
    """Yield episodes without exactly one decision, and decisions that do not match the retrains."""
    counts = Counter((row.fingerprint, row.starts_at) for row in history.decisions)
    for episode in {(row.fingerprint, row.starts_at) for row in history.alerts} ^ set(counts):
        yield f"an episode without decision, or a decision without episode: {episode}"
    yield from (f"an episode has {count} decisions: {episode}" for episode, count in counts.items() if count > 1)
    known = {row.id: row for row in history.decisions}
    yield from (f"alert {row.id} leads to no decision" for row in history.alerts if row.decision_id not in known)
    for row in history.decisions:
        if row.verdict not in ("started", "joined", "refused") or not row.reason:
            yield f"{row.verdict}: {row.reason!r} is no decision"
        elif (row.retrain_id is None) != (row.verdict == "refused"):
            yield f"{row.verdict} with retrain {row.retrain_id}"
    started = sorted(row.retrain_id or 0 for row in history.decisions if row.verdict == "started")
    if started != sorted(row.id for row in history.retrains):
        yield f"decided on {started}, run {[row.id for row in history.retrains]}"
    for row in history.retrains:
        if row.decision_id not in known or known[row.decision_id].retrain_id != row.id:
            yield f"retrain {row.id} is not what decision {row.decision_id} started"


def check_leases(history: History) -> Iterator[str]:
    """Yield retrains that lived at the same time, and steps that a stale owner wrote."""
    live = [row.id for row in history.retrains if row.state == "running"]
    if len(live) > 1:
        yield f"retrains {live} live at once"
    fences = {row.id: row.fence for row in history.retrains}
    newest: Counter[int] = Counter()
    for step in sorted(history.steps, key=lambda step: step.id):
        if step.fence < newest[step.retrain_id] or step.fence > fences.get(step.retrain_id, -1):
            yield f"retrain {step.retrain_id}: {step.step} was begun under fence {step.fence}"
        newest[step.retrain_id] = max(newest[step.retrain_id], step.fence)
    done = Counter((step.retrain_id, step.step) for step in history.steps if step.outcome == "done")
    yield from (f"retrain {retrain}: {step} was done {count} times" for (retrain, step), count in done.items() if count > 1)


def check_champion(history: History) -> Iterator[str]:
    """Yield disagreements about the champion, and versions that were published without the gate."""
    done = [row for row in history.retrains if row.state == "done"]
    expected, champion = done[-1].version_out if done else history.first, history.roles.get("champion")
    if champion != expected:
        yield f"champion {champion}, and the last retrain that was done made {expected}"
    if history.aliases is not None and dict(history.aliases) != dict(history.roles):
        yield f"the registry says {dict(history.aliases)}, the release table {dict(history.roles)}"
    for row in history.retrains:
        if row.version_out is not None and row.git_commit and not (row.verdict and json.loads(row.verdict)["passed"]):
            yield f"version {row.version_out} was published without having passed the gate"
        if row.version_out is not None and row.version_out not in history.releases:
            yield f"version {row.version_out} of retrain {row.id} is no release"
    for version in history.roles.values():
        if history.versions is not None and history.versions[version].digest != history.releases[version]:
            yield f"the folder of version {version} does not hold what was released"
    made = Counter(files.decision for files in (history.versions or {}).values() if files.decision is not None)
    yield from (f"decision {decision} made {count} versions" for decision, count in made.items() if count > 1)


def check_previous(history: History) -> Iterator[str]:
    """Yield a previous champion that cannot be loaded."""
    previous, has_moved = history.roles.get("previous"), any(row.state == "done" for row in history.retrains)
    if has_moved and history.first is not None and previous not in history.releases:
        yield f"the previous champion is gone: {previous}"
    if previous is not None and history.versions is not None and not history.versions[previous].digest:
        yield f"the folder of the previous champion, {previous}, is torn or gone"


def check_locks(history: History) -> Iterator[str]:
    """Yield versions whose dvc.lock differs from the one on their branch."""
    by_decision = {row.decision_id: row.id for row in history.retrains}
    for version, files in (history.versions or {}).items():
        retrain = by_decision.get(files.decision or 0)
        if history.locks is not None and retrain is not None and history.locks.get(retrain) != files.lock:
            yield f"version {version} was not made by the dvc.lock on branch retrain/{retrain}"


def check_runs(history: History) -> Iterator[str]:
    """Yield MLflow runs that stay RUNNING without an owner."""
    if history.running:
        yield f"{history.running} MLflow runs stay RUNNING"


def check_ends(history: History) -> Iterator[str]:
    """Yield retrains and steps that never ended, or ended without a reason."""
    for row in history.retrains:
        if row.state not in get_args(FinalState) or row.ended_wall is None:
            yield f"retrain {row.id} never ended: {row.state} at {row.step}"
        elif (row.failure is None) != (row.state == "done"):
            yield f"retrain {row.id}: {row.state} with failure {row.failure!r}"
    for step in history.steps:
        if step.outcome == "running" or step.ended_at is None:
            yield f"retrain {step.retrain_id}: nobody ended {step.step}"
        elif step.outcome != "done" and not step.detail:
            yield f"retrain {step.retrain_id}: {step.step} was {step.outcome}, and nothing says why"


ENDS = {  # of a release: the states in which its retrain may have ended
    "promoted": {"done"},
    "refused": {"refused"},
    "rolled_back": {"rolled_back"},
    "aborted": {"aborted", "failed", "cancelled"},
}


def check_releases(history: History) -> Iterator[str]:
    """Yield releases without an end, with one that their retrain does not have, or promoted over a broken guardrail."""
    states = {row.id: row.state for row in history.retrains}
    for release in history.release_runs:
        if release.outcome is None or release.ended_at is None or not release.reason:
            yield f"the release of retrain {release.retrain_id} never ended: {release.stage}"
        elif states.get(release.retrain_id) not in ENDS[release.outcome]:
            ended = states.get(release.retrain_id)
            yield f"the release of retrain {release.retrain_id} ended {release.outcome}, its retrain {ended}"
        elif release.outcome == "promoted" and release.broken:
            yield f"retrain {release.retrain_id}: guardrail {release.broken} broke, and the version was promoted"
    released = {release.retrain_id for release in history.release_runs}
    for row in history.retrains:
        if row.state in ("rolled_back", "aborted") and row.id not in released:
            yield f"retrain {row.id} is {row.state}, and had no release"


Check = Callable[[History], Iterator[str]]
CHECKS: dict[str, tuple[str, Check]] = {
    "P1": ("an acknowledged alert is not in the journal, or there twice", check_alerts),
    "P2": ("an episode has no decision, or two", check_decisions),
    "P3": ("two retrains lived at once, or a stale owner wrote", check_leases),
    "P4": ("what serves is not what the release table says, or did not pass the gate", check_champion),
    "P5": ("the previous champion cannot be loaded any more", check_previous),
    "P6": ("an interrupted run is not the run that its branch tells", check_locks),
    "P7": ("an MLflow run stays RUNNING without an owner", check_runs),
    "P8": ("something ended without a word", check_ends),
    "P11": ("a release did not end in exactly one way", check_releases),
}


def read_tables(connection: sa.Connection, acknowledged: frozenset[AlertKey], first: int | None) -> History:
    """Read the state database."""
    alert_rows, decision_rows, retrain_rows, step_rows = (
        connection.execute(sa.select(table).order_by(table.c.id)).all() for table in (alerts, decisions, retrains, retrain_steps)
    )
    runs = connection.execute(sa.select(release_runs).order_by(release_runs.c.retrain_id)).all()
    digests = {row.version: row.content_digest for row in connection.execute(sa.select(releases))}
    history = History(acknowledged, first, alert_rows, decision_rows, retrain_rows, step_rows, digests, {**roles(connection)})
    return history._replace(release_runs=runs)


def read_history(clone: Path, home: Path, model: str, acknowledged: frozenset[AlertKey], first: int | None) -> History:
    """Read the state database, registry and runs, the versions' folders, and the clone's branches."""
    with open_state(home) as engine, engine.begin() as connection:
        history = read_tables(connection, acknowledged, first)
    return history._replace(
        running=count_unowned_runs(home),
        aliases=aliases(home, model),
        versions={version: read_version(home, version) for version in history.releases},
        locks={row.id: lock_on_branch(clone, row.id) for row in history.retrains},
    )


def count_unowned_runs(home: Path) -> int:
    """Count the RUNNING runs whose owner has ended or is unknown."""
    client = mlflow.MlflowClient(default_uri(home))
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    owners = [run.data.tags.get(OWNER) for run in client.search_runs(experiments, "attributes.status = 'RUNNING'")]
    return sum(owner is None or is_gone(owner) for owner in owners)


def aliases(home: Path, model: str) -> dict[str, int]:
    """Return the roles of the registry."""
    registered = mlflow.MlflowClient(default_uri(home)).get_registered_model(model).aliases
    return {alias: int(version) for alias, version in registered.items()}


def read_version(home: Path, version: int) -> VersionFiles:
    """Read the version's folder, live or parked."""
    for folder in (repository(home) / model_name(version), home / "parked" / model_name(version)):
        try:
            digest = content_digest(read_verified(folder))
        except RefusedError:
            continue
        lineage = json.loads((folder / LINEAGE).read_text(encoding="utf-8"))
        return VersionFiles(digest, lineage["decision"], lineage["dvc_lock_digest"])
    return VersionFiles("", None, "")


def lock_on_branch(clone: Path, retrain: int) -> str:
    """Return the digest of dvc.lock on the retrain's branch, "" when there is none."""
    result = run(["git", "show", f"retrain/{retrain}:dvc.lock"], cwd=clone, capture_output=True)
    return "" if result.returncode else sha256(result.stdout).hexdigest()
