"""Measure clusters on Banking77: planted intents that have a cluster of their own, and ids that stay while texts arrive.

Candidates are texts with a low margin or two answers, as the log pass selects them. Champion = logistic regression on embeddings
of the untouched base model, second model = logistic regression on their sketches. A served sketch is of a trained encoder.
"""

import argparse
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from monitoring.flywheel.candidates.log_pass import unit_rows
from monitoring.flywheel.clusters.build import Compared, cluster_candidates, cluster_count
from monitoring.flywheel.clusters.grouping import group_vectors
from monitoring.flywheel.clusters.stable_ids import PreviousClusters, carry_ids
from monitoring.flywheel.disagreement.excess import Expected
from monitoring.flywheel.disagreement.task import TASK
from monitoring.flywheel.queue.round import MARGIN, LabelCandidate, Round
from pipeline.output.plain_text import print_line
from pipeline.params import Flywheel, load_params
from tests.bench.drift.embedded import Texts, load

PLANTED, SEEDS, RARE_SEEDS, TOP, PRECISE = (
    15,
    15,
    2,
    10,
    0.8,
)  # intents; labelled rows; texts of a cluster that a person sees first
SIZES = (15, 40, 90)  # unlabelled texts of a planted intent
DAYS, GROWTH = 7, 0.2
Clusters = NDArray[np.int64]
Vectors = NDArray[np.float32]


class Quality(NamedTuple):
    """One way to group one world's candidates."""

    arm: str
    seed: int
    size: int  # unlabelled texts of each planted intent
    candidates: int
    clusters: int
    found: int  # planted intents with a cluster whose 10 most central texts are at least 8 of theirs
    unassigned: float  # share of candidates in no cluster


class Stability(NamedTuple):
    """Ids over a week in which the log grows by a fifth a day."""

    arm: str
    seed: int
    kept: float  # share of texts that keep their cluster's id from a day to the next, mean over days
    worst: float  # on the worst day
    week: float  # share of the first day's texts that have their id of then at the end


class Candidates(NamedTuple):
    """Candidates of a world in the order of their arrival."""

    planted: NDArray[np.str_]
    truth: NDArray[np.str_]
    vectors: dict[str, Vectors]


def cluster_quality(texts: Texts, seed: int, settings: Flywheel) -> list[Quality]:
    """Return a row for each size of the planted intents and each way of grouping."""
    rows = []
    for size in SIZES:
        world = make_candidates(texts, seed, size, settings)
        count = cluster_count(len(world.truth), settings)
        for arm, group in arms(count, seed).items():
            for name, vectors in world.vectors.items():
                clusters = group(vectors)
                found, unassigned = count_found(clusters, vectors, world), float((clusters < 0).mean())
                groups = len(np.unique(clusters[clusters >= 0]))
                rows.append(Quality(f"{arm}, {name}", seed, size, len(clusters), groups, found, unassigned))
        for name, vectors in world.vectors.items():
            bound = count_neighbourhoods(vectors, world)
            rows.append(Quality(f"best neighbourhood, {name}", seed, size, len(vectors), 0, bound, 0.0))
    return rows


def arms(count: int, seed: int) -> dict[str, Callable[[Vectors], Clusters]]:
    """Return the shipped grouping and its controls."""
    from sklearn.cluster import HDBSCAN, AgglomerativeClustering, KMeans

    return {
        "shipped": lambda vectors: group_vectors(vectors, count, seed).clusters,
        "k-means, sklearn's defaults": lambda vectors: KMeans(count, random_state=seed).fit_predict(vectors),
        "Ward": lambda vectors: AgglomerativeClustering(count).fit_predict(vectors),
        "HDBSCAN, sklearn's defaults": lambda vectors: HDBSCAN(copy=True).fit_predict(vectors),
    }


def make_candidates(texts: Texts, seed: int, size: int, settings: Flywheel) -> Candidates:
    """Plant intents with few labels, fit both models, and return the texts that a person should see."""
    rng = np.random.default_rng(seed)
    names = np.unique(texts.label)
    planted = rng.choice(names, PLANTED, replace=False)
    labelled: list[int] = []
    pool: list[int] = []
    for name in names:
        rows = rng.permutation(np.flatnonzero(texts.label == name)).tolist()
        seeds, most = (RARE_SEEDS, RARE_SEEDS + size) if name in planted else (SEEDS, len(rows))
        labelled += rows[:seeds]
        pool += rows[seeds:most]
    sketch = unit_rows(texts.sketch)
    order = rng.permutation(pool)
    first, second = (_probabilities(vectors, texts.label, labelled, order) for vectors in (texts.embedding, sketch))
    is_candidate = (TASK.margins(first) < settings.low_margin) | (first.argmax(axis=1) != second.argmax(axis=1))
    chosen = order[is_candidate]
    return Candidates(planted, texts.label[chosen], {"sketch": sketch[chosen], "embedding": texts.embedding[chosen]})


def count_found(clusters: Clusters, vectors: Vectors, world: Candidates) -> int:
    """Return how many planted intents have a cluster with precision@10 of at least 0.8; a smaller cluster counts what it has."""
    found = set()
    for cluster in np.unique(clusters[clusters >= 0]):
        rows = np.flatnonzero(clusters == cluster)
        central = rows[np.argsort(-(vectors[rows] @ vectors[rows].mean(axis=0)))[:TOP]]
        names, counts = np.unique(world.truth[central], return_counts=True)
        found |= {name for name, number in zip(names, counts, strict=True) if number >= PRECISE * TOP}
    return len(found & set(world.planted))


def count_neighbourhoods(vectors: Vectors, world: Candidates) -> int:
    """Return how many planted intents have a text among whose 10 nearest ones 8 are theirs: what no grouping can pass by much."""
    found = 0
    for name in world.planted:
        rows = np.flatnonzero(world.truth == name)
        nearest = np.argsort(-(vectors[rows] @ vectors.T), axis=1)[:, :TOP]
        found += bool(len(rows)) and bool(((world.truth[nearest] == name).sum(axis=1) >= PRECISE * TOP).any())
    return found


def id_stability(texts: Texts, seed: int, settings: Flywheel) -> list[Stability]:
    """Make a round a day while candidates arrive, by the shipped functions and with k-means that starts anew each day."""
    world = make_candidates(texts, seed, SIZES[1], settings)
    vectors = world.vectors["sketch"]
    sizes = [round(len(vectors) / (1 + GROWTH) ** (DAYS - day)) for day in range(DAYS + 1)]
    ways = {"shipped": _shipped(vectors, sizes, settings), "k-means anew, ids by texts": _anew(vectors, sizes, settings)}
    return [_stability(arm, seed, list(days)) for arm, days in ways.items()]


def _shipped(vectors: Vectors, sizes: list[int], settings: Flywheel) -> Iterator[dict[str, int]]:
    nothing = Compared(vectors[:0], np.zeros(0, dtype=np.bool_), Expected(), 1.96)
    previous: Round | None = None
    for day, size in enumerate(sizes):
        candidates = [_candidate(row) for row in range(size)]
        made = cluster_candidates(candidates, vectors[:size], nothing, {}, previous, 1, settings)
        previous = Round(float(day), 1, made.candidates, made.clusters, made.next_cluster)
        yield {row.text_id: row.cluster for row in made.candidates}


def _anew(vectors: Vectors, sizes: list[int], settings: Flywheel) -> Iterator[dict[str, int]]:
    from sklearn.cluster import KMeans

    before = PreviousClusters([], vectors[:0], {}, 1, is_comparable=False)
    for day, size in enumerate(sizes):
        fitted = KMeans(cluster_count(size, settings), random_state=day).fit(vectors[:size])
        centroids = unit_rows(fitted.cluster_centers_)
        names = [str(row) for row in range(size)]
        ids, next_id = carry_ids(before, centroids, names, fitted.labels_.astype(np.int64), same=settings.same_cluster)
        members = dict(zip(names, ids[fitted.labels_].tolist(), strict=True))
        before = PreviousClusters(ids.tolist(), centroids, members, next_id, is_comparable=True)
        yield members


def _stability(arm: str, seed: int, days: list[dict[str, int]]) -> Stability:
    kept = [np.mean([after[text] == id for text, id in before.items()]) for before, after in pairwise(days)]
    week = np.mean([days[-1][text] == id for text, id in days[0].items()])
    return Stability(arm, seed, float(np.mean(kept)), float(min(kept)), float(week))


def _candidate(row: int) -> LabelCandidate:
    return LabelCandidate(str(row), str(row), f"text {row}", 0.0, 1, "a", None, 0.5, 0.1, None, (MARGIN,), -1, 1, is_sure=False)


def _probabilities(vectors: Vectors, labels: NDArray[np.str_], labelled: list[int], asked: NDArray[np.int64]) -> Vectors:
    from sklearn.linear_model import LogisticRegression

    fitted = LogisticRegression(C=10.0, max_iter=300, tol=1e-3).fit(vectors[labelled], labels[labelled])
    return np.asarray(fitted.predict_proba(vectors[asked]), dtype=np.float32)


def main() -> None:
    """Print the means over seeds."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.flywheel.cluster_quality", description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/banking77"))
    parser.add_argument("--cache", type=Path, default=Path("reports/bench/embedded"))
    parser.add_argument("--seeds", type=int, default=5)
    args = parser.parse_args()
    params = load_params()
    texts = load(args.data / "train.csv", params.model, args.cache)
    rows = [row for seed in range(args.seeds) for row in cluster_quality(texts, seed, params.flywheel)]
    for size in SIZES:
        for arm in dict.fromkeys(row.arm for row in rows):
            own = [row for row in rows if (row.arm, row.size) == (arm, size)]
            found, unassigned = np.mean([row.found for row in own]), np.mean([row.unassigned for row in own])
            worst, clusters = min(row.found for row in own), np.mean([row.clusters for row in own])
            what = f"{found:5.1f} of {PLANTED} (least {worst}), unassigned {unassigned:.0%}, {clusters:.0f} clusters"
            print_line(f"{size:3} texts  {arm:40} {what}")
    stable = [row for seed in range(args.seeds) for row in id_stability(texts, seed, params.flywheel)]
    for arm in dict.fromkeys(row.arm for row in stable):
        own_ = [row for row in stable if row.arm == arm]
        kept, worst_, week = np.mean([r.kept for r in own_]), min(r.worst for r in own_), np.mean([r.week for r in own_])
        print_line(f"{arm:40} keep their id {kept:.1%} a day (worst {worst_:.1%}), {week:.1%} over the week")


if __name__ == "__main__":
    main()
