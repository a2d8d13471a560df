"""Measures arms of a bench: one run at a rate, and the highest rate that keeps P99; every run is kept as a `Reading`."""

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
LOWEST_PER_S = 1.0  # an arm that does not hold this has no limit


class Pace(NamedTuple):
    """How long is measured; `--quick` shortens it."""

    warm_s: float  # at the start of each run; does not count
    step_s: float  # of a run that counts
    requests: int  # at least; slow arms run for longer
    resolution: float  # the next rate tried and found too high is within this factor


class Arm(NamedTuple):
    """One thing that is measured: what is asked how, and whose CPU time it costs."""

    name: str
    target: Target
    texts: Sequence[str]
    repeat_share: float
    processes: Sequence[psutil.Process]
    guess_per_s: float  # where the first search begins
    p99_ms: float = P99_LIMIT_MS


class Reading(NamedTuple):
    """One run. Latencies are those of good answers; `p99_all_ms` counts failures as slower than any."""

    part: str
    arm: str
    pair: int
    at_s: float  # since the bench began
    seconds: float  # counted
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
    """The time that a bench may take is used up."""


class Meter:
    """Runs loads, one at a time, keeps the readings and says each one on the console; `pair` is set by who measures pairs."""

    def __init__(self, console: Terminal, pace: Pace, *, limit_s: float, seed: int) -> None:
        self.pace = pace
        self.readings: list[Reading] = []
        self.pair = 0
        self._console, self._limit_s, self._begun = console, limit_s, time.monotonic()
        self._seeds: Iterator[int] = iter(np.random.SeedSequence(seed).generate_state(100_000).tolist())

    @property
    def elapsed_s(self) -> float:
        """Since the bench began."""
        return time.monotonic() - self._begun

    def say(self, line: str | Text, style: str = "") -> None:
        """A line with the time before it."""
        minutes, seconds = divmod(int(self.elapsed_s), 60)
        self._console.print(styled(f"{minutes:2d}:{seconds:02d}", "dim"), line if isinstance(line, Text) else styled(line, style))

    def load(self, arm: Arm, rate: float, seconds: float, arrivals: Literal["poisson", "constant"] = "poisson") -> Load:
        """A load of this arm with texts that no cache has seen."""
        return Load(rate, seconds, arrivals, arm.repeat_share, ZIPF_S, next(self._seeds), TIMEOUT_S, CONNECTIONS)

    def run(
        self,
        part: str,
        arm: Arm,
        rate: float,
        *,
        seconds: float | None = None,
        arrivals: Literal["poisson", "constant"] = "poisson",
        hopeless: bool = False,
        check: Check | None = None,
    ) -> Result:
        """One run at this rate; with `hopeless` it ends as soon as it cannot keep the limit. Raises `KeyboardInterrupt`."""
        if self.elapsed_s > self._limit_s:
            raise OutOfTimeError
        counted_s = seconds or max(self.pace.step_s, self.pace.requests / rate)
        give_up = GiveUp(arm.p99_ms / 1000, self.pace.warm_s, int(0.01 * rate * counted_s)) if hopeless else None
        load = self.load(arm, rate, self.pace.warm_s + counted_s, arrivals)
        with self.reading(part, arm, rate) as keep:
            result = run_load(arm.target, arm.texts, load, give_up=give_up, check=check)
            keep(without_warmup(result, self.pace.warm_s))
        if result.interrupted:
            raise KeyboardInterrupt
        return without_warmup(result, self.pace.warm_s)

    @contextmanager
    def reading(self, part: str, arm: Arm, rate: float) -> Iterator[Callable[[Result], None]]:
        """Around a run: what is handed in becomes a reading, with the CPU time that its servers took."""
        at_s, before_s = self.elapsed_s, cpu_s(arm.processes)

        def keep(result: Result) -> None:
            used_ms = 1000 * (cpu_s(arm.processes) - before_s) / max(1, len(result.at_s)) * _counted_share(result)
            self.readings.append(_reading(part, arm, self.pair, at_s, rate, result, used_ms))
            self.say(_line(self.readings[-1]))

        yield keep

    def limit(self, part: str, arm: Arm, start: float, factor: float) -> float:
        """The highest rate at P99 within the limit and without an error; 0: there is none. A miss is repeated once."""

        def holds(rate: float) -> bool:
            return any(decide_verdict(self.run(part, arm, rate, hopeless=True), arm.p99_ms) == "held" for _ in range(2))

        found = search_near(holds, start=start, factor=factor, resolution=self.pace.resolution, lowest=LOWEST_PER_S)
        self.say(f"{arm.name}: {found:.1f}/s at P99 ≤ {arm.p99_ms:g} ms", "bold")
        return found


def search_near(holds: Callable[[float], bool], *, start: float, factor: float, resolution: float, lowest: float) -> float:
    """The highest rate found to hold, 0 when none above `lowest` does.

    From `start` by `factor` up or down until one rate holds and the other does not; then the gap is halved until the two
    are within `resolution`.
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
    """Of the run's seconds, those that count: CPU time is read for all of them."""
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


def _line(one: Reading) -> Text:
    colour = "green" if one.verdict == "held" else "yellow"
    return joined(
        f"{one.part:<8} {one.arm:<24} {one.rate_per_s:7.1f}/s  P50 {one.p50_ms:7.1f}  P99 {one.p99_ms:8.1f} ms"
        f"  {one.server_cpu_ms:5.2f} ms CPU  ",
        styled(one.verdict, colour),
    )
