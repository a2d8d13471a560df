"""What a decision is made in: the champion, labels that came, harm, the commit of the clone. Reads, and decides nothing."""

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import sqlalchemy as sa

from monitoring.drift.accuracy import harm_log_e, is_harm
from monitoring.monitor.store import correct_flags
from monitoring.retrain.decide import Harm, Past, Situation
from monitoring.retrain.new_labels import learnt_upto, new_labels, said_since
from pipeline.params import Params
from pipeline.reference_profile import load_reference
from serving.release.manifest import LINEAGE, model_name, repository
from serving.release.release_table import find_release
from state.tables import windows


def read_situation(connection: sa.Connection, past: Sequence[Past], params: Params, home: Path, head: str | None) -> Situation:
    """All facts in one transaction. What cannot be read of the champion's folder is no proof of harm."""
    release = find_release(connection, role="champion")
    folder = repository(home) / model_name(release.version) if release else None
    said = said_since(connection, learnt_upto(connection, params.publish.name))
    return Situation(
        champion=release.version if release else None,
        champion_commit=commit_of(folder) if folder else None,
        head=head,
        history=past,
        new_labels=new_labels(said, labels_of(folder), params.retrain),
        harm=_harm(connection, release.version, folder, params) if release and folder else Harm(False, False),
    )


def labels_of(folder: Path | None) -> frozenset[str]:
    """The labels of a version in the live repository."""
    path = folder / "labels.txt" if folder else None
    return frozenset(path.read_text(encoding="utf-8").splitlines()) if path and path.is_file() else frozenset()


def _harm(connection: sa.Connection, version: int, folder: Path, params: Params) -> Harm:
    agreed = reference_accuracy(folder)
    if agreed is None:
        return Harm(False, False)
    newest = sa.select(windows.c.accuracy_upper).where(windows.c.version == version).order_by(windows.c.number.desc()).limit(1)
    upper = connection.execute(newest).scalar_one_or_none()
    evidence = harm_log_e(correct_flags(connection, version), agreed, params.monitor.tolerated_loss, params.monitor.harm_alpha)
    return Harm(
        is_estimated=upper is not None and upper < agreed - params.monitor.tolerated_loss,
        is_labelled=is_harm(evidence, params.monitor.harm_alpha),
    )


@cache
def reference_accuracy(folder: Path) -> float | None:
    """Of a folder that never changes once it is there."""
    try:
        correct = load_reference(folder / "reference.npz").correct
    except (OSError, ValueError, KeyError, EOFError):
        return None
    return float(correct.mean()) if len(correct) else None


def commit_of(folder: Path) -> str | None:
    """The commit that the version was made from; None where its files were not committed as they were."""
    try:
        lineage = json.loads((folder / LINEAGE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return None if lineage.get("git_dirty", True) else lineage.get("git_commit")
