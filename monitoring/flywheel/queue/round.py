"""The result of a round of the flywheel, in one file: candidates in the order of the queue, and their clusters.

The file is replaced as a whole, so a round that is killed leaves the one before.
"""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.atomic_write import atomic_write

FILE = "flywheel/round.parquet"
CLUSTERS = b"evergreen.clusters"
REASONS_OF_CANDIDATES = ("disagreement", "margin", "novelty", "proposal", "few labels", "sure")
DISAGREEMENT, MARGIN, NOVELTY, PROPOSAL, FEW_LABELS, SURE = REASONS_OF_CANDIDATES


class LabelCandidate(NamedTuple):
    """A text that is worth a label."""

    text_id: str  # content id
    prediction_id: str  # feedback refers to it
    text: str
    at: float  # when it was answered, seconds of the epoch
    version: int
    label: str  # the champion's
    runner_up: str | None
    confidence: float
    margin: float  # between its two most probable labels
    second_label: str | None  # of the second model; None: it was not asked
    reasons: tuple[str, ...]
    cluster: int  # id, the same over rounds
    repeats: int  # how many texts of the log are equal or nearly equal to it; they are asked once
    is_sure: bool  # a person only confirms the label
    sketch: str = ""  # base64 of its fp16 sketch; empty: unknown
    people: int = 1  # who must give it the same label: a text that will measure a model needs more


class Cluster(NamedTuple):
    """A group of candidates."""

    id: int
    words: tuple[str, ...]  # the most distinctive ones
    central: tuple[str, ...]  # content ids of the most central candidates
    size: int  # texts, repeats included
    disagreement: float  # share of them on which the models differ, beyond chance
    disagreement_lower: float
    disagreement_upper: float
    rank_score: float  # clusters are shown from the highest to the lowest
    first_at: float  # when its first and last text was answered
    last_at: float
    centroid: tuple[float, ...]  # unit length


class Round(NamedTuple):
    """Candidates in the order in which people should label them, and clusters from the highest rank to the lowest."""

    made_at: float
    version: int
    candidates: Sequence[LabelCandidate]
    clusters: Sequence[Cluster]
    next_cluster: int = 1  # the lowest id that no cluster has had, in this round or before


def write_round(home: Path, made: Round) -> None:
    """Replace the file; only its owner may read the texts."""
    columns = {name: [getattr(row, name) for row in made.candidates] for name in LabelCandidate._fields}
    table = pa.table({name: pa.array(columns[name], type) for name, type in TYPES.items()})
    about: dict[str, object] = {"made_at": made.made_at, "version": made.version, "next_cluster": made.next_cluster}
    about["clusters"] = [cluster._asdict() for cluster in made.clusters]
    path = home / FILE
    with atomic_write(path) as part:
        pq.write_table(table.replace_schema_metadata({CLUSTERS: json.dumps(about)}), part, compression="zstd")
        part.chmod(0o600)


def read_round(home: Path) -> Round | None:
    """Return the last round, or None before the first."""
    try:
        table = pq.read_table(home / FILE)
    except FileNotFoundError:
        return None
    about = json.loads((table.schema.metadata or {})[CLUSTERS])
    rows = zip(*(table[name].to_pylist() for name in LabelCandidate._fields), strict=True)
    candidates = [LabelCandidate(*row)._replace(reasons=tuple(row[REASONS])) for row in rows]
    return Round(about["made_at"], about["version"], candidates, _clusters_of(about), about["next_cluster"])


def read_clusters(home: Path) -> list[Cluster]:
    """Return the clusters of the last round, without reading its texts; empty before the first."""
    try:
        metadata = pq.read_schema(home / FILE).metadata or {}
    except FileNotFoundError:
        return []
    return _clusters_of(json.loads(metadata[CLUSTERS]))


class RoundSummary(NamedTuple):
    """Counts of a round."""

    made_at: float
    version: int
    texts: int
    clusters: int
    reasons: dict[str, int]  # texts by reason; a text may have several


def read_summary(home: Path) -> RoundSummary | None:
    """Return the counts of the last round without reading its texts; None before the first."""
    try:
        table = pq.read_table(home / FILE, columns=["reasons"])
    except FileNotFoundError:
        return None
    about = json.loads((table.schema.metadata or {})[CLUSTERS])
    reasons = Counter(pc.list_flatten(table["reasons"]).to_pylist())
    return RoundSummary(about["made_at"], about["version"], table.num_rows, len(about["clusters"]), dict(reasons))


REASONS = LabelCandidate._fields.index("reasons")
TYPES = {
    "text_id": pa.string(),
    "prediction_id": pa.string(),
    "text": pa.string(),
    "at": pa.float64(),
    "version": pa.int32(),
    "label": pa.string(),
    "runner_up": pa.string(),
    "confidence": pa.float32(),
    "margin": pa.float32(),
    "second_label": pa.string(),
    "reasons": pa.list_(pa.string()),
    "cluster": pa.int32(),
    "repeats": pa.int32(),
    "is_sure": pa.bool_(),
    "sketch": pa.string(),
    "people": pa.int32(),
}


def _clusters_of(about: dict[str, Any]) -> list[Cluster]:
    return [Cluster(**{**fields, **_as_tuples(fields)}) for fields in about["clusters"]]


def _as_tuples(fields: dict[str, object]) -> dict[str, tuple[object, ...]]:
    return {name: tuple(value) for name, value in fields.items() if isinstance(value, list)}
