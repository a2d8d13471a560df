"""Search for the highest rate at which a target keeps its P99 limit without an error: growth, then bisection."""

import time
from collections.abc import Callable, Sequence
from math import sqrt
from typing import Literal, NamedTuple

import numpy as np

from serving.loadtest.plan import Load
from serving.loadtest.result import Result, percentile, without_warmup
from serving.loadtest.run import Progress, run_load
from serving.loadtest.sender import TIMEOUT, GiveUp
from serving.loadtest.targets import Target

GROWTH = 1.5
MIN_REQUESTS = 500  # too few for a P99: slow rates are measured for longer than `step_s`
PROBES, PROBE_RATE_PER_S = 10, 20.0
DRAIN_S = 60.0

Verdict = Literal["held", "too slow", "failed requests", "generator late"]


class Step(NamedTuple):
    """One measurement of one rate."""

    rate_per_s: float
    verdict: Verdict
    result: Result


class Limit(NamedTuple):
    """The highest rate that held, and every step of the search; `note` is the reason when it ended early."""

    target: str
    p99_limit_ms: float
    rate_per_s: float  # 0: not even the lowest rate held
    steps: list[Step]
    idle_ms: float  # median latency of the target at rest
    note: str


class _SearchEndedError(Exception):
    """The search cannot continue."""


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
    """Search between the rates `low` and `high`; `load.rate_per_s` and `load.duration_s` are ignored.

    Each step sends for `warm_s`, which does not count, then for `step_s` or `MIN_REQUESTS`, whichever is longer. It ends as soon
    as it cannot hold, and is repeated once. After such a step the search waits until the target has drained: ten probes in a row
    whose median is near the one at rest. With `resolution` 0.03 the next rate that was too high is within 3 %.
    """
    seeds = iter(np.random.SeedSequence(load.seed).generate_state(10_000).tolist())
    steps: list[Step] = []

    def probe() -> float:
        probes = load._replace(rate_per_s=PROBE_RATE_PER_S, duration_s=PROBES / PROBE_RATE_PER_S, arrivals="constant")
        result = run_load(target, texts, probes._replace(repeat_share=0.0, seed=next(seeds)))
        _raise_if_interrupted(result)
        return percentile(np.where(result.ok, result.latency_ms, np.inf), 50)

    def measure(rate: float) -> bool:
        counted_s = max(step_s, MIN_REQUESTS / rate)
        step = load._replace(rate_per_s=rate, duration_s=warm_s + counted_s, seed=next(seeds))
        hopeless = GiveUp(p99_limit_ms / 1000, warm_s, int(0.01 * rate * counted_s))
        result = without_warmup(run_load(target, texts, step, give_up=hopeless, on_second=on_second), warm_s)
        _raise_if_interrupted(result)
        steps.append(Step(rate, decide_verdict(result, p99_limit_ms), result))
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
    except _SearchEndedError as error:
        note = str(error)
    held = [step.rate_per_s for step in steps if step.verdict == "held"]
    return Limit(target.name, p99_limit_ms, max(held, default=0.0), steps, idle_ms, note)


def search(holds: Callable[[float], bool], *, low: float, high: float, growth: float, resolution: float) -> float:
    """Return the highest rate that holds, 0 when `low` does not: grow the rate until one does not hold, then bisect."""
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


def decide_verdict(result: Result, p99_limit_ms: float) -> Verdict:
    """Return `held` when no request failed and P99 is within the limit, else what kept it from holding.

    When the generator was late, a P99 above the limit is its fault, and not the target's.
    """
    in_time = result.p99_all_ms <= p99_limit_ms  # lateness of the generator is part of this P99
    if in_time and not result.failed:
        return "held"
    if in_time or set(result.status[~result.ok].tolist()) - {TIMEOUT}:
        return "failed requests"
    return "too slow" if result.valid else "generator late"


def _drain(probe: Callable[[], float], idle_ms: float) -> None:
    until_s = time.monotonic() + DRAIN_S
    while (now_ms := probe()) > max(2 * idle_ms, idle_ms + 5):
        if time.monotonic() > until_s:
            raise _SearchEndedError(f"{DRAIN_S:.0f} s after the load a probe still took {now_ms:.0f} ms ({idle_ms:.0f} at rest)")


def _raise_if_interrupted(result: Result) -> None:
    if result.interrupted:
        raise KeyboardInterrupt
