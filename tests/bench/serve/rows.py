"""Measure the rows of the serving bench: capacities by round, latencies, and swaps under load."""

import statistics
import threading
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from serving.loadtest import Answer, Result, run_load, without_warmup
from tests.bench.children import Child, Stack, child
from tests.bench.meter import Arm, Meter
from tests.bench.report import Ratio, Row, median_interval, paired_ratio
from tests.bench.serve.arms import LADDER
from tests.bench.serve.scratch import SUFFIX

SWAP_SHARE, QUIET_PER_S = 0.3, 20.0
OVERLOAD, CLIENTS = 3.0, 32  # a rate above the naive server's capacity, from clients that wait for each answer
BOUND = "ONNX Runtime in fp32, sorted batches of 32"
OFFLINE: dict[str, tuple[int, str | None]] = {
    BOUND: (32, "onnxruntime-fp32"),
    "ONNX Runtime in fp32, one at a time": (1, "onnxruntime-fp32"),
    "the session that serves, sorted batches of 32": (32, None),
}


class Bench(NamedTuple):
    """Hold the running servers and the settings of the measurement."""

    meter: Meter
    arms: dict[str, Arm]
    cached: Stack
    offline: Child  # runs the session without a server
    pairs: int
    swaps: int


class Measurements(NamedTuple):
    """Collect capacities by arm, one for each round, and the finished rows."""

    limits: dict[str, list[float]]
    rows: list[Row]


def measure(bench: Bench, measured: Measurements) -> None:
    """Measure everything, the most important first."""
    offline: dict[str, list[float]] = {name: [] for name in OFFLINE}
    compared = [*LADDER[:1], *LADDER[3:], "triton, mixed lengths", "padded, mixed lengths"]
    for pair in range(bench.pairs):
        bench.meter.pair = pair
        for name, (batch, session) in OFFLINE.items():
            answer = bench.offline.ask(speed=bench.meter.pace.step_s, batch=batch, session=session)
            offline[name].append(answer["texts_per_s"])
        for name in compared:
            measure_limit(bench, name, measured)
    capacities(measured, offline)
    latencies(bench, measured)
    swaps(bench, measured)
    for name in ("triton, no batching", "triton, padded fp32"):
        measure_limit(bench, name, measured)


def measure_limit(bench: Bench, name: str, measured: Measurements) -> None:
    """Measure an arm's capacity once more, near the last value."""
    known, arm = measured.limits.setdefault(name, []), bench.arms[name]
    start = next((limit for limit in reversed(known) if limit > 0), arm.guess_per_s)
    known.append(max(bench.meter.limit("capacity", arm, start, 1.5 if not known else bench.meter.pace.resolution), 1e-9))


def capacities(measured: Measurements, offline: dict[str, list[float]]) -> None:
    """Add the rows that compare capacities of the same rounds."""
    limits = measured.limits
    bound = offline[BOUND]
    without, mixed, padded = (
        limits[name] for name in ("gateway, no cache, repeats", "triton, mixed lengths", "padded, mixed lengths")
    )
    for goal, what, ours, control, theirs in (
        ("S1a", "Triton, QPS at P99 ≤ 50 ms, no cache", limits["triton"], "FastAPI + torch", limits["naive"]),
        ("S1b", "Triton, QPS at P99 ≤ 50 ms, no cache", limits["triton"], "ONNX Runtime offline, sorted", bound),
        ("S3a", "60 % repeats, gateway with its cache", limits["gateway, repeats"], "without", without),
        ("S4", "mixed lengths, text in, QPS at P99 ≤ 500 ms", mixed, "Triton's batching of padded requests", padded),
        ("S6b", "gateway, QPS at P99 ≤ 50 ms, no cache", limits["gateway"], "Triton alone", limits["triton"]),
    ):  # fmt: skip
        measured.rows.append(row(goal, what, "requests/s", ours, control, theirs))
    limits |= {f"offline, {name}": values for name, values in offline.items()}


def measure_saturation(bench: Bench, measured: Measurements) -> float:
    """Return how many requests a second the naive server answers, however late, when CLIENTS always wait for it.

    With more clients it answers none before the run ends: its threads keep the event loop from the processor.
    """
    meter, arm, rate = bench.meter, bench.arms["naive"], OVERLOAD * statistics.median(measured.limits["naive"])
    since_s, until_s = meter.pace.warm_s, meter.pace.warm_s + 2 * meter.pace.step_s
    answered = []
    for _ in range(3):
        with meter.reading("S2", arm, rate) as record:
            result = run_load(arm.target, arm.texts, meter.load(arm, rate, until_s)._replace(connections=CLIENTS))
            record(without_warmup(result, since_s))
        arrived_s = result.at_s + result.latency_ms / 1000
        answered.append(float(((arrived_s > since_s) & (arrived_s <= until_s)).sum()) / (until_s - since_s))
    measured.limits["naive, all it can answer, however late"] = answered
    return statistics.median(answered)


def latencies(bench: Bench, measured: Measurements) -> None:
    """Add the rows on P99 near the naive server's capacity, on the gateway's own latency, and on the cost of a cache miss."""
    meter, arms = bench.meter, bench.arms
    rate = 0.9 * measure_saturation(bench, measured)
    p99: dict[str, list[float]] = {"naive": [], "gateway": []}
    p50: dict[str, list[float]] = {"triton": [], "gateway": [], "gateway, cache, no repeats": []}
    for pair in range(bench.pairs):
        meter.pair = pair
        for name, values in p99.items():
            values.append(meter.run("S2", arms[name], rate, seconds=2 * meter.pace.step_s).p99_all_ms)
        for name, values in p50.items():
            result = meter.run("S6a", arms[name], QUIET_PER_S, seconds=2 * meter.pace.step_s, arrivals="constant")
            values.append(float(np.median(result.latency_ms[result.ok])))
    measured.rows.append(
        row(
            "S2",
            f"gateway, P99 at {rate:.0f}/s, 0.9x of all that naive can answer",
            "ms",
            p99["gateway"],
            "FastAPI + torch",
            p99["naive"],
            less=True,
        )
    )
    added = [a - b for a, b in zip(p50["gateway"], p50["triton"], strict=True)]
    middle, low, high = median_interval(added)
    what = f"the gateway adds at P50, {QUIET_PER_S:.0f} requests/s [{low:.2f}, {high:.2f}]"
    triton_ms = statistics.median(p50["triton"])
    measured.rows.append(Row("S6a", what, middle, "ms", "Triton alone, P50 ms", triton_ms, None, len(added)))
    measured.rows.append(
        row(
            "S3b",
            "P50 of a miss with the caches on",
            "ms",
            p50["gateway, cache, no repeats"],
            "caches off",
            p50["gateway"],
            less=True,
        )
    )


def swaps(bench: Bench, measured: Measurements) -> None:
    """Swap versions under load; each label is checked against the version that the answer names."""
    capacity = statistics.median(measured.limits["gateway"])
    rate, arm = SWAP_SHARE * capacity, bench.arms["gateway, cache, no repeats"]
    steady = [bench.meter.run("S7", arm, rate, seconds=2 * bench.meter.pace.step_s).p99_all_ms for _ in range(3)]
    durations_s: list[float] = []
    errors: list[str] = []
    home = bench.cached.home
    with child(["-m", "tests.faults.serving.swapper"], bench.cached.folder, home, home / "swaps.log") as swapper:
        done = threading.Event()

        def work() -> None:
            for number in range(bench.swaps):
                outcome = swapper.ask(version=2 - number % 2)
                if "error" in outcome:
                    errors.append(str(outcome["error"]))
                    break
                durations_s.append(float(outcome["ended_s"]) - float(outcome["began_s"]))
            done.set()

        threading.Thread(target=work, daemon=True).start()
        results: list[Result] = []
        while not done.is_set():
            load = bench.meter.load(arm, rate, 10.0)
            results.append(run_load(arm.target, arm.texts, load, check=lambda _text, answer: is_of_version(answer)))
    runs = [without_warmup(result, 0.0) for result in results]
    failed = sum(run.failed for run in runs)
    wrong = sum(int(run.wrong.sum()) for run in runs if run.wrong is not None)
    requests = sum(len(run.at_s) for run in runs)
    for error in errors:
        bench.meter.report(f"a swap failed: {error}", "red")
    swap_s = statistics.median(durations_s) if durations_s else float("nan")
    what = f"failed or wrong answers of {requests} during {len(durations_s)} swaps ({swap_s:.1f} s each)"
    measured.rows.append(Row("S7a", what, float(failed + wrong + len(errors)), "answers", "", None, None, len(durations_s)))
    latencies_ms = np.concatenate([np.nan_to_num(run.latency_ms, nan=1e9) for run in runs])
    ratio = float(np.percentile(latencies_ms, 99)) / statistics.median(steady)
    measured.rows.append(
        Row(
            "S7b",
            f"P99 during swaps / steady, {rate:.0f} requests/s",
            ratio,
            "x",
            "steady P99 ms",
            statistics.median(steady),
            None,
            1,
        )
    )


def is_of_version(answer: Answer) -> bool:
    """Return whether the label belongs to the version: those of version 2 have a suffix."""
    return bool(str(answer.label).endswith(SUFFIX) == (answer.version == "2"))


def row(
    goal: str, what: str, unit: str, ours: Sequence[float], control: str, theirs: Sequence[float], *, less: bool = False
) -> Row:
    """Return a row with both medians and the ratio of pairs; `less`: smaller is better."""
    ratio: Ratio = paired_ratio(theirs, ours) if less else paired_ratio(ours, theirs)
    return Row(goal, what, statistics.median(ours), unit, control, statistics.median(theirs), ratio, len(ours))
