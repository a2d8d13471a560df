"""Swap versions repeatedly under load; no caller gets a failed or a wrong answer.

Swaps come in blocks with quiet stretches between them. P99 during a block is compared with P99 in the quiet before and after it,
and the median ratio over the blocks counts.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import cycle, islice
from math import inf, isfinite
from typing import Any, NamedTuple

import numpy as np

from serving.loadtest.result import percentile
from tests.bench.children import child
from tests.bench.report import median_interval
from tests.faults import memory, stack, traffic
from tests.faults.memory import Sample
from tests.faults.open_load import Part
from tests.faults.running_stack import RunningStack, beside, progress, wrong_answers
from tests.faults.scorecard import Outcome, Promise
from tests.faults.timeline import Line, Mark, Timeline
from tests.faults.traffic import Traffic

LOAD_SHARE, REPEATS = 0.3, 0.3  # of capacity; of texts
BLOCK_SWAPS, MOST_BLOCKS = 6, 20
SETTLE_S = 1.0  # after a block, not counted as quiet
GROWTH_MIB = 32.0  # over a whole drill, for ten swaps or a thousand; a leak takes more
STEPS = ("load", "check", "move", "drain", "registry")


class Amount(NamedTuple):
    """Say how much is done."""

    swaps: int
    quiet_s: float  # before, between and after the blocks
    stretch_s: float  # length of a planned stretch of load


class Block(NamedTuple):
    """Record swaps without a pause between them."""

    since_s: float
    until_s: float
    swaps: list[dict[str, Any]]  # the swapper's answer for each


class Figures(NamedTuple):
    """Hold the figures that decide the verdict."""

    asked: int
    done: int
    requests: int  # due during swaps
    failed: int  # of all requests
    wrong: int
    ratio: float  # P99 during swaps / steady: median over blocks
    triton_growth: float  # MiB, from the first quiet stretch to the last
    gateway_growth: float
    astray: int  # sources that name another version than the last at the end


def judge(figures: Figures) -> list[Promise]:
    """Return the drill's promises: S7 of the goals, and that nothing grows."""
    return [
        Promise("swaps that were not done", figures.asked - figures.done, "swaps", at_most=0),
        Promise("requests during swaps", figures.requests, "requests", at_least=1),
        Promise("failed answers", figures.failed, "answers", at_most=0, goal="S7a"),
        Promise("wrong answers", figures.wrong, "answers", at_most=0, goal="S7a"),
        Promise("P99 during swaps / steady", figures.ratio, "x", at_most=2, goal="S7b"),
        Promise("Triton grows by", figures.triton_growth, "MiB", at_most=GROWTH_MIB),
        Promise("the gateway grows by", figures.gateway_growth, "MiB", at_most=GROWTH_MIB),
        Promise("of table, registry, gateway and Triton, do not name the last version", figures.astray, "sources", at_most=0),
    ]


def run(running: RunningStack, amount: Amount) -> tuple[Outcome, Timeline]:
    """Run the drill on a stack that serves version 1."""
    rate = LOAD_SHARE * running.capacity_per_s
    running.report(f"{amount.swaps} swaps under {rate:.0f} requests/s, {LOAD_SHARE:.0%} of capacity")
    blocks: list[Block] = []
    log = running.installation.folder / "swapper.log"
    with (
        memory.memory_sampled(running.process, 1.0) as samples,
        child(["-m", "tests.faults.serving.swapper"], running.installation.folder, running.installation.home, log) as swapper,
        progress(running.setting, "swaps") as show_progress,
    ):

        def work(stop: threading.Event) -> None:
            swap_in_blocks(lambda version: swapper.ask(version=version), running, amount, blocks, samples, stop, show_progress)

        with beside(work) as is_over:
            parts = traffic.repeat_until(is_over, Part(rate, amount.stretch_s, REPEATS))
            sent = traffic.load(
                running.installation.url, running.setting.texts, parts, running.setting.scratch / "swaps-answers", lambda _s: None
            )
    champions = named_champions(running)
    wrong, wrong_notes = wrong_answers(running, sent)
    return _outcome(running, amount, blocks, sent, samples, champions, wrong, wrong_notes)


def swap_in_blocks(
    swap: Callable[[int], dict[str, Any]],
    running: RunningStack,
    amount: Amount,
    blocks: list[Block],
    samples: Sequence[Sample],
    stop: threading.Event,
    show_progress: Callable[[float], None],
) -> None:
    """Swap through the versions in blocks, until all swaps are done, a swap fails, or the drill ends."""
    versions = sorted(running.installation.packages)
    next_versions = cycle([*versions[1:], versions[0]])
    done = 0
    stay_quiet(amount.quiet_s, samples, stop)
    for size in block_sizes(amount.swaps):
        swaps: list[dict[str, Any]] = []
        for version in islice(next_versions, size):
            if stop.is_set():
                return
            swaps.append(swap(version))
            done += 1
            show_progress(done / amount.swaps)
            if "error" in swaps[-1]:
                running.report(f"a swap failed: {swaps[-1]['error']}")
                break
        blocks.append(Block(swaps[0]["began_s"], swaps[-1]["ended_s"], swaps))
        stay_quiet(amount.quiet_s, samples, stop)
        if "error" in swaps[-1]:
            return


def stay_quiet(seconds: float, samples: Sequence[Sample], stop: threading.Event) -> None:
    """Wait, on a busy machine until memory has been sampled twice since the last block settled."""
    settled_s = time.monotonic() + min(SETTLE_S, seconds)
    stop.wait(seconds)
    while sum(sample.at_s >= settled_s for sample in samples) < 2 and not stop.wait(0.1):
        pass


def block_sizes(swaps: int) -> list[int]:
    """Return at most twenty blocks of about equal size."""
    count = min(MOST_BLOCKS, max(1, swaps // BLOCK_SWAPS))
    return [swaps // count + (number < swaps % count) for number in range(count)]


def named_champions(running: RunningStack) -> dict[str, int]:
    """Return the version that each source calls champion, 0 when it names none or several."""
    poll_s = running.installation.params.gateway.routing_poll_ms / 1000
    champion = stack.release_roles(running.installation).get("champion", 0)
    try:
        stack.wait_until(lambda: stack.gateway_routes(running.installation)["champion"] == champion, 10 * poll_s)
    except TimeoutError:
        running.report("the gateway does not follow")
    models = stack.triton_models(running.installation)
    return {
        "release table": champion,
        "registry": stack.registry_roles(running.installation).get("champion", 0),
        "gateway": int(str(stack.gateway_routes(running.installation)["champion"] or 0)),
        "Triton": int(models[0].rpartition("-")[2]) if len(models) == 1 else 0,
    }


def quiet_stretches(blocks: Sequence[Block], sent: Traffic) -> list[tuple[float, float]]:
    """Return the stretches without a swap: before each block, and after the last."""
    starts = [float(sent.at_s[0]), *(block.until_s + SETTLE_S for block in blocks)]
    ends = [*(block.since_s for block in blocks), float(sent.at_s[-1])]
    return list(zip(starts, ends, strict=True))


def ratios(blocks: Sequence[Block], sent: Traffic) -> list[tuple[float, float]]:
    """Return P99 (ms) of each block, and of the quiet before and after it."""
    around = [sent.between(*quiet) for quiet in quiet_stretches(blocks, sent)]
    during = [sent.between(block.since_s, block.until_s) for block in blocks]
    return [(sent.p99_ms(block), sent.p99_ms(around[n] | around[n + 1])) for n, block in enumerate(during)]


def quiet_levels(blocks: Sequence[Block], sent: Traffic, samples: Sequence[Sample], kind: str) -> list[float]:
    """Return the median memory (MiB) of each quiet stretch."""
    return [memory.median_between(samples, kind, *quiet) for quiet in quiet_stretches(blocks, sent)]


def growth_per_100_swaps(blocks: Sequence[Block], levels: Sequence[float]) -> float:
    """Return the growth of memory with each 100 swaps (MiB), in the second half of the quiet stretches."""
    swaps = np.cumsum([0, *(len(block.swaps) for block in blocks)]).tolist()
    half = (len(levels) - 1) // 2
    return 100 * memory.slope(swaps[half:], levels[half:])


def _outcome(
    running: RunningStack,
    amount: Amount,
    blocks: Sequence[Block],
    sent: Traffic,
    samples: Sequence[Sample],
    champions: Mapping[str, int],
    wrong: int,
    wrong_notes: Sequence[str],
) -> tuple[Outcome, Timeline]:
    done = [swap for block in blocks for swap in block.swaps if "error" not in swap]
    durations_s = np.array([swap["ended_s"] - swap["began_s"] for swap in done])
    pairs = ratios(blocks, sent)
    ratio, low, high = median_interval([during / steady if isfinite(during + steady) else inf for during, steady in pairs])
    levels = {kind: quiet_levels(blocks, sent, samples, kind) for kind in ("triton", "gateway", "models")}
    slopes = {kind: growth_per_100_swaps(blocks, values) for kind, values in levels.items()}
    last_version = done[-1]["version"] if done else 0
    during_swaps = sum(int(sent.between(block.since_s, block.until_s).sum()) for block in blocks)
    figures = Figures(
        asked=amount.swaps,
        done=len(done),
        requests=during_swaps,
        failed=int((~sent.ok).sum()),
        wrong=wrong,
        ratio=ratio,
        triton_growth=levels["triton"][-1] - levels["triton"][0],
        gateway_growth=levels["gateway"][-1] - levels["gateway"][0],
        astray=sum(version != last_version for version in champions.values()),
    )
    steady_ms = float(np.median([steady for _, steady in pairs]))
    notes = [
        f"{len(sent.at_s)} requests, {during_swaps} of them during {len(done)} swaps",
        f"a swap takes {np.median(durations_s):.2f} s, P99 {percentile(durations_s, 99):.2f} s",
        f"P99 steady {steady_ms:.1f} ms; during swaps {ratio:.2f}x [{low:.2f}, {high:.2f}], {len(pairs)} blocks",
        *(_describe_levels(kind, values, slopes[kind]) for kind, values in levels.items()),
        *wrong_notes,
    ]
    details = {
        "offered_per_s": LOAD_SHARE * running.capacity_per_s,
        "capacity_per_s": running.capacity_per_s,
        "swap_s": {"median": float(np.median(durations_s)), "p99": percentile(durations_s, 99)},
        "p99_ms": [{"during": during, "steady": steady} for during, steady in pairs],
        "ratio_interval": [low, high],
        "p99_ms_of_steps": _p99_by_step(done, sent),
        "late_p99_ms": percentile(sent.late_ms, 99),
        "memory_mib": levels,
        "memory_mib_each_100_swaps": slopes,
        "champions": champions,
    }
    marks = [Mark(f"{len(block.swaps)} swaps", block.since_s, block.until_s) for block in blocks]
    lines = [Line("steady P99", steady_ms), Line("twice that", 2 * steady_ms)]
    title = f"{len(done)} swaps under load: {figures.failed} failed, {wrong} wrong answers"
    timeline = Timeline(title, sent, samples, marks, lines)
    return Outcome("swaps", title, judge(figures), notes, {**figures._asdict(), **details}), timeline


def _describe_levels(kind: str, levels: Sequence[float], slope: float) -> str:
    first, half, last = levels[0], levels[len(levels) // 2], levels[-1]
    return f"{kind}: {first:.0f} MiB at first, {half:.0f} half way, {last:.0f} at the end; then {slope:+.1f} with each 100 swaps"


def _p99_by_step(swaps: Sequence[Mapping[str, Any]], sent: Traffic) -> dict[str, float]:
    """Return P99 (ms) of the requests due during each step of a swap."""
    p99_ms = {}
    for name in STEPS:
        among = np.zeros(len(sent.at_s), dtype=np.bool_)
        for swap in swaps:
            if name in swap["steps"]:
                among |= sent.between(*swap["steps"][name])
        p99_ms[name] = sent.p99_ms(among)
    return p99_ms
