"""Count what each arm of a release has answered, over all gateways: in the state database, under the release's salt.

Arms: `challenger` (the units that it answers), `baseline` (as many units of the champion's, at the same time), `champion`
(everybody else), `shadow` (copies to the challenger, whose answers nobody gets).
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple, get_args

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from state.tables import arm_counts, arm_latencies

Arm = Literal["challenger", "baseline", "champion", "shadow"]
ARMS: tuple[Arm, ...] = get_args(Arm)
FIRST_MS, RATIO = 0.1, 1.1  # upper end of bucket 0, and of each bucket to the end of the one before: an error of 5 % at most
ROUNDING = 1e-9  # the end of a bucket belongs to it, whatever the logarithm makes of it


class ArmTotals(NamedTuple):
    """What one arm has answered: texts, and the latencies of the answers that no cache gave."""

    answered: int = 0
    failed: int = 0  # the arm's version did not answer; the champion answered in its place
    broken: int = 0  # of the answered: an empty label, or a confidence that is no number; the champion answered in its place
    latencies: Mapping[int, int] = {}  # bucket → answers

    def since(self, before: "ArmTotals") -> "ArmTotals":
        """Return what has been added since earlier totals."""
        grown = {bucket: answers - before.latencies.get(bucket, 0) for bucket, answers in self.latencies.items()}
        return ArmTotals(
            self.answered - before.answered,
            self.failed - before.failed,
            self.broken - before.broken,
            {bucket: answers for bucket, answers in grown.items() if answers},
        )


def bucket_of(latency_ms: float) -> int:
    """Return the bucket of a latency.

    >>> [bucket_of(latency_ms) for latency_ms in (0.0, 0.1, 0.11, 10.0, 11.0)]
    [0, 0, 1, 49, 50]
    """
    return max(0, math.ceil(math.log(latency_ms / FIRST_MS) / math.log(RATIO) - ROUNDING)) if latency_ms > FIRST_MS else 0


def bucket_ms(bucket: int) -> float:
    """Return the longest latency of a bucket.

    >>> round(bucket_ms(49), 2)
    10.67
    """
    return float(FIRST_MS * RATIO**bucket)


def add_counts(connection: sa.Connection, salt: str, increments: Mapping[Arm, ArmTotals]) -> None:
    """Add to the totals of a release; gateways may do so at the same time."""
    arms = sorted(increments)  # one order for all: two writers never wait for each other's rows
    counts = [{"salt": salt, "arm": arm, **_counts(increments[arm])} for arm in arms]
    answers = [
        {"salt": salt, "arm": arm, "bucket": bucket, "answers": increments[arm].latencies[bucket]}
        for arm in arms
        for bucket in sorted(increments[arm].latencies)
    ]
    _add(connection, arm_counts, ("answered", "failed", "broken"), counts)
    _add(connection, arm_latencies, ("answers",), answers)


def read_counts(connection: sa.Connection, salt: str) -> dict[Arm, ArmTotals]:
    """Return the totals of every arm of a release, zeros where it has answered nothing."""
    latencies: dict[str, dict[int, int]] = {arm: {} for arm in ARMS}
    for row in connection.execute(sa.select(arm_latencies).where(arm_latencies.c.salt == salt)):
        latencies[row.arm][row.bucket] = row.answers
    rows = connection.execute(sa.select(arm_counts).where(arm_counts.c.salt == salt))
    counts = {row.arm: (row.answered, row.failed, row.broken) for row in rows}
    return {arm: ArmTotals(*counts.get(arm, (0, 0, 0)), latencies[arm]) for arm in ARMS}


def _counts(totals: ArmTotals) -> dict[str, int]:
    return {"answered": totals.answered, "failed": totals.failed, "broken": totals.broken}


def _add(connection: sa.Connection, table: sa.Table, names: Iterable[str], rows: list[dict[str, Any]]) -> None:
    """Insert rows; where a row exists, add these columns to it."""
    if not rows:
        return
    kind = postgresql if connection.dialect.name == "postgresql" else sqlite
    insert = kind.insert(table)
    sums = {name: table.c[name] + insert.excluded[name] for name in names}
    connection.execute(insert.on_conflict_do_update(index_elements=list(table.primary_key.columns), set_=sums), rows)
