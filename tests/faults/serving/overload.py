"""Overload the stack, then return to normal load; every request gets a status, and nothing grows."""

from collections.abc import Sequence
from math import inf
from typing import Any, NamedTuple

import numpy as np

from serving.loadtest.result import percentile
from tests.faults import memory, traffic
from tests.faults.memory import Sample
from tests.faults.open_load import Part
from tests.faults.running_stack import RunningStack, progress, wrong_answers
from tests.faults.scorecard import Outcome, Promise, shown
from tests.faults.timeline import Line, Mark, Timeline
from tests.faults.traffic import Traffic

NORMAL = 0.5  # of capacity
SETTLE_S = 2.0  # start of a drill, not counted as normal
WINDOW_S, STEP_S = 2.0, 0.25  # P99 is normal again when it is normal in a whole window
NORMAL_RATIO, NORMAL_MS = 2.0, 50.0  # of P99 before the overload; a P99 below NORMAL_MS is always normal
RECOVERY_S, PEAK_MIB, CREEP_MIB = 5.0, 64.0, 8.0
ANSWERED_SHARE = 0.7  # of capacity: refusals take time too
SLACK_MS = 500.0  # after the deadline, by which a text has left the queue: for the call that took it


class Amount(NamedTuple):
    """Say how much is done."""

    normal_s: float  # before and after
    overload_s: float
    times: float  # the capacity, in the overload


class Figures(NamedTuple):
    """Hold the figures that decide the verdict."""

    requests: int  # due in the overload
    refused: int  # of these, with 503
    other: int  # all that ended with neither 200 nor 503
    without_retry_after: int  # all answers of 503 without Retry-After
    failed_before: int  # in normal load, before the overload
    wrong: int
    answered_share: float  # of capacity, in the overload
    accepted_p99_ms: float  # in the overload
    refused_p99_ms: float
    bound_ms: float  # longest wait of a text, and the time of its batch
    recovery_s: float  # until P99 is normal again
    gateway_peak: float  # MiB above the level before: memory of the open connections
    gateway_creep: float  # MiB from the second quarter of the overload to the last: steady growth


def judge(figures: Figures) -> list[Promise]:
    """Return the drill's promises: every request has a status, waiting is bounded, and P99 recovers soon."""
    return [
        Promise("requests in the overload", figures.requests, "requests", at_least=1),
        Promise("refused with 503: it was one", figures.refused, "requests", at_least=1),
        Promise("neither 200 nor 503", figures.other, "requests", at_most=0),
        Promise("503 without Retry-After", figures.without_retry_after, "requests", at_most=0),
        Promise("refused or failed before the overload", figures.failed_before, "requests", at_most=0),
        Promise("wrong answers", figures.wrong, "answers", at_most=0),
        Promise("answered in the overload, of capacity", figures.answered_share, "x", at_least=ANSWERED_SHARE),
        Promise("P99 of the answered ones in the overload", figures.accepted_p99_ms, "ms", at_most=figures.bound_ms),
        Promise("P99 of the refused ones", figures.refused_p99_ms, "ms", at_most=figures.bound_ms),
        Promise("P99 is normal again after", figures.recovery_s, "s", at_most=RECOVERY_S),
        Promise("the gateway grows at most by", figures.gateway_peak, "MiB", at_most=PEAK_MIB),
        Promise("the gateway creeps, within the overload, by", figures.gateway_creep, "MiB", at_most=CREEP_MIB),
    ]


def run(running: RunningStack, amount: Amount) -> tuple[Outcome, Timeline]:
    """Run the drill on a stack with a known capacity."""
    normal, over = (share * running.capacity_per_s for share in (NORMAL, amount.times))
    whole_s = 2 * amount.normal_s + amount.overload_s
    running.report(f"{normal:.0f} requests/s, then {over:.0f} for {amount.overload_s:.0f} s, then {normal:.0f}")
    parts = [
        Part(normal, amount.normal_s, 0.0),
        Part(over, amount.overload_s, 0.0),
        Part(normal, amount.normal_s, 0.0),
    ]
    folder = running.setting.scratch / "overload-answers"
    with memory.memory_sampled(running.process, 0.5) as samples, progress(running.setting, "overload") as show_progress:
        sent = traffic.load(
            running.installation.url, running.setting.texts, iter([parts]), folder, lambda at_s: show_progress(at_s / whole_s)
        )
    wrong, wrong_notes = wrong_answers(running, sent)
    times = times_of(amount, sent)
    normal_ms = percentile(sent.took_ms[sent.between(times.normal_s, times.since_s) & sent.ok], 99)
    levels = {kind: memory_level(samples, kind, times) for kind in ("gateway", "triton", "models")}
    figures = Figures(
        **count_requests(sent, times, running.capacity_per_s),
        wrong=wrong,
        bound_ms=running.installation.params.gateway.deadline_ms + SLACK_MS,
        recovery_s=seconds_until_normal(sent, times.until_s, max(NORMAL_MS, NORMAL_RATIO * normal_ms)),
        gateway_peak=levels["gateway"].peak - levels["gateway"].before,
        gateway_creep=levels["gateway"].late - levels["gateway"].early,
    )
    return _outcome(running, sent, times, figures, normal_ms, levels, wrong_notes), _timeline(
        sent, samples, times, figures, normal_ms
    )


class Times(NamedTuple):
    """Hold the times of the drill's parts, by the monotonic clock."""

    normal_s: float  # P99 counts as normal from here
    since_s: float  # start of the overload
    until_s: float
    end_s: float


class Level(NamedTuple):
    """Hold memory in MiB: medians in normal load and in two quarters of the overload, and the peak."""

    before: float
    early: float  # second quarter
    late: float  # last quarter
    after: float
    peak: float


def times_of(amount: Amount, sent: Traffic) -> Times:
    """Return when the parts of the load began."""
    since_s = sent.began_s + amount.normal_s
    settled_s = sent.began_s + min(SETTLE_S, amount.normal_s / 2)
    return Times(settled_s, since_s, since_s + amount.overload_s, since_s + amount.overload_s + amount.normal_s)


def memory_level(samples: Sequence[Sample], kind: str, times: Times) -> Level:
    """Return the memory of one kind of process."""
    quarter_s = (times.until_s - times.since_s) / 4
    spans = (
        (times.normal_s, times.since_s),
        (times.since_s + quarter_s, times.since_s + 2 * quarter_s),
        (times.until_s - quarter_s, times.until_s),
        ((times.until_s + times.end_s) / 2, times.end_s),
    )
    return Level(
        *(memory.median_between(samples, kind, *span) for span in spans), max(getattr(sample, kind) for sample in samples)
    )


def count_requests(sent: Traffic, times: Times, capacity_per_s: float) -> dict[str, Any]:
    """Count requests by how they ended."""
    before, during = sent.between(times.normal_s, times.since_s), sent.between(times.since_s, times.until_s)
    answered_per_s = float((during & sent.ok).sum()) / (times.until_s - times.since_s)
    return {
        "requests": int(during.sum()),
        "refused": int((during & (sent.status == 503)).sum()),
        "other": int((~sent.ok & (sent.status != 503)).sum()),
        "without_retry_after": sent.without_retry_after,
        "failed_before": int((before & ~sent.ok).sum()),
        "answered_share": answered_per_s / capacity_per_s,
        "accepted_p99_ms": percentile(sent.took_ms[during & sent.ok], 99),
        "refused_p99_ms": percentile(sent.took_ms[during & (sent.status == 503)], 99),
    }


def seconds_until_normal(sent: Traffic, since_s: float, limit_ms: float) -> float:
    """Return the seconds until the first whole window without failures whose P99 is within the limit; infinite if none is."""
    last_s = float(sent.at_s[-1]) - WINDOW_S
    for start_s in np.arange(since_s, last_s, STEP_S):
        window = sent.between(start_s, start_s + WINDOW_S)
        if window.any() and sent.p99_ms(window) <= limit_ms and sent.ok[window].all():
            return float(start_s - since_s)
    return inf


def _outcome(
    running: RunningStack,
    sent: Traffic,
    times: Times,
    figures: Figures,
    normal_ms: float,
    levels: dict[str, Level],
    wrong_notes: list[str],
) -> Outcome:
    refused = sent.between(times.since_s, times.until_s) & ~sent.ok
    offered_per_s = figures.requests / (times.until_s - times.since_s)
    answered_per_s = figures.answered_share * running.capacity_per_s
    refused_p50_ms = percentile(sent.took_ms[refused], 50)
    by_status = sent.by_status(sent.at_s >= sent.began_s)
    notes = [
        f"capacity {running.capacity_per_s:.0f}/s; offered {offered_per_s:.0f}/s, answered {answered_per_s:.0f}/s",
        f"requests by status: {', '.join(f'{status}: {count}' for status, count in by_status.items())}",
        f"a refusal takes {refused_p50_ms:.0f} ms at P50; P99 in normal load {normal_ms:.1f} ms",
        *(f"{kind}: {level.before:.0f}, at most {level.peak:.0f}, {level.after:.0f} MiB" for kind, level in levels.items()),
        *wrong_notes,
    ]
    details = {
        **figures._asdict(),
        "capacity_per_s": running.capacity_per_s,
        "answered_per_s": answered_per_s,
        "refused_p50_ms": refused_p50_ms,
        "normal_p99_ms": normal_ms,
        "status": by_status,
        "late_p99_ms": percentile(sent.late_ms, 99),
        "memory_mib": levels,
    }
    return Outcome("overload", _title(figures), judge(figures), notes, details)


def _title(figures: Figures) -> str:
    share = figures.refused / max(1, figures.requests)
    return f"overload: {share:.0%} refused with 503, {figures.other} lost; P99 normal again after {shown(figures.recovery_s)} s"


def _timeline(sent: Traffic, samples: list[Sample], times: Times, figures: Figures, normal_ms: float) -> Timeline:
    lines = [Line("normal P99", normal_ms), Line("bound", figures.bound_ms)]
    return Timeline(_title(figures), sent, samples, [Mark("overload", times.since_s, times.until_s)], lines)
