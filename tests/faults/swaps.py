"""Swaps under load: versions follow each other again and again, and no caller gets a failed or a wrong answer.

Swaps come in blocks with quiet stretches between them, so that P99 during swaps has its control beside it: the quiet before and
after the same block. The median over blocks is what counts.
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
SETTLE_S = 1.0  # after a block, before quiet is called quiet
GROWTH_MIB = 32.0  # over a whole drill, in a thousand swaps as in ten; what a leak takes is more
STEPS = ("load", "check", "move", "drain", "registry")


class Amount(NamedTuple):
    """How much is done."""

    swaps: int
    quiet_s: float  # before, between and after the blocks
    stretch_s: float  # of load that is planned at a time


class Block(NamedTuple):
    """Swaps without a pause."""

    since_s: float
    until_s: float
    swaps: list[dict[str, Any]]  # what the swapper says of each


class Figures(NamedTuple):
    """What the verdict depends on."""

    asked: int
    done: int
    requests: int  # meant to be sent during swaps
    failed: int  # of all
    wrong: int
    ratio: float  # P99 during swaps / steady: median over blocks
    triton_growth: float  # MiB, from the first quiet stretch to the last
    gateway_growth: float
    astray: int  # sources that do not name the last version at the end


def judge(figures: Figures) -> list[Promise]:
    """S7 of the goals, and that nothing grows."""
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
    """The drill on a stack that serves version 1."""
    rate = LOAD_SHARE * running.capacity_per_s
    running.say(f"{amount.swaps} swaps under {rate:.0f} requests/s, {LOAD_SHARE:.0%} of capacity")
    blocks: list[Block] = []
    log = running.installation.folder / "swapper.log"
    with (
        memory.watching(running.process, 1.0) as samples,
        child(["-m", "tests.faults.swapper"], running.installation.folder, running.installation.home, log) as swapper,
        progress(running.setting, "swaps") as tell,
    ):

        def work(stop: threading.Event) -> None:
            swap_in_blocks(lambda version: swapper.ask(version=version), running, amount, blocks, samples, stop, tell)

        with beside(work) as is_over:
            parts = traffic.stretches(is_over, Part(rate, amount.stretch_s, REPEATS))
            sent = traffic.load(
                running.installation.url, running.setting.texts, parts, running.setting.scratch / "swaps-said", lambda _s: None
            )
    champions = named_champions(running)
    wrong, told = wrong_answers(running, sent)
    return _outcome(running, amount, blocks, sent, samples, champions, wrong, told)


def swap_in_blocks(
    ask: Callable[[int], dict[str, Any]],
    running: RunningStack,
    amount: Amount,
    blocks: list[Block],
    samples: Sequence[Sample],
    stop: threading.Event,
    tell: Callable[[float], None],
) -> None:
    """Swap round the versions, a block after the other, until all is done, one swap fails, or the drill ends."""
    versions = sorted(running.installation.packages)
    following = cycle([*versions[1:], versions[0]])
    done = 0
    stay_quiet(amount.quiet_s, samples, stop)
    for size in block_sizes(amount.swaps):
        swaps: list[dict[str, Any]] = []
        for version in islice(following, size):
            if stop.is_set():
                return
            swaps.append(ask(version))
            done += 1
            tell(done / amount.swaps)
            if "error" in swaps[-1]:
                running.say(f"a swap failed: {swaps[-1]['error']}")
                break
        blocks.append(Block(swaps[0]["began_s"], swaps[-1]["ended_s"], swaps))
        stay_quiet(amount.quiet_s, samples, stop)
        if "error" in swaps[-1]:
            return


def stay_quiet(seconds: float, samples: Sequence[Sample], stop: threading.Event) -> None:
    """Wait; on a busy machine until memory has been sampled twice since the last block has settled."""
    settled_s = time.monotonic() + min(SETTLE_S, seconds)
    stop.wait(seconds)
    while sum(sample.at_s >= settled_s for sample in samples) < 2 and not stop.wait(0.1):
        pass


def block_sizes(swaps: int) -> list[int]:
    """About equal blocks, at most twenty."""
    count = min(MOST_BLOCKS, max(1, swaps // BLOCK_SWAPS))
    return [swaps // count + (number < swaps % count) for number in range(count)]


def named_champions(running: RunningStack) -> dict[str, int]:
    """Return the version that each source calls champion, 0 when it names none or several."""
    poll_s = running.installation.params.gateway.routing_poll_ms / 1000
    entered = stack.entered(running.installation).get("champion", 0)
    try:
        stack.wait_until(lambda: stack.followed(running.installation)["champion"] == entered, 10 * poll_s)
    except TimeoutError:
        running.say("the gateway does not follow")
    loaded = stack.in_triton(running.installation)
    return {
        "release table": entered,
        "registry": stack.aliases(running.installation).get("champion", 0),
        "gateway": int(str(stack.followed(running.installation)["champion"] or 0)),
        "Triton": int(loaded[0].rpartition("-")[2]) if len(loaded) == 1 else 0,
    }


def quiets(blocks: Sequence[Block], sent: Traffic) -> list[tuple[float, float]]:
    """Stretches without a swap: before each block, and after the last one."""
    edges = [float(sent.at_s[0]), *(block.until_s + SETTLE_S for block in blocks)]
    ends = [*(block.since_s for block in blocks), float(sent.at_s[-1])]
    return list(zip(edges, ends, strict=True))


def ratios(blocks: Sequence[Block], sent: Traffic) -> list[tuple[float, float]]:
    """P99 (ms) of each block, and of the quiet before and after it."""
    around = [sent.between(*quiet) for quiet in quiets(blocks, sent)]
    during = [sent.between(block.since_s, block.until_s) for block in blocks]
    return [(sent.p99_ms(own), sent.p99_ms(around[n] | around[n + 1])) for n, own in enumerate(during)]


def levels_of(blocks: Sequence[Block], sent: Traffic, samples: Sequence[Sample], kind: str) -> list[float]:
    """Median memory (MiB) of each quiet stretch."""
    return [memory.middle(samples, kind, *quiet) for quiet in quiets(blocks, sent)]


def slope_of(blocks: Sequence[Block], levels: Sequence[float]) -> float:
    """By how much memory grows with each 100 swaps (MiB), in the second half of the quiet stretches."""
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
    told: Sequence[str],
) -> tuple[Outcome, Timeline]:
    good = [swap for block in blocks for swap in block.swaps if "error" not in swap]
    took_s = np.array([swap["ended_s"] - swap["began_s"] for swap in good])
    pairs = ratios(blocks, sent)
    ratio, low, high = median_interval([during / steady if isfinite(during + steady) else inf for during, steady in pairs])
    levels = {kind: levels_of(blocks, sent, samples, kind) for kind in ("triton", "gateway", "models")}
    slopes = {kind: slope_of(blocks, own) for kind, own in levels.items()}
    last = good[-1]["version"] if good else 0
    swapping = sum(int(sent.between(block.since_s, block.until_s).sum()) for block in blocks)
    figures = Figures(
        asked=amount.swaps,
        done=len(good),
        requests=swapping,
        failed=int((~sent.ok).sum()),
        wrong=wrong,
        ratio=ratio,
        triton_growth=levels["triton"][-1] - levels["triton"][0],
        gateway_growth=levels["gateway"][-1] - levels["gateway"][0],
        astray=sum(version != last for version in champions.values()),
    )
    steady_ms = float(np.median([steady for _, steady in pairs]))
    notes = [
        f"{len(sent.at_s)} requests, {swapping} of them during {len(good)} swaps",
        f"a swap takes {np.median(took_s):.2f} s, P99 {percentile(took_s, 99):.2f} s",
        f"P99 steady {steady_ms:.1f} ms; during swaps {ratio:.2f}x [{low:.2f}, {high:.2f}], {len(pairs)} blocks",
        *(_level_in_words(kind, own, slopes[kind]) for kind, own in levels.items()),
        *told,
    ]
    more = {
        "offered_per_s": LOAD_SHARE * running.capacity_per_s,
        "capacity_per_s": running.capacity_per_s,
        "swap_s": {"median": float(np.median(took_s)), "p99": percentile(took_s, 99)},
        "p99_ms": [{"during": during, "steady": steady} for during, steady in pairs],
        "ratio_interval": [low, high],
        "p99_ms_of_steps": _steps(good, sent),
        "late_p99_ms": percentile(sent.late_ms, 99),
        "memory_mib": levels,
        "memory_mib_each_100_swaps": slopes,
        "champions": champions,
    }
    marks = [Mark(f"{len(block.swaps)} swaps", block.since_s, block.until_s) for block in blocks]
    lines = [Line("steady P99", steady_ms), Line("twice that", 2 * steady_ms)]
    title = f"{len(good)} swaps under load: {figures.failed} failed, {wrong} wrong answers"
    timeline = Timeline(title, sent, samples, marks, lines)
    return Outcome("swaps", title, judge(figures), notes, {**figures._asdict(), **more}), timeline


def _level_in_words(kind: str, levels: Sequence[float], slope: float) -> str:
    first, half, last = levels[0], levels[len(levels) // 2], levels[-1]
    return (
        f"{kind}: {first:.0f} MiB at first, {half:.0f} half way, {last:.0f} at the end; {slope:+.1f} with each 100 swaps by then"
    )


def _steps(swaps: Sequence[Mapping[str, Any]], sent: Traffic) -> dict[str, float]:
    """P99 (ms) of the requests that came during each step of a swap."""
    found = {}
    for name in STEPS:
        among = np.zeros(len(sent.at_s), dtype=np.bool_)
        for swap in swaps:
            if name in swap["steps"]:
                among |= sent.between(*swap["steps"][name])
        found[name] = sent.p99_ms(among)
    return found
