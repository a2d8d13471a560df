"""Measures what the labels behind a candidate brought: its answers on held-out rows, by the cluster of their label."""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import sqlalchemy as sa

from monitoring.detectors.paired_test import Flags, PairCounts
from monitoring.flywheel.label_return import LabelReturn, measure_returns, sort_returns
from monitoring.flywheel.queue.round import read_clusters
from monitoring.labels.feedback_file import read_file
from pipeline.data.records import text_id
from pipeline.params import Params
from serving.release.manifest import read_lineage
from state.tables import label_returns

ALL_CLUSTERS = -1  # in the table, of the row for all labels together


class PairedAnswers(NamedTuple):
    """Whether champion and candidate are right on the N current test rows, by today's labels."""

    ids: Sequence[str]
    is_new: Flags  # (N,) the row arrived after the champion was made
    champion_right: Flags
    candidate_right: Flags


def find_returns(answers: PairedAnswers, champion: Path, feedback: Path, home: Path, params: Params) -> list[LabelReturn]:
    """Return what the labels given since the champion was published brought, for those that name their cluster."""
    published_at = read_lineage(champion).get("published_at")
    since = datetime.fromisoformat(published_at) if published_at else None
    rows = [row for file in sorted(feedback.glob("*.jsonl")) for row in read_file(file) if _counts(row, since)]
    if not rows:
        return []
    clusters, labels = {text_id(row["text"]): int(row["cluster"]) for row in rows}, Counter[int]()
    for row in rows:
        labels[int(row["cluster"])] += max(1, len(row["labellers"]))
    is_held_out = [is_new and id in clusters for id, is_new in zip(answers.ids, answers.is_new, strict=True)]
    held_out = np.flatnonzero(is_held_out)
    return measure_returns(
        np.array([clusters[answers.ids[row]] for row in held_out], dtype=np.int64),
        answers.champion_right[held_out],
        answers.candidate_right[held_out],
        labels=labels,
        texts={cluster.id: cluster.size for cluster in read_clusters(home)},
        confidence=params.monitor.confidence,
    )


def return_numbers(returns: Sequence[LabelReturn]) -> dict[str, float]:
    """Return the figures of all labels together, for MLflow."""
    if not returns:
        return {}
    every = returns[0]
    lower, upper = every.per_label_bounds
    numbers = {"labels": every.labels, "rows": every.counts.rows, "per_label": every.per_label, "lower": lower, "upper": upper}
    return {f"label_return/{name}": float(value) for name, value in numbers.items()}


def store_returns(connection: sa.Connection, digest: str, returns: Sequence[LabelReturn]) -> None:
    """Replace what is stored about the package of this content."""
    connection.execute(label_returns.delete().where(label_returns.c.content_digest == digest))
    for measured in returns:
        cluster = ALL_CLUSTERS if measured.cluster is None else measured.cluster
        counts = measured.counts._asdict()
        values = {name: getattr(measured, name) for name in ("labels", "texts", "removed", "lower", "upper")}
        connection.execute(label_returns.insert().values(content_digest=digest, cluster=cluster, **counts, **values))


def read_returns(connection: sa.Connection, digest: str) -> list[LabelReturn]:
    """Return what is stored about the package of this content, in the order of `measure_returns`."""
    rows = connection.execute(sa.select(label_returns).where(label_returns.c.content_digest == digest)).all()
    returns = [
        LabelReturn(
            None if row.cluster == ALL_CLUSTERS else row.cluster,
            row.labels,
            row.texts,
            PairCounts(row.rows, row.gained, row.lost),
            row.removed,
            row.lower,
            row.upper,
        )
        for row in rows
    ]
    return sort_returns(returns)


def _counts(row: dict[str, Any], since: datetime | None) -> bool:
    """Return whether the row names the cluster that it was labelled in, and was labelled after `since`."""
    if row.get("cluster") is None or row.get("given_at") is None:
        return False
    return since is None or datetime.fromisoformat(row["given_at"]) > since
