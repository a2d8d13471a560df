"""Killed servers: Triton, the gateway and a model's process die by kill -9 under load, and come back by themselves.

Meanwhile callers are told 503, or find nobody at home; nobody gets a wrong answer, and the rows that the prediction log lost are
counted.
"""

import re
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from math import inf, isnan, nan
from pathlib import Path
from typing import NamedTuple
from urllib.request import urlopen

import numpy as np
import psutil

from serving.loadtest.result import percentile
from serving.loadtest.sender import LOST, REFUSED
from serving.prediction_log.segments import read_tables
from serving.prediction_log.writer import log_url
from tests.faults import memory, stack, traffic
from tests.faults.open_load import Part
from tests.faults.running_stack import RunningStack, beside, progress, wrong_answers
from tests.faults.scorecard import Outcome, Promise, shown
from tests.faults.timeline import Mark, Timeline
from tests.faults.traffic import Traffic

LOAD_SHARE, REPEATS = 0.3, 0.3  # of capacity; of texts
PATIENCE_S = 30.0  # for one that was killed; it counts as not come back then
OUTAGE_S = 15.0  # a pause of at most 1 s after a minute of life, and loading the model again
TAIL_S = 1.0  # of a fault's time: one that still fails then is not back
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 (where Triton and its stubs share their tensors)
NAMES = {"triton": "Triton", "gateway": "the gateway", "model": "a model's process"}
STATUSES = {"triton": {200, 503}, "gateway": {200, 503, REFUSED, LOST}, "model": {200, 503}}  # what callers may meet meanwhile
FELT = "not answered: it was felt"


class Amount(NamedTuple):
    """How much is done."""

    kills: Sequence[str]  # of `NAMES`, in order
    quiet_s: float  # before, between and after
    stretch_s: float  # of load that is planned at a time


class Kill(NamedTuple):
    """What was done."""

    kind: str
    at_s: float  # of the monotonic clock
    replaced_s: float  # until there was another process instead; infinite: there was none


class Fault(NamedTuple):
    """A kill as callers saw it, from the kill to the next one."""

    kind: str
    at_s: float
    outage_s: float  # from the kill to the last request that was not answered; infinite: some were not until the end
    not_answered: dict[str, int]  # by status
    not_allowed: int  # of these


class Log(NamedTuple):
    """The prediction log afterwards."""

    answered: int  # 200s that the load has seen
    cut_off: int  # requests whose connection was lost: answered and logged, or not
    stored: int  # rows
    counted: float  # rows that the gateway says a killed one had taken and not stored; NaN: it says nothing

    @property
    def unaccounted(self) -> float:
        """Answers of which the log says nothing, or rows too many."""
        if isnan(self.counted):
            return inf
        return max(0, self.answered - self.stored - self.counted, self.stored + self.counted - self.answered - self.cut_off)


class Figures(NamedTuple):
    """What the verdict depends on."""

    faults: list[Fault]
    wrong: int
    without_retry_after: int
    failed_in_peace: int  # before the first kill
    log: Log
    missing: int  # processes that are not there at the end
    left_mib: float  # shared memory that outlived its processes


def judge(figures: Figures) -> list[Promise]:
    """Whatever is killed comes back by itself."""
    made = []
    for kind, name in NAMES.items():
        own = [fault for fault in figures.faults if fault.kind == kind]
        if own:
            outage = max(fault.outage_s for fault in own)
            made += [
                Promise(f"{name} killed, {len(own)} x: longest outage", outage, "s", at_most=OUTAGE_S),
                Promise("  ended otherwise than allowed", sum(fault.not_allowed for fault in own), "requests", at_most=0),
            ]
    return [
        *made,
        Promise(FELT, sum(map(_not_answered, figures.faults)), "requests", at_least=1),
        Promise("wrong answers", figures.wrong, "answers", at_most=0),
        Promise("503 without Retry-After", figures.without_retry_after, "requests", at_most=0),
        Promise("refused or failed before the first kill", figures.failed_in_peace, "requests", at_most=0),
        Promise("answers neither in the prediction log nor counted as lost", figures.log.unaccounted, "rows", at_most=0),
        Promise("processes that are not there at the end", figures.missing, "processes", at_most=0),
        Promise("shared memory left behind by the killed", figures.left_mib, "MiB", at_most=0),
    ]


def run(running: RunningStack, amount: Amount) -> tuple[Outcome, Timeline]:
    """The drill on a stack that serves version 1."""
    rate = LOAD_SHARE * running.capacity_per_s
    running.say(f"{len(amount.kills)} kills under {rate:.0f} requests/s, {LOAD_SHARE:.0%} of capacity")
    before, since = _counts(running), time.time()
    kills: list[Kill] = []
    regions: set[Path] = set()
    with memory.watching(running.process, 0.5) as samples, progress(running.setting, "kills") as tell:

        def work(stop: threading.Event) -> None:
            kill_all(running, amount, kills, regions, stop, tell)

        with beside(work) as is_over:
            parts = traffic.stretches(is_over, Part(rate, amount.stretch_s, REPEATS))
            folder = running.setting.scratch / "killed-said"
            sent = traffic.load(running.installation.url, running.setting.texts, parts, folder, lambda _s: None)
    log = logged(running, sent, since)
    left_mib = removed_mib(regions - _regions(running))
    missing = sum(max(0, before[kind] - now) for kind, now in _counts(running).items())
    wrong, told = wrong_answers(running, sent)
    deadline_s = running.installation.params.gateway.deadline_ms / 1000
    in_peace = int((sent.between(0, kills[0].at_s - deadline_s) & ~sent.ok).sum())
    faults = as_seen(kills, sent, on_the_way_s=deadline_s)
    figures = Figures(faults, wrong, sent.without_retry_after, in_peace, log, missing, left_mib)
    marks = [_mark(fault, float(sent.at_s[-1])) for fault in faults]
    return _outcome(running, kills, figures, sent, told), Timeline(_title(figures), sent, samples, marks, [])


def kill_all(
    running: RunningStack,
    amount: Amount,
    kills: list[Kill],
    regions: set[Path],
    stop: threading.Event,
    tell: Callable[[float], None],
) -> None:
    """Kill one after the other, each in peace, and wait until it is replaced; the kills, and what shared memory there was."""
    stop.wait(amount.quiet_s)
    for kind in amount.kills:
        if stop.is_set():
            return
        regions |= _regions(running)
        known = {process.pid for process in stack.programs(running.process)[kind]}
        at_s = time.monotonic()
        psutil.Process(min(known)).kill()  # one that is missing has not come back from an earlier kill: a fault of the drill
        running.say(f"{NAMES[kind]} is killed")
        kills.append(Kill(kind, at_s, _seconds_until_replaced(running, kind, known, stop)))
        running.say(f"{NAMES[kind]}: another one after {shown(kills[-1].replaced_s)} s")
        tell(len(kills) / len(amount.kills))
        stop.wait(amount.quiet_s)


def as_seen(kills: Sequence[Kill], sent: Traffic, *, on_the_way_s: float) -> list[Fault]:
    """What callers met; a request may be `on_the_way_s` when a server dies, so it may have been meant to be sent before that."""
    ends = [*(kill.at_s - on_the_way_s for kill in kills[1:]), inf]
    found = []
    for kill, end_s in zip(kills, ends, strict=True):
        own = sent.between(kill.at_s - on_the_way_s, end_s) & ~sent.ok
        last_s = float(sent.at_s[own].max()) if own.any() else kill.at_s
        is_back = kill.replaced_s < inf and last_s < min(end_s, float(sent.at_s[-1])) - TAIL_S
        outage_s = max(0.0, last_s - kill.at_s) if is_back else inf
        not_allowed = own & ~np.isin(sent.status, list(STATUSES[kill.kind]))
        found.append(Fault(kill.kind, kill.at_s, outage_s, sent.by_status(own), int(not_allowed.sum())))
    return found


def logged(running: RunningStack, sent: Traffic, since: float) -> Log:
    """The prediction log's rows since then (seconds of the epoch), once nothing waits to be written."""
    with suppress(TimeoutError):
        stack.wait_until(lambda: _metric(running, "waiting") == 0, PATIENCE_S)
    tables = read_tables(
        log_url(running.installation.params.log, running.installation.home), since=since, on_skipped=lambda _path: None
    )
    stored = sum(int((table["time"].to_numpy() >= since).sum()) for table in tables)
    return Log(int(sent.ok.sum()), int((sent.status == LOST).sum()), stored, _metric(running, "rows_lost_before"))


def removed_mib(regions: set[Path]) -> float:
    """MiB of shared memory that is still there, though nobody uses it any more; it is taken away."""
    left = [region for region in regions if region.exists()]
    mib = sum(region.stat().st_size for region in left) / memory.MIB
    for region in left:
        region.unlink()
    return mib


def _seconds_until_replaced(running: RunningStack, kind: str, known: set[int], stop: threading.Event) -> float:
    """From now until another process is there and the gateway is ready; infinite when that does not come."""
    begun_s = time.monotonic()
    while time.monotonic() - begun_s < PATIENCE_S and not stop.wait(0.25):
        others = [one for one in stack.programs(running.process)[kind] if one.pid not in known]
        if others and stack.ready(running.installation):
            return time.monotonic() - begun_s
    return inf


def _regions(running: RunningStack) -> set[Path]:
    """The shared memory that the models' processes use now: its name stands in their command lines."""
    words = [word for process in stack.programs(running.process)["model"] for word in process.cmdline()]
    return {SHARED_MEMORY / word for word in words if word and "/" not in word and (SHARED_MEMORY / word).is_file()}


def _counts(running: RunningStack) -> dict[str, int]:
    return {kind: len(found) for kind, found in stack.programs(running.process).items()}


def _metric(running: RunningStack, name: str) -> float:
    """Of the prediction log, as the gateway tells Prometheus; NaN when it tells nothing."""
    gateway = running.installation.params.gateway
    try:
        with urlopen(f"http://{gateway.host}:{gateway.port}/metrics", timeout=10) as page:
            text = page.read().decode()
    except OSError:
        return nan
    found = re.search(rf"^evergreen_prediction_log_{name} (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else nan


def _outcome(running: RunningStack, kills: Sequence[Kill], figures: Figures, sent: Traffic, told: Sequence[str]) -> Outcome:
    log = figures.log
    notes = [
        *(
            f"{NAMES[fault.kind]}: away for {shown(fault.outage_s)} s, another one after {shown(kill.replaced_s)} s; "
            f"not answered: {fault.not_answered or 'none'}"
            for fault, kill in zip(figures.faults, kills, strict=True)
        ),
        f"{log.answered} answers seen; the prediction log has {log.stored} rows, and {shown(log.counted)} are counted as lost",
        *told,
    ]
    more = {
        "capacity_per_s": running.capacity_per_s,
        "requests": len(sent.at_s),
        "status": sent.by_status(np.ones(len(sent.at_s), dtype=np.bool_)),
        "replaced_s": [kill.replaced_s for kill in kills],
        "late_p99_ms": percentile(sent.late_ms, 99),
    }
    return Outcome("killed", _title(figures), judge(figures), notes, {**figures._asdict(), **more})


def _title(figures: Figures) -> str:
    longest = max(fault.outage_s for fault in figures.faults)
    away = "one never came back" if longest == inf else f"longest outage {longest:.1f} s"
    return f"{len(figures.faults)} servers killed: {away}, {figures.wrong} wrong answers"


def _mark(fault: Fault, end_s: float) -> Mark:
    away = "never back" if fault.outage_s == inf else f"{fault.outage_s:.1f} s"
    return Mark(f"{NAMES[fault.kind]}: {away}", fault.at_s, min(end_s, fault.at_s + fault.outage_s))


def _not_answered(fault: Fault) -> int:
    return sum(fault.not_answered.values())
