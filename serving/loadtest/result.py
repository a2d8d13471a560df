"""The result of a run: one entry for each request, and the figures computed from them."""

from collections import Counter
from collections.abc import Sequence
from math import ceil
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from serving.loadtest.plan import Load, Plan
from serving.loadtest.sender import ENDS, Outcomes

LATE_LIMIT_MS = 5.0
LATE_SHARE = 0.1


class Result(NamedTuple):
    """N requests in order of intended send time. A failed request has a status and no latency."""

    target: str
    url: str
    load: Load
    started_at: str  # UTC
    since_s: float  # figures cover requests meant to be sent from here
    until_s: float  # to here
    at_s: NDArray[np.float64]  # (N,)
    status: NDArray[np.int16]  # (N,) HTTP status, or one of `sender.ENDS`
    latency_ms: NDArray[np.float32]  # (N,) from the intended send time; NaN: failed
    late_ms: NDArray[np.float32]  # (N,) how late the generator came to send it
    repeats: NDArray[np.bool_]  # (N,) the text was sent before
    cached: NDArray[np.int8]  # (N,) 1 from a cache, 0 not, -1 unknown
    versions: NDArray[np.str_]  # (N,) "": unknown
    wrong: NDArray[np.bool_] | None  # (N,) answered, but not as expected; None: nothing was checked
    waited: int  # requests of the whole run for which no connection was free
    cpu_us: float  # of the generator, for each request of the whole run
    interrupted: bool

    @property
    def ok(self) -> NDArray[np.bool_]:
        """Return (N,): answered with a 2xx status and a readable body."""
        return (self.status >= 200) & (self.status < 300)

    @property
    def failed(self) -> int:
        return int((~self.ok).sum())

    @property
    def counts(self) -> dict[str, int]:
        """Count the requests by status; each has exactly one."""
        return {ENDS.get(status, str(status)): n for status, n in sorted(Counter(self.status.tolist()).items(), reverse=True)}

    @property
    def counted_s(self) -> float:
        return max(self.until_s - self.since_s, 1e-9)  # a run may be stopped before its warm-up is over

    @property
    def offered_per_s(self) -> float:
        return len(self.at_s) / self.counted_s

    @property
    def achieved_per_s(self) -> float:
        """Return the rate of good answers that arrived before the last request was due."""
        arrived_s = self.at_s + self.latency_ms / 1000  # NaN is never below
        return float((arrived_s <= self.until_s).sum()) / self.counted_s

    @property
    def p99_all_ms(self) -> float:
        """Return P99 of all requests, where a failed one takes forever: at most 1 % are slower or failed."""
        return percentile(np.where(self.ok, self.latency_ms, np.inf), 99)

    @property
    def hit_share(self) -> float | None:
        """Return the share of cached answers among those that report it; None when none does."""
        known = self.cached[self.cached >= 0]
        return float(known.mean()) if len(known) else None

    @property
    def valid(self) -> bool:
        """Return True when the generator kept up: its P99 lateness is below 5 ms, or below a tenth of the measured P99."""
        answered = self.latency_ms[self.ok]
        allowed = max(LATE_LIMIT_MS, LATE_SHARE * percentile(answered, 99)) if len(answered) else LATE_LIMIT_MS
        return percentile(self.late_ms, 99) <= allowed


def percentile(values: NDArray[Any], q: float) -> float:
    """Return the q-th percentile by nearest rank, NaN without values.

    numpy's percentile interpolates, and between two infinities that gives NaN.
    """
    if not len(values):
        return float("nan")
    return float(np.sort(values)[max(0, ceil(q * len(values) / 100 - 1e-9) - 1)])


def spread(values: NDArray[Any]) -> dict[str, float]:
    """Return p50, p90, p99, p999 and max."""
    quantiles = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p999": 99.9, "max": 100.0}
    return {name: percentile(values, q) for name, q in quantiles.items()}


def make_result(
    plan: Plan, outcomes: Outcomes, load: Load, *, names: tuple[str, str], started_at: str, wrong: Sequence[bool] | None
) -> Result:
    """Build the result from the plan and its outcomes; `names` are the target's name and url."""
    count = len(outcomes.status)
    status = np.array(outcomes.status, dtype=np.int16)
    took_ms = np.array(outcomes.took_s, dtype=np.float64) * 1000
    return Result(
        *names,
        load,
        started_at,
        since_s=0.0,
        until_s=load.duration_s if count == len(plan.at_s) else float(plan.at_s[count]),
        at_s=plan.at_s[:count],
        status=status,
        latency_ms=np.where((status >= 200) & (status < 300), took_ms, np.nan).astype(np.float32),
        late_ms=(np.array(outcomes.late_s) * 1000).astype(np.float32),
        repeats=plan.repeats[:count],
        cached=np.array([-1 if a is None or a.cached is None else int(a.cached) for a in outcomes.answers], dtype=np.int8),
        versions=np.array([a.version or "" if a else "" for a in outcomes.answers], dtype=np.str_),
        wrong=None if wrong is None else np.array(wrong, dtype=np.bool_),
        waited=outcomes.waited,
        cpu_us=outcomes.cpu_s / max(1, count) * 1e6,
        interrupted=outcomes.interrupted,
    )


def without_warmup(result: Result, since_s: float) -> Result:
    """Return the run without the requests of its first `since_s` seconds."""
    counted = result.at_s >= since_s
    fields: dict[str, Any] = {
        name: value[counted] if isinstance(value, np.ndarray) else value for name, value in result._asdict().items()
    }
    return Result(**{**fields, "since_s": since_s})


def per_second(result: Result) -> list[dict[str, float]]:
    """Return one row for each second of intended time: requests, good answers, their P50 and P99, P99 lateness."""
    rows = []
    seconds = result.at_s.astype(np.int64)
    for second in np.unique(seconds):
        mask = seconds == second
        good = result.latency_ms[mask & result.ok]
        rows.append(
            {
                "second": int(second),
                "requests": int(mask.sum()),
                "answered": len(good),
                "p50_ms": percentile(good, 50),
                "p99_ms": percentile(good, 99),
                "late_p99_ms": percentile(result.late_ms[mask], 99),
            }
        )
    return rows
