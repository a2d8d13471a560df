"""Kill Triton, the gateway and a model's process with kill -9 under load, and check that they return by themselves.

Meanwhile callers get 503 or no connection, never a wrong answer, and the rows that the prediction log lost are counted.
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
RETURN_TIMEOUT_S = 30.0  # a killed process that takes longer counts as not replaced
OUTAGE_S = 15.0  # the supervisor waits at most 1 s after a stable minute; then the model is loaded again
TAIL_S = 1.0  # a server whose requests fail in the last second before the next kill is not back
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 (Triton and its stubs share tensors there)
NAMES = {"triton": "Triton", "gateway": "the gateway", "model": "a model's process"}
STATUSES = {"triton": {200, 503}, "gateway": {200, 503, REFUSED, LOST}, "model": {200, 503}}  # allowed statuses meanwhile
FELT = "not answered: it was felt"


class Amount(NamedTuple):
    """Say how much is done."""

    kills: Sequence[str]  # of `NAMES`, in order
    quiet_s: float  # before, between and after
    stretch_s: float  # length of a planned stretch of load


class Kill(NamedTuple):
    """Record a kill."""

    kind: str
    at_s: float  # of the monotonic clock
    replaced_s: float  # until another process replaced it; infinite: none did


class Fault(NamedTuple):
    """Describe a kill as callers saw it, until the next kill."""

    kind: str
    at_s: float
    outage_s: float  # from the kill to the last request without an answer; infinite: it lasted to the end
    not_answered: dict[str, int]  # by status
    not_allowed: int  # of these, with a status that is not allowed


class Log(NamedTuple):
    """Compare the prediction log with the load."""

    answered: int  # answers with 200 that the load got
    cut_off: int  # requests whose connection was lost; the log may have them
    stored: int  # rows
    counted: float  # rows that a killed gateway lost, as the next one reports; NaN: no report

    @property
    def unaccounted(self) -> float:
        """Return the answers that the log neither has nor counts as lost, or the superfluous rows."""
        if isnan(self.counted):
            return inf
        return max(0, self.answered - self.stored - self.counted, self.stored + self.counted - self.answered - self.cut_off)


class Figures(NamedTuple):
    """Hold the figures that decide the verdict."""

    faults: list[Fault]
    wrong: int
    without_retry_after: int
    failed_in_peace: int  # before the first kill
    log: Log
    missing: int  # processes that do not run at the end
    left_mib: float  # shared memory that outlived its processes


def judge(figures: Figures) -> list[Promise]:
    """Return the drill's promises."""
    promises = []
    for kind, name in NAMES.items():
        faults = [fault for fault in figures.faults if fault.kind == kind]
        if faults:
            outage = max(fault.outage_s for fault in faults)
            promises += [
                Promise(f"{name} killed, {len(faults)} x: longest outage", outage, "s", at_most=OUTAGE_S),
                Promise("  ended otherwise than allowed", sum(fault.not_allowed for fault in faults), "requests", at_most=0),
            ]
    return [
        *promises,
        Promise(FELT, sum(map(_not_answered, figures.faults)), "requests", at_least=1),
        Promise("wrong answers", figures.wrong, "answers", at_most=0),
        Promise("503 without Retry-After", figures.without_retry_after, "requests", at_most=0),
        Promise("refused or failed before the first kill", figures.failed_in_peace, "requests", at_most=0),
        Promise("answers neither in the prediction log nor counted as lost", figures.log.unaccounted, "rows", at_most=0),
        Promise("processes that are not there at the end", figures.missing, "processes", at_most=0),
        Promise("shared memory left behind by the killed", figures.left_mib, "MiB", at_most=0),
    ]


def run(running: RunningStack, amount: Amount) -> tuple[Outcome, Timeline]:
    """Run the drill on a stack that serves version 1."""
    rate = LOAD_SHARE * running.capacity_per_s
    running.report(f"{len(amount.kills)} kills under {rate:.0f} requests/s, {LOAD_SHARE:.0%} of capacity")
    before, since = _counts(running), time.time()
    kills: list[Kill] = []
    regions: set[Path] = set()
    with memory.memory_sampled(running.process, 0.5) as samples, progress(running.setting, "kills") as show_progress:

        def work(stop: threading.Event) -> None:
            kill_all(running, amount, kills, regions, stop, show_progress)

        with beside(work) as is_over:
            parts = traffic.repeat_until(is_over, Part(rate, amount.stretch_s, REPEATS))
            folder = running.setting.scratch / "killed-answers"
            sent = traffic.load(running.installation.url, running.setting.texts, parts, folder, lambda _s: None)
    log = read_log(running, sent, since)
    left_mib = remove_regions(regions - _regions(running))
    missing = sum(max(0, before[kind] - count) for kind, count in _counts(running).items())
    wrong, wrong_notes = wrong_answers(running, sent)
    deadline_s = running.installation.params.gateway.deadline_ms / 1000
    failed_in_peace = int((sent.between(0, kills[0].at_s - deadline_s) & ~sent.ok).sum())
    faults = to_faults(kills, sent, on_the_way_s=deadline_s)
    figures = Figures(faults, wrong, sent.without_retry_after, failed_in_peace, log, missing, left_mib)
    marks = [_mark(fault, float(sent.at_s[-1])) for fault in faults]
    return _outcome(running, kills, figures, sent, wrong_notes), Timeline(_title(figures), sent, samples, marks, [])


def kill_all(
    running: RunningStack,
    amount: Amount,
    kills: list[Kill],
    regions: set[Path],
    stop: threading.Event,
    show_progress: Callable[[float], None],
) -> None:
    """Kill the programs in turn, with a pause after each replacement; collect the kills and the shared memory."""
    stop.wait(amount.quiet_s)
    for kind in amount.kills:
        if stop.is_set():
            return
        regions |= _regions(running)
        known = {process.pid for process in stack.programs(running.process)[kind]}
        at_s = time.monotonic()
        psutil.Process(min(known)).kill()  # an empty set fails: the program did not return from the kill before
        running.report(f"{NAMES[kind]} is killed")
        kills.append(Kill(kind, at_s, _seconds_until_replaced(running, kind, known, stop)))
        running.report(f"{NAMES[kind]}: replaced after {shown(kills[-1].replaced_s)} s")
        show_progress(len(kills) / len(amount.kills))
        stop.wait(amount.quiet_s)


def to_faults(kills: Sequence[Kill], sent: Traffic, *, on_the_way_s: float) -> list[Fault]:
    """Return the faults that callers saw; a request may be sent `on_the_way_s` before the server dies."""
    ends = [*(kill.at_s - on_the_way_s for kill in kills[1:]), inf]
    faults = []
    for kill, end_s in zip(kills, ends, strict=True):
        failed = sent.between(kill.at_s - on_the_way_s, end_s) & ~sent.ok
        last_s = float(sent.at_s[failed].max()) if failed.any() else kill.at_s
        is_back = kill.replaced_s < inf and last_s < min(end_s, float(sent.at_s[-1])) - TAIL_S
        outage_s = max(0.0, last_s - kill.at_s) if is_back else inf
        not_allowed = failed & ~np.isin(sent.status, list(STATUSES[kill.kind]))
        faults.append(Fault(kill.kind, kill.at_s, outage_s, sent.by_status(failed), int(not_allowed.sum())))
    return faults


def read_log(running: RunningStack, sent: Traffic, since: float) -> Log:
    """Count the prediction log's rows since then (seconds of the epoch), when all rows are written."""
    with suppress(TimeoutError):
        stack.wait_until(lambda: _metric(running, "waiting") == 0, RETURN_TIMEOUT_S)
    tables = read_tables(
        log_url(running.installation.params.log, running.installation.home), since=since, on_skipped=lambda _path: None
    )
    stored = sum(int((table["time"].to_numpy() >= since).sum()) for table in tables)
    return Log(int(sent.ok.sum()), int((sent.status == LOST).sum()), stored, _metric(running, "rows_lost_before"))


def remove_regions(regions: set[Path]) -> float:
    """Remove the shared memory that its processes left behind; return its size in MiB."""
    left = [region for region in regions if region.exists()]
    mib = sum(region.stat().st_size for region in left) / memory.MIB
    for region in left:
        region.unlink()
    return mib


def _seconds_until_replaced(running: RunningStack, kind: str, known: set[int], stop: threading.Event) -> float:
    """Return the seconds until another process runs and the gateway is ready; infinite when that does not happen."""
    started_s = time.monotonic()
    while time.monotonic() - started_s < RETURN_TIMEOUT_S and not stop.wait(0.25):
        others = [process for process in stack.programs(running.process)[kind] if process.pid not in known]
        if others and stack.is_ready(running.installation):
            return time.monotonic() - started_s
    return inf


def _regions(running: RunningStack) -> set[Path]:
    """Return the shared memory that the models' processes use: their command lines name it."""
    words = [word for process in stack.programs(running.process)["model"] for word in process.cmdline()]
    return {SHARED_MEMORY / word for word in words if word and "/" not in word and (SHARED_MEMORY / word).is_file()}


def _counts(running: RunningStack) -> dict[str, int]:
    return {kind: len(processes) for kind, processes in stack.programs(running.process).items()}


def _metric(running: RunningStack, name: str) -> float:
    """Return a metric of the prediction log from the gateway; NaN when it is missing."""
    gateway = running.installation.params.gateway
    try:
        with urlopen(f"http://{gateway.host}:{gateway.port}/metrics", timeout=10) as page:
            text = page.read().decode()
    except OSError:
        return nan
    match = re.search(rf"^evergreen_prediction_log_{name} (\S+)$", text, re.MULTILINE)
    return float(match[1]) if match else nan


def _outcome(
    running: RunningStack, kills: Sequence[Kill], figures: Figures, sent: Traffic, wrong_notes: Sequence[str]
) -> Outcome:
    log = figures.log
    notes = [
        *(
            f"{NAMES[fault.kind]}: outage {shown(fault.outage_s)} s, replaced after {shown(kill.replaced_s)} s; "
            f"not answered: {fault.not_answered or 'none'}"
            for fault, kill in zip(figures.faults, kills, strict=True)
        ),
        f"{log.answered} answers; the prediction log has {log.stored} rows, and {shown(log.counted)} are counted as lost",
        *wrong_notes,
    ]
    details = {
        "capacity_per_s": running.capacity_per_s,
        "requests": len(sent.at_s),
        "status": sent.by_status(np.ones(len(sent.at_s), dtype=np.bool_)),
        "replaced_s": [kill.replaced_s for kill in kills],
        "late_p99_ms": percentile(sent.late_ms, 99),
    }
    return Outcome("killed", _title(figures), judge(figures), notes, {**figures._asdict(), **details})


def _title(figures: Figures) -> str:
    longest = max(fault.outage_s for fault in figures.faults)
    outage = "a server never came back" if longest == inf else f"longest outage {longest:.1f} s"
    return f"{len(figures.faults)} servers killed: {outage}, {figures.wrong} wrong answers"


def _mark(fault: Fault, end_s: float) -> Mark:
    outage = "never back" if fault.outage_s == inf else f"{fault.outage_s:.1f} s"
    return Mark(f"{NAMES[fault.kind]}: {outage}", fault.at_s, min(end_s, fault.at_s + fault.outage_s))


def _not_answered(fault: Fault) -> int:
    return sum(fault.not_answered.values())
