"""Turn measured clusters into rows of the report: planted intents that have a cluster, and texts that keep their cluster's id."""

from collections.abc import Sequence
from concurrent.futures import Executor

import numpy as np

from pipeline.params import Flywheel
from tests.bench.drift.embedded import Texts
from tests.bench.flywheel.cluster_quality import PLANTED, SIZES, Quality, Stability, cluster_quality, id_stability
from tests.bench.flywheel.rows import Values, mean_interval
from tests.bench.report import Row

SHIPPED, CONTROLS = "shipped, sketch", ("HDBSCAN, sklearn's defaults, sketch", "best neighbourhood, sketch")
STABLE, STABLE_CONTROL = "shipped", "k-means anew, ids by texts"


def measure(texts: Texts, settings: Flywheel, seeds: int, pool: Executor) -> tuple[list[Quality], list[Stability]]:
    """Measure clusters and their ids, a seed on each core."""
    qualities = [pool.submit(cluster_quality, texts, seed, settings) for seed in range(seeds)]
    stabilities = [pool.submit(id_stability, texts, seed, settings) for seed in range(seeds)]
    return [row for run in qualities for row in run.result()], [row for run in stabilities for row in run.result()]


def to_rows(qualities: Sequence[Quality], stabilities: Sequence[Stability]) -> list[Row]:
    """Return a row for each size of the planted intents, and the stability of ids."""
    rows = []
    for size in SIZES:
        by_arm = {arm: _found(qualities, arm, size) for arm in (SHIPPED, *CONTROLS)}
        mean, low, high = mean_interval(by_arm[SHIPPED])
        shipped = [row for row in qualities if (row.arm, row.size) == (SHIPPED, size)]
        unassigned = float(np.mean([row.unassigned for row in shipped]))
        bound = by_arm[CONTROLS[1]].mean()
        what = (
            f"{PLANTED} intents of {size} texts: {mean:.0f} [{low:.0f}, {high:.0f}] % have a cluster (8 of the central 10);"
            f" nothing can pass {bound:.0f} % by much; {unassigned:.0%} unassigned"
        )
        control = "HDBSCAN"
        rows.append(Row("clusters", what, mean, "% of intents", control, float(by_arm[CONTROLS[0]].mean()), None, len(shipped)))
    kept, anew = (np.array([100 * row.kept for row in stabilities if row.arm == arm]) for arm in (STABLE, STABLE_CONTROL))
    mean, low, high = mean_interval(kept)
    what = f"texts that keep their cluster's id from a day to the next, over a week: {mean:.1f} [{low:.1f}, {high:.1f}] %"
    return [*rows, Row("ids", what, mean, "%", STABLE_CONTROL, float(anew.mean()), None, len(kept))]


def _found(qualities: Sequence[Quality], arm: str, size: int) -> Values:
    return np.array([100 * row.found / PLANTED for row in qualities if (row.arm, row.size) == (arm, size)])
