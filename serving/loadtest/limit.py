"""The highest rate at which a target keeps its P99 limit without an error: growth, then bisection."""

import time
from collections.abc import Callable, Sequence
from math import sqrt
from typing import Literal, NamedTuple

import numpy as np

from serving.loadtest.plan import Load
from serving.loadtest.result import Result, after, percentile
from serving.loadtest.run import Progress, run_load
from serving.loadtest.sender import TIMEOUT, GiveUp
from serving.loadtest.targets import Target

GROWTH = 1.5
MIN_REQUESTS = 500  # a P99 of fewer is an anecdote: slow rates are measured for longer than asked
PROBES, PROBE_RATE_PER_S = 10, 20.0
DRAIN_S = 60.0

Verdict = Literal["held", "too slow", "failed requests", "generator late"]


class Step(NamedTuple):
    """One rate, measured once."""

    rate_per_s: float
    verdict: Verdict
    result: Result


class Limit(NamedTuple):
    """What was found, and every step on the way; `note` says why the search ended early, if it did."""

    target: str
    p99_limit_ms: float
    rate_per_s: float  # 0: not even the lowest rate held
    steps: list[Step]
    idle_ms: float  # median latency of the target at rest
    note: str


class _EndedError(Exception):
    """The search cannot go on."""


def find_limit(
    target: Target,
    texts: Sequence[str],
    load: Load,
    *,
    p99_limit_ms: float,
    low: float,
    high: float,
    step_s: float,
    warm_s: float,
    resolution: float,
    on_step: Callable[[Step], None] | None = None,
    on_second: Progress | None = None,
) -> Limit:
    """Search between the rates `low` and `high`; `load.rate_per_s` and `load.duration_s` are not looked at.

    Each step sends for `warm_s` that do not count, then for `step_s` or `MIN_REQUESTS`, whichever is longer, and ends as soon
    as it cannot hold. A step that does not hold is repeated once. After such a step the search waits until the target has
    drained: ten probes in a row whose median is near the one at rest. `resolution` 0.03: the next rate tried and found too
    high is within 3 %.
    """
    seeds = iter(np.random.SeedSequence(load.seed).generate_state(10_000).tolist())
    steps: list[Step] = []

    def probe() -> float:
        probes = load._replace(rate_per_s=PROBE_RATE_PER_S, duration_s=PROBES / PROBE_RATE_PER_S, arrivals="constant")
        result = run_load(target, texts, probes._replace(repeat_share=0.0, seed=next(seeds)))
        _go_on(result)
        return percentile(np.where(result.ok, result.latency_ms, np.inf), 50)

    def measure(rate: float) -> bool:
        counted_s = max(step_s, MIN_REQUESTS / rate)
        now = load._replace(rate_per_s=rate, duration_s=warm_s + counted_s, seed=next(seeds))
        hopeless = GiveUp(p99_limit_ms / 1000, warm_s, int(0.01 * rate * counted_s))
        result = after(run_load(target, texts, now, give_up=hopeless, on_second=on_second), warm_s)
        _go_on(result)
        steps.append(Step(rate, judge(result, p99_limit_ms), result))
        if on_step:
            on_step(steps[-1])
        return steps[-1].verdict == "held"

    def holds(rate: float) -> bool:
        for _ in range(2):
            if measure(rate):
                return True
            _drain(probe, idle_ms)
        return False

    note, idle_ms = "", float("nan")
    try:
        idle_ms = probe()
        search(holds, low=low, high=high, growth=GROWTH, resolution=resolution)
    except KeyboardInterrupt:
        note = "stopped by hand"
    except _EndedError as ended:
        note = str(ended)
    held = [step.rate_per_s for step in steps if step.verdict == "held"]
    return Limit(target.name, p99_limit_ms, max(held, default=0.0), steps, idle_ms, note)


def search(holds: Callable[[float], bool], *, low: float, high: float, growth: float, resolution: float) -> float:
    """The highest rate found to hold, 0 when `low` does not: rates grow until one does not hold, then the gap is halved."""
    good, bad = 0.0, low
    while holds(bad):
        good = bad
        if good >= high:
            return good
        bad = min(high, good * growth)
    while good and bad / good > 1 + resolution:
        middle = sqrt(good * bad)
        if holds(middle):
            good = middle
        else:
            bad = middle
    return good


def judge(result: Result, p99_limit_ms: float) -> Verdict:
    """Held: no request failed and P99 is within the limit. A miss counts for nothing when the generator itself was late."""
    in_time = result.p99_all_ms <= p99_limit_ms  # even if we were late: our lateness is part of that P99
    if in_time and not result.failed:
        return "held"
    if in_time or set(result.status[~result.ok].tolist()) - {TIMEOUT}:
        return "failed requests"
    return "too slow" if result.valid else "generator late"


def _drain(probe: Callable[[], float], idle_ms: float) -> None:
    until_s = time.monotonic() + DRAIN_S
    while (now_ms := probe()) > max(2 * idle_ms, idle_ms + 5):
        if time.monotonic() > until_s:
            raise _EndedError(f"{DRAIN_S:.0f} s after the load a probe still took {now_ms:.0f} ms ({idle_ms:.0f} ms at rest)")


def _go_on(result: Result) -> None:
    if result.interrupted:
        raise KeyboardInterrupt
