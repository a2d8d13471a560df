"""Run `make bench-serve`: goals S1a to S7b of serving, with open-loop load and latencies from the intended send time.

Each round measures every arm once, in turn, and a ratio compares the readings of one round, so that a slow minute of the machine
affects both. A capacity is the highest rate at P99 ≤ 50 ms without an error; its search starts from that of the last round in
steps of a tenth, and a rate that misses is tried once more. All servers run during the whole bench, and only one is under load
at a time. Their homes of state are made from artifacts/package.
"""

import argparse
import json
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
from matplotlib.figure import Figure
from rich.table import Table
from tokenizers import Tokenizer

from pipeline.charts import GREEN, GREY
from pipeline.data.records import json_values
from pipeline.errors import InputError, run_stage
from pipeline.output.terminal import Terminal, styled
from pipeline.params import Params, load_params
from pipeline.runtime.batches import pad
from pipeline.runtime.text import clean
from serving.loadtest import (
    Answer,
    Result,
    Target,
    gateway_target,
    http_target,
    read_texts,
    run_load,
    triton_target,
    without_warmup,
)
from serving.processes.ports import free_port
from tests.bench.children import Stack, child, clear_settings, server, stack
from tests.bench.meter import Arm, Meter, OutOfTimeError, Pace
from tests.bench.report import Bar, Ratio, Row, draw_ratios, median_interval, paired_ratio, table, write
from tests.bench.scratch import FIXED, PLAIN_FP32, SUFFIX, UNBATCHED

TEXTS = (Path("../shared/data/banking77/test.csv"), Path("data/support_desk.jsonl"))
PACKAGE, MODEL, LOCK, SESSIONS = (
    Path(name) for name in ("artifacts/package", "artifacts/model", "dvc.lock", "artifacts/session/session.json")
)
OUTPUTS = ("label", "probabilities")
REPEATS, LONG_SHARE, SWAP_SHARE, QUIET_PER_S = 0.6, 0.1, 0.3, 20.0
OVERLOAD, CLIENTS = 3.0, 32  # a rate above the naive server's capacity, from clients that wait for each answer
MIXED_P99_MS = 500.0  # requests padded to max_pieces keep 50 ms at no rate: S4 uses a limit that both can keep
TIE = 1e-3  # two classes closer than this are both right: padding of a batch changes the last digits
BARS = {
    "S1a": Bar("ratio", at_least=8), "S1b": Bar("ratio", at_least=0.7), "S2": Bar("ratio", at_least=10),
    "S3a": Bar("ratio", at_least=2), "S3b": Bar("ratio", at_least=0.97), "S4": Bar("ratio", at_least=2),
    "S6a": Bar("value", at_most=1.5), "S6b": Bar("ratio", at_least=0.85),
    "S7a": Bar("value", at_most=0), "S7b": Bar("value", at_most=2),
}  # fmt: skip
BOUND = "ONNX Runtime in fp32, sorted batches of 32"
OFFLINE: dict[str, tuple[int, str | None]] = {
    BOUND: (32, "onnxruntime-fp32"),
    "ONNX Runtime in fp32, one at a time": (1, "onnxruntime-fp32"),
    "the session that serves, sorted batches of 32": (32, None),
}
LADDER = (
    "naive",
    "triton, no batching",
    "triton, padded fp32",
    "triton",
    "gateway",
    "gateway, no cache, repeats",
    "gateway, repeats",
)


class Bench(NamedTuple):
    """Hold the running servers and the settings of the measurement."""

    meter: Meter
    arms: dict[str, Arm]
    plain: Stack
    cached: Stack
    offline: "Offline"
    pairs: int
    swaps: int


class Offline(NamedTuple):
    """Ask the child that runs the session without a server."""

    ask: Callable[..., dict[str, Any]]

    def texts_per_s(self, seconds: float, batch: int, session: str | None) -> float:
        """Return the speed on batches sorted by length, or on single texts; None is the packaged session."""
        return float(self.ask(speed=seconds, batch=batch, session=session)["texts_per_s"])

    def labels(self, texts: Sequence[str]) -> list[set[str]]:
        """Return the right labels of each text."""
        return [set(labels) for labels in self.ask(labels=list(texts))["labels"]]


class Measurements(NamedTuple):
    """Collect capacities by arm, one for each round, and the finished rows."""

    limits: dict[str, list[float]]
    rows: list[Row]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=Path, default=next((path for path in TEXTS if path.is_file()), TEXTS[-1]))
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--swaps", type=int, default=50)
    parser.add_argument("--quick", action="store_true", help="short runs to try the bench; the figures mean nothing")
    parser.add_argument("--out", type=Path, default=Path("reports/bench"))
    args = parser.parse_args()
    for path, command in ((PACKAGE, "make repro"), (MODEL, "make repro"), (LOCK, "make repro")):
        if not path.exists():
            raise InputError(str(path), "it does not exist", f"run first: {command}")
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell starts background jobs with SIGINT ignored
        signal.signal(number, signal.default_int_handler)
    clear_settings()
    params, console = load_params(), Terminal(soft_wrap=True, width=160)
    texts = read_texts(args.texts, params.data)
    pace = Pace(0.5, 1.0, 20, 1.3) if args.quick else Pace(1.0, 3.5, 150, 1.1)
    meter = Meter(console, pace, limit_s=25 * 60, seed=int(np.random.default_rng().integers(2**31)))
    console.print(f"{len(texts)} texts of {args.texts}; {args.pairs} rounds; at most 25 minutes")
    measured = Measurements({}, [])
    with tempfile.TemporaryDirectory(prefix="evergreen-bench-") as scratch:
        try:
            with running(Path(scratch), params, texts, meter, args.pairs, args.swaps) as bench:
                measure(bench, texts, measured)
        except (KeyboardInterrupt, OutOfTimeError) as error:
            console.print(styled(f"stopped ({type(error).__name__}); what was measured so far is written", "yellow"))
    finish(measured, meter, args.out, console, str(args.texts))


@contextmanager
def running(scratch: Path, params: Params, texts: Sequence[str], meter: Meter, pairs: int, swaps: int) -> Iterator[Bench]:
    """Start every server that is measured."""
    meter.report("two scratch homes of state from artifacts/package")
    (scratch / "texts.json").write_text(json.dumps(list(texts)), encoding="utf-8")
    arguments = ["-m", "tests.bench.scratch", "--package", str(PACKAGE), "--lock", str(LOCK), "--out", str(scratch)]
    run_program(arguments, scratch / "scratch.log")
    with ExitStack() as servers:
        plain_home, cached_home = scratch / "plain", scratch / "cached"
        models = ["intent-1", UNBATCHED, PLAIN_FP32, FIXED]
        plain = servers.enter_context(stack(plain_home, params, models=models, cache_bytes=0))
        cached = servers.enter_context(stack(cached_home, params, models=["intent-1"], cache_bytes=params.gateway.cache_bytes))
        port = free_port()
        naive = servers.enter_context(
            server(
                ["-m", "tests.bench.naive_server", "--model", str(MODEL), "--port", str(port)],
                f"http://127.0.0.1:{port}/docs",
                scratch / "naive.log",
            )
        )
        settings = ["--package", str(PACKAGE), "--texts", str(scratch / "texts.json"), "--tie", str(TIE)]
        log = scratch / "offline.log"
        offline = servers.enter_context(child(["-m", "tests.bench.offline", *settings], Path.cwd(), None, log))
        arms = make_arms(plain, cached, naive, f"http://127.0.0.1:{port}/predict", texts)
        yield Bench(meter, arms, plain, cached, Offline(offline.ask), pairs, swaps)


def run_program(arguments: Sequence[str], log: Path) -> None:
    """Run a Python program to its end; raise `InputError` when it fails."""
    with log.open("w", encoding="utf-8") as out:
        done = subprocess.run([sys.executable, *arguments], stdout=out, stderr=out)
    if done.returncode:
        raise InputError(str(log), log.read_text(encoding="utf-8")[-500:], "fix what the log reports")


def make_arms(plain: Stack, cached: Stack, naive: psutil.Process, naive_url: str, texts: Sequence[str]) -> dict[str, Arm]:
    """Return the arms by name; each has a guess from which the first search starts."""
    mixed = mix(texts)
    naive_target = http_target(naive_url, method="POST", template='{"text": "{text}"}', headers={}, label="label")
    triton = triton_target(plain.triton_url, "intent-1", outputs=OUTPUTS, headers={})
    unbatched, padded_fp32 = (
        triton_target(plain.triton_url, name, outputs=OUTPUTS, headers={}) for name in (UNBATCHED, PLAIN_FP32)
    )
    padded = padded_target(plain)
    gateway, with_cache = (gateway_target(home.gateway_url, units=0, headers={}) for home in (plain, cached))
    on_plain, on_cached, on_naive = plain.processes, cached.processes, (naive,)
    arms = (
        Arm("naive", naive_target, texts, 0.0, on_naive, 25.0),
        Arm("triton", triton, texts, 0.0, on_plain, 150.0),
        Arm("triton, no batching", unbatched, texts, 0.0, on_plain, 120.0),
        Arm("triton, padded fp32", padded_fp32, texts, 0.0, on_plain, 120.0),
        Arm("triton, mixed lengths", triton, mixed, 0.0, on_plain, 100.0, MIXED_P99_MS),
        Arm("padded, mixed lengths", padded, mixed, 0.0, on_plain, 15.0, MIXED_P99_MS),
        Arm("gateway", gateway, texts, 0.0, on_plain, 150.0),
        Arm("gateway, no cache, repeats", gateway, texts, REPEATS, on_plain, 150.0),
        Arm("gateway, repeats", with_cache, texts, REPEATS, on_cached, 300.0),
        Arm("gateway, cache, no repeats", with_cache, texts, 0.0, on_cached, 150.0),
    )
    return {arm.name: arm for arm in arms}


def mix(texts: Sequence[str]) -> list[str]:
    """Replace a tenth of the texts with long ones made of eight: a desk gets chats and letters."""
    rng = np.random.default_rng(4)
    return [" ".join(rng.choice(texts, size=8)) if rng.random() < LONG_SHARE else text for text in texts]


def padded_target(plain: Stack) -> Target:
    """Send KServe v2 requests of pieces that the client pads to `model.max_pieces`, for Triton's own dynamic batching."""
    length = plain.params.model.max_pieces
    tokenizer = Tokenizer.from_file(str(PACKAGE / "1" / "tokenizer.json"))
    tokenizer.enable_truncation(length)
    tokenizer.no_padding()
    text_target = triton_target(plain.triton_url, FIXED, outputs=OUTPUTS, headers={})

    def body(text: str, _number: int) -> bytes:
        rows = {name: array[0] for name, array in pad([tokenizer.encode(clean(text)).ids]).items()}
        inputs = [
            {"name": name, "shape": [1, length], "datatype": "INT64", "data": np.pad(row, (0, length - len(row))).tolist()}
            for name, row in rows.items()
        ]
        outputs = [{"name": name, "parameters": {"binary_data": True}} for name in OUTPUTS]
        return json.dumps({"inputs": inputs, "outputs": outputs}).encode()

    return Target(FIXED, text_target.url, "POST", text_target.headers, body, text_target.read)


def measure(bench: Bench, texts: Sequence[str], measured: Measurements) -> None:
    """Measure everything, the most important first."""
    offline: dict[str, list[float]] = {name: [] for name in OFFLINE}
    compared = [*LADDER[:1], *LADDER[3:], "triton, mixed lengths", "padded, mixed lengths"]
    for pair in range(bench.pairs):
        bench.meter.pair = pair
        for name, (batch, session) in OFFLINE.items():
            offline[name].append(bench.offline.texts_per_s(bench.meter.pace.step_s, batch, session))
        for name in compared:
            measure_limit(bench, name, measured)
    capacities(measured, offline, bench.pairs)
    latencies(bench, measured)
    swaps(bench, texts, measured)
    for name in ("triton, no batching", "triton, padded fp32"):
        measure_limit(bench, name, measured)


def measure_limit(bench: Bench, name: str, measured: Measurements) -> None:
    """Measure an arm's capacity once more, near the last value."""
    known, arm = measured.limits.setdefault(name, []), bench.arms[name]
    start = next((limit for limit in reversed(known) if limit > 0), arm.guess_per_s)
    known.append(max(bench.meter.limit("capacity", arm, start, 1.5 if not known else bench.meter.pace.resolution), 1e-9))


def capacities(measured: Measurements, offline: dict[str, list[float]], pairs: int) -> None:
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


def swaps(bench: Bench, texts: Sequence[str], measured: Measurements) -> None:
    """Swap versions under load; each label is checked against the version that the answer names."""
    capacity = statistics.median(measured.limits["gateway"])
    rate, arm = SWAP_SHARE * capacity, bench.arms["gateway, cache, no repeats"]
    steady = [bench.meter.run("S7", arm, rate, seconds=2 * bench.meter.pace.step_s).p99_all_ms for _ in range(3)]
    durations_s: list[float] = []
    errors: list[str] = []
    home = bench.cached.home
    with child(["-m", "tests.faults.swapper"], bench.cached.folder, home, home / "swaps.log") as swapper:
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


def finish(measured: Measurements, meter: Meter, out: Path, console: Terminal, texts: str) -> None:
    """Write and print the rows, the readings and the pictures."""
    rows = [*measured.rows, *precisions()]
    rows.sort(key=lambda result: result.goal)
    path = write(rows, out, "serve")
    medians = {name: statistics.median(values) for name, values in measured.limits.items() if values}
    readings = {"texts": texts, "limits": measured.limits, "readings": json_values(meter.readings)}
    (out / "serve-readings.json").write_text(json.dumps(readings, indent=1), encoding="utf-8")
    console.print(table(rows, BARS, "make bench-serve"))
    steps = Table("what answers", "requests/s at P99 ≤ 50 ms", title="which part brought what", title_justify="left")
    for name, value in sorted(medians.items(), key=lambda item: item[1]):
        steps.add_row(name, f"{value:.0f}" + (" texts/s, no limit" if name.startswith("offline") else ""))
    console.print(steps)
    draw(rows, medians, out / "serve.png")
    console.print(f"→ {path}, {out / 'serve-readings.json'}, {out / 'serve.png'}")


def precisions() -> list[Row]:
    """Return the rows of S5, from the report of stage `select_session`."""
    if not SESSIONS.is_file():
        return []
    report = json.loads(SESSIONS.read_text(encoding="utf-8"))
    base = next(session["texts_per_s"] for session in report["candidates"] if session["name"] == "onnxruntime-fp32")
    rows = []
    for session in report["candidates"]:
        if session["agreement"]:  # the others were too slow to be compared
            agreement = f"{session['agreement']:.2%} agree, accuracy {session['accuracy']:.2%}"
            what = f"{session['name']}: {agreement}, {session['verdict']}"
            rows.append(Row("S5", what, session["texts_per_s"], "texts/s", "onnxruntime-fp32", base, None, 1))
    return rows


def draw(rows: Sequence[Row], medians: dict[str, float], path: Path) -> None:
    """Draw the ratios beside the capacities of the ladder."""
    figure = Figure(figsize=(13, 5), layout="constrained")
    left, right = figure.subplots(1, 2)
    draw_ratios(left, rows, BARS)
    left.set_title("goals")
    shown = [name for name in LADDER if name in medians]
    bars = right.barh(
        range(len(shown)), [medians[name] for name in shown], color=[GREY if n == "naive" else GREEN for n in shown]
    )
    right.bar_label(bars, fmt="%.0f", padding=3)
    right.set_yticks(range(len(shown)), shown)
    right.invert_yaxis()
    right.set_xlabel("requests per second at P99 ≤ 50 ms")
    right.set_title("which part brought what")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    run_stage(main)
