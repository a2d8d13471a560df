"""Reads the inputs of a decision: the champion, new labels, evidence of harm, the clone's commit. Decides nothing."""

from collections.abc import Mapping, Sequence
from functools import cache
from math import inf
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from monitoring.drift.accuracy import harm_log_e, is_harm
from monitoring.flywheel.disagreement.store import newest_measurements
from monitoring.monitor.store import correct_flags
from monitoring.retrain.decide import Harm, Inputs, PastRetrain
from monitoring.retrain.new_labels import count_labels_since, count_new_labels, first_label_since, last_learnt_feedback
from pipeline.params import Params, Retrain
from pipeline.reference_profile import load_reference
from serving.release.inputs import has_same_inputs, other_inputs
from serving.release.label_change import labels_of
from serving.release.manifest import model_name, read_lineage, repository
from serving.release.release_table import find_release
from state.tables import windows


def read_inputs(
    connection: sa.Connection,
    history: Sequence[PastRetrain],
    params: Params,
    home: Path,
    head: str | None,
    *,
    now: float,
    is_on_request: bool = False,
) -> Inputs:
    """Read all inputs in one transaction, for the clone in the current folder. An unreadable champion never counts as harm.

    `now` are seconds since the epoch: what was measured long ago is no input.
    """
    release = find_release(connection, role="champion")
    folder = repository(home) / model_name(release.version) if release else None
    lineage = read_lineage(folder) if folder else {}
    learnt = last_learnt_feedback(connection, params.publish.name)
    counts, first = count_labels_since(connection, learnt), first_label_since(connection, learnt)
    return Inputs(
        champion=release.version if release else None,
        champion_commit=head if lineage and head and has_same_inputs(lineage, head, Path.cwd()) else commit_of(lineage),
        head=head,
        history=history,
        new_labels=count_new_labels(counts, labels_of(folder), params.retrain),
        harm=_harm(connection, release.version, folder, params) if release and folder else Harm(False, False),
        labelling_s=inf if first is None or first > now else now - first,
        disagreement=_disagreement(connection, release.version, params.retrain, now) if release else None,
        other_inputs=other_inputs(lineage, head, Path.cwd()) if lineage and head else "",
        is_on_request=is_on_request,
    )


def _disagreement(connection: sa.Connection, version: int, settings: Retrain, now: float) -> float | None:
    """Return the highest lower bound among the champion's newest measurements, one with each second model."""
    newest = newest_measurements(connection, version, since=now - settings.disagreement_within_s)
    return max((measured.lower for measured in newest), default=None)


def _harm(connection: sa.Connection, version: int, folder: Path, params: Params) -> Harm:
    promised = reference_accuracy(folder)
    if promised is None:
        return Harm(False, False)
    newest = sa.select(windows.c.accuracy_upper).where(windows.c.version == version).order_by(windows.c.number.desc()).limit(1)
    upper = connection.execute(newest).scalar_one_or_none()
    evidence = harm_log_e(correct_flags(connection, version), promised, params.monitor.tolerated_loss, params.monitor.harm_alpha)
    return Harm(
        is_estimated=upper is not None and upper < promised - params.monitor.tolerated_loss,
        is_labelled=is_harm(evidence, params.monitor.harm_alpha),
    )


@cache
def reference_accuracy(folder: Path) -> float | None:
    """Return a version's accuracy on its reference, or None; cached, because a version's folder never changes."""
    try:
        correct = load_reference(folder / "reference.npz").correct
    except (OSError, ValueError, KeyError, EOFError):
        return None
    return float(correct.mean()) if len(correct) else None


def commit_of(lineage: Mapping[str, Any]) -> str | None:
    """Return the commit that a version was made from, or None if it was made with uncommitted changes."""
    return None if lineage.get("git_dirty", True) else lineage.get("git_commit")
