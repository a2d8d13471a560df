"""Count what each arm of a release answers in a gateway, and add it to the database, off the path of an answer.

A killed gateway loses the counts since its last flush: they are evidence, and no accounts.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from typing import Literal

import sqlalchemy as sa

from serving.arm_counts import Arm, ArmTotals, add_counts, bucket_of

Outcome = Literal["answered", "failed", "broken"]
Counts = Counter[tuple[str, Arm, Outcome | int]]  # salt, arm, and the outcome of texts or the bucket of a request's latency


class ArmCounter:
    """The counts that the database has not yet; belongs to one event loop. `exported` gets each count too, for Prometheus."""

    def __init__(self, exported: Callable[[Arm, Outcome, int], None]) -> None:
        self._export = exported
        self._counts: Counts = Counter()

    def count(self, salt: str, arm: Arm, outcome: Outcome, texts: int = 1) -> None:
        """Count texts of an arm. Broken ones are counted as answered too."""
        if texts:
            self._counts[salt, arm, outcome] += texts
            self._export(arm, outcome, texts)

    def time(self, salt: str, arm: Arm, latency_ms: float) -> None:
        """Count the latency of a request that no cache answered."""
        self._counts[salt, arm, bucket_of(latency_ms)] += 1

    async def flush(self, engine: sa.Engine) -> None:
        """Add the counts to the database; raise what it raises, and keep them for the next time."""
        if not self._counts:
            return
        taken, self._counts = self._counts, Counter()
        try:
            await asyncio.to_thread(_store, engine, taken)
        except Exception:
            self._counts.update(taken)
            raise


def totals(counts: Mapping[tuple[str, Arm, Outcome | int], int]) -> dict[str, dict[Arm, ArmTotals]]:
    """Return the counts as totals of each arm, by release."""
    by_release: defaultdict[str, dict[Arm, ArmTotals]] = defaultdict(dict)
    for (salt, arm, what), number in counts.items():
        before = by_release[salt].get(arm, ArmTotals())
        change = {what: number} if isinstance(what, str) else {"latencies": {**before.latencies, what: number}}
        by_release[salt][arm] = before._replace(**change)  # type: ignore[arg-type]
    return by_release


def _store(engine: sa.Engine, counts: Counts) -> None:
    with engine.begin() as connection:
        for salt, by_arm in totals(counts).items():
            add_counts(connection, salt, by_arm)
