"""The last round, read once and indexed, because a page shows a few of up to 100,000 candidates."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from monitoring.flywheel.queue.round import FILE, Cluster, LabelCandidate, Round, read_round


class RoundIndex(NamedTuple):
    """A round, and where its candidates are by id and by cluster."""

    round: Round
    by_prediction: Mapping[str, int]
    by_text: Mapping[str, int]
    by_cluster: Mapping[int, Sequence[int]]  # in the order of the queue
    clusters: Mapping[int, Cluster]
    sure: frozenset[int]
    since: float  # when the first of its texts was answered

    def candidate(self, prediction_id: str) -> LabelCandidate | None:
        """Return the candidate with this prediction id, if any."""
        at = self.by_prediction.get(prediction_id)
        return None if at is None else self.round.candidates[at]


def last_round(home: Path) -> RoundIndex | None:
    """Return the last round, or None before the first; raise `OSError`, `ValueError` or `KeyError` for a damaged file."""
    try:
        status = (home / FILE).stat()
    except FileNotFoundError:
        return None
    return _indexed(home, (status.st_ino, status.st_size, status.st_mtime_ns))


@lru_cache(1)
def _indexed(home: Path, _stamp: tuple[int, ...]) -> RoundIndex | None:
    made = read_round(home)
    if made is None:
        return None
    by_cluster: dict[int, list[int]] = {cluster.id: [] for cluster in made.clusters}
    for at, candidate in enumerate(made.candidates):
        by_cluster.setdefault(candidate.cluster, []).append(at)
    return RoundIndex(
        round=made,
        by_prediction={candidate.prediction_id: at for at, candidate in enumerate(made.candidates)},
        by_text={candidate.text_id: at for at, candidate in enumerate(made.candidates)},
        by_cluster=by_cluster,
        clusters={cluster.id: cluster for cluster in made.clusters},
        sure=frozenset(at for at, candidate in enumerate(made.candidates) if candidate.is_sure),
        since=min((candidate.at for candidate in made.candidates), default=made.made_at),
    )
