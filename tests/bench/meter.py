"""Run the arms of a bench at a rate, or search for the highest rate that keeps P99; record every run as a `Reading`."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import sqrt
from typing import Literal, NamedTuple

import numpy as np
import psutil
from rich.text import Text

from pipeline.output.terminal import Terminal, joined, styled
from serving.loadtest import Load, Result, Target, run_load, without_warmup
from serving.loadtest.limit import Verdict, decide_verdict
from serving.loadtest.result import percentile
from serving.loadtest.run import Check
from serving.loadtest.sender import GiveUp
from tests.bench.children import cpu_s

P99_LIMIT_MS = 50.0
TIMEOUT_S, CONNECTIONS, ZIPF_S = 10.0, 1024, 1.0
LOWEST_PER_S = 1.0  # an arm that cannot keep this rate has no limit


class Pace(NamedTuple):
    """Say how long runs last; `--quick` shortens them."""

    warm_s: float  # at the start of each run; not counted
    step_s: float  # counted seconds of a run
    requests: int  # at least; slow arms run for longer
    resolution: float  # the search ends when the next rate is within this factor


class Arm(NamedTuple):
    """Describe what is measured: its target, its texts, and the processes whose CPU time counts."""

    name: str
    target: Target
    texts: Sequence[str]
    repeat_share: float
    processes: Sequence[psutil.Process]
    guess_per_s: float  # start of the first search
    p99_ms: float = P99_LIMIT_MS


class Reading(NamedTuple):
    """Record one run. Latencies are those of good answers; `p99_all_ms` ranks failures above all latencies."""

    part: str
    arm: str
    pair: int
    at_s: float  # since the bench began
    seconds: float  # without the warm-up
    rate_per_s: float
    achieved_per_s: float
    requests: int
    failed: int
    p50_ms: float
    p99_ms: float
    p99_all_ms: float
    late_p99_ms: float
    server_cpu_ms: float  # for each request
    verdict: Verdict


class OutOfTimeError(Exception):
    """Raised when the bench has used up its time."""


class Meter:
    """Run loads one at a time, record their readings and print them; the caller sets `pair` when it measures pairs."""

    def __init__(self, console: Terminal, pace: Pace, *, limit_s: float, seed: int) -> None:
        self.pace = pace
        self.readings: list[Reading] = []
        self.pair = 0
        self._console, self._limit_s, self._begun = console, limit_s, time.monotonic()
        self._seeds: Iterator[int] = iter(np.random.SeedSequence(seed).generate_state(100_000).tolist())

    @property
    def elapsed_s(self) -> float:
        """Return the seconds since the bench began."""
        return time.monotonic() - self._begun

    def report(self, line: str | Text, style: str = "") -> None:
        """Print a line behind the elapsed time."""
        minutes, seconds = divmod(int(self.elapsed_s), 60)
        self._console.print(styled(f"{minutes:2d}:{seconds:02d}", "dim"), line if isinstance(line, Text) else styled(line, style))

    def load(self, arm: Arm, rate: float, seconds: float, arrivals: Literal["poisson", "constant"] = "poisson") -> Load:
        """Return a load of this arm with texts that no cache has seen."""
        return Load(rate, seconds, arrivals, arm.repeat_share, ZIPF_S, next(self._seeds), TIMEOUT_S, CONNECTIONS)

    def run(
        self,
        part: str,
        arm: Arm,
        rate: float,
        *,
        seconds: float | None = None,
        arrivals: Literal["poisson", "constant"] = "poisson",
        give_up_early: bool = False,
        check: Check | None = None,
    ) -> Result:
        """Run at this rate; `give_up_early` stops a run that cannot keep the limit. Raise `OutOfTimeError` at the bench's end."""
        if self.elapsed_s > self._limit_s:
            raise OutOfTimeError
        counted_s = seconds or max(self.pace.step_s, self.pace.requests / rate)
        give_up = GiveUp(arm.p99_ms / 1000, self.pace.warm_s, int(0.01 * rate * counted_s)) if give_up_early else None
        load = self.load(arm, rate, self.pace.warm_s + counted_s, arrivals)
        with self.reading(part, arm, rate) as record:
            result = run_load(arm.target, arm.texts, load, give_up=give_up, check=check)
            record(without_warmup(result, self.pace.warm_s))
        if result.interrupted:
            raise KeyboardInterrupt
        return without_warmup(result, self.pace.warm_s)

    @contextmanager
    def reading(self, part: str, arm: Arm, rate: float) -> Iterator[Callable[[Result], None]]:
        """Record the yielded call's result as a reading, with the CPU time that the servers used meanwhile."""
        at_s, before_s = self.elapsed_s, cpu_s(arm.processes)

        def record(result: Result) -> None:
            used_ms = 1000 * (cpu_s(arm.processes) - before_s) / max(1, len(result.at_s)) * _counted_share(result)
            self.readings.append(_reading(part, arm, self.pair, at_s, rate, result, used_ms))
            self.report(_line(self.readings[-1]))

        yield record

    def limit(self, part: str, arm: Arm, start: float, factor: float) -> float:
        """Return the highest rate that keeps P99 without an error, 0 when none does. A rate that misses is tried twice."""

        def holds(rate: float) -> bool:
            return any(decide_verdict(self.run(part, arm, rate, give_up_early=True), arm.p99_ms) == "held" for _ in range(2))

        limit = search_near(holds, start=start, factor=factor, resolution=self.pace.resolution, lowest=LOWEST_PER_S)
        self.report(f"{arm.name}: {limit:.1f}/s at P99 ≤ {arm.p99_ms:g} ms", "bold")
        return limit


def search_near(holds: Callable[[float], bool], *, start: float, factor: float, resolution: float, lowest: float) -> float:
    """Return the highest rate that was seen to hold, 0 when none above `lowest` does.

    The search multiplies or divides `start` by `factor` until one rate holds and the next does not. It then halves the gap until
    the two are within `resolution`.
    """
    good, bad, rate = 0.0, float("inf"), start
    while rate >= lowest:
        if holds(rate):
            good = rate
        else:
            bad = rate
        if good and bad / good <= resolution * (1 + 1e-9):
            return good
        rate = sqrt(good * bad) if good and bad < float("inf") else good * factor if good else bad / factor
    return good


def _counted_share(result: Result) -> float:
    """Return the share of the run that counts: CPU time is read for all of it."""
    return result.counted_s / max(result.until_s, 1e-9)


def _reading(part: str, arm: Arm, pair: int, at_s: float, rate: float, result: Result, cpu_ms: float) -> Reading:
    good = result.latency_ms[result.ok]
    return Reading(
        part,
        arm.name,
        pair,
        round(at_s, 1),
        round(result.counted_s, 2),
        rate,
        result.achieved_per_s,
        len(result.at_s),
        result.failed,
        percentile(good, 50),
        percentile(good, 99),
        result.p99_all_ms,
        percentile(result.late_ms, 99),
        cpu_ms,
        decide_verdict(result, arm.p99_ms),
    )


def _line(reading: Reading) -> Text:
    colour = "green" if reading.verdict == "held" else "yellow"
    return joined(
        f"{reading.part:<8} {reading.arm:<24} {reading.rate_per_s:7.1f}/s  P50 {reading.p50_ms:7.1f}  "
        f"P99 {reading.p99_ms:8.1f} ms  {reading.server_cpu_ms:5.2f} ms CPU  ",
        styled(reading.verdict, colour),
    )
