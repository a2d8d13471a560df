"""`make bench-serve`: rows S1a to S7b of the serving goals, everything open loop, latency from the intended send time.

One round measures every arm once, in turn, and a ratio is between the readings of one round: A B C … A B C …, so that a slow
minute of the machine hits both. A capacity is the highest rate at P99 ≤ 50 ms without an error; it is searched from the last
round's by steps of a tenth, and a rate that misses is tried once more. All servers live during the whole bench, and only one is
asked at a time. Scratch homes of state are made of artifacts/package.
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
from tests.bench.children import Stack, child, forget_settings, server, stack
from tests.bench.meter import Arm, Meter, OutOfTimeError, Pace
from tests.bench.report import Bar, Ratio, Row, draw_ratios, median_interval, paired_ratio, table, write
from tests.bench.scratch import FIXED, PLAIN_FP32, SUFFIX, UNBATCHED

TEXTS = (Path("../shared/data/banking77/test.csv"), Path("data/support_desk.jsonl"))
PACKAGE, MODEL, LOCK, SESSIONS = (
    Path(name) for name in ("artifacts/package", "artifacts/model", "dvc.lock", "artifacts/session/session.json")
)
OUTPUTS = ("label", "probabilities")
REPEATS, LONG_SHARE, SWAP_SHARE, QUIET_PER_S = 0.6, 0.1, 0.3, 20.0
OVERLOAD, CLIENTS = 3.0, 32  # more than the naive server can answer, by so many who each wait for their answer
MIXED_P99_MS = 500.0  # requests padded to max_pieces hold 50 ms at no rate here: S4 compares at a limit that both can hold
TIE = 1e-3  # two classes closer than this are both right: a batch's padding moves the last digits
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
    """What runs, and what is asked of it."""

    meter: Meter
    arms: dict[str, Arm]
    plain: Stack
    cached: Stack
    offline: "Offline"
    pairs: int
    swaps: int


class Offline(NamedTuple):
    """The child that runs the session without a server."""

    ask: Callable[..., dict[str, Any]]

    def texts_per_s(self, seconds: float, batch: int, session: str | None) -> float:
        """Sorted batches of this size, by the packaged session when none is named; batch 1: in their order."""
        return float(self.ask(speed=seconds, batch=batch, session=session)["texts_per_s"])

    def labels(self, texts: Sequence[str]) -> list[set[str]]:
        """The right labels of each text."""
        return [set(own) for own in self.ask(labels=list(texts))["labels"]]


class Found(NamedTuple):
    """What was measured, by arm and round."""

    limits: dict[str, list[float]]
    rows: list[Row]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=Path, default=next((path for path in TEXTS if path.is_file()), TEXTS[-1]))
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--swaps", type=int, default=50)
    parser.add_argument("--quick", action="store_true", help="short runs, for trying out: figures are worth nothing")
    parser.add_argument("--out", type=Path, default=Path("reports/bench"))
    args = parser.parse_args()
    for path, do in ((PACKAGE, "make repro"), (MODEL, "make repro"), (LOCK, "make repro")):
        if not path.exists():
            raise InputError(str(path), "there is no such thing yet", f"run first: {do}")
    for number in (signal.SIGINT, signal.SIGTERM):  # also where it runs in the background, with SIGINT ignored
        signal.signal(number, signal.default_int_handler)
    forget_settings()
    params, console = load_params(), Terminal(soft_wrap=True, width=160)
    texts = read_texts(args.texts, params.data)
    pace = Pace(0.5, 1.0, 20, 1.3) if args.quick else Pace(1.0, 3.5, 150, 1.1)
    meter = Meter(console, pace, limit_s=25 * 60, seed=int(np.random.default_rng().integers(2**31)))
    console.print(f"{len(texts)} texts of {args.texts}; {args.pairs} rounds; at most 25 minutes")
    found = Found({}, [])
    with tempfile.TemporaryDirectory(prefix="evergreen-bench-") as scratch:
        try:
            with running(Path(scratch), params, texts, meter, args.pairs, args.swaps) as bench:
                measure(bench, texts, found)
        except (KeyboardInterrupt, OutOfTimeError) as error:
            console.print(styled(f"stopped ({type(error).__name__}); what was measured so far is written", "yellow"))
    finish(found, meter, args.out, console, str(args.texts))


@contextmanager
def running(scratch: Path, params: Params, texts: Sequence[str], meter: Meter, pairs: int, swaps: int) -> Iterator[Bench]:
    """Every server that is measured, started once."""
    meter.say("two scratch homes of state from artifacts/package")
    (scratch / "texts.json").write_text(json.dumps(list(texts)), encoding="utf-8")
    arguments = ["-m", "tests.bench.scratch", "--package", str(PACKAGE), "--lock", str(LOCK), "--out", str(scratch)]
    with server_less(arguments, scratch / "scratch.log"):
        pass
    with ExitStack() as open_:
        plain_home, cached_home = scratch / "plain", scratch / "cached"
        models = ["intent-1", UNBATCHED, PLAIN_FP32, FIXED]
        bare = open_.enter_context(stack(plain_home, params, models=models, cache_bytes=0))
        cached = open_.enter_context(stack(cached_home, params, models=["intent-1"], cache_bytes=params.gateway.cache_bytes))
        port = free_port()
        naive = open_.enter_context(
            server(
                ["-m", "tests.bench.naive_server", "--model", str(MODEL), "--port", str(port)],
                f"http://127.0.0.1:{port}/docs",
                scratch / "naive.log",
            )
        )
        asked = [
            "-m",
            "tests.bench.offline",
            "--package",
            str(PACKAGE),
            "--texts",
            str(scratch / "texts.json"),
            "--tie",
            str(TIE),
        ]
        offline = open_.enter_context(child(asked, Path.cwd(), None, scratch / "offline.log"))
        arms = make_arms(bare, cached, naive, f"http://127.0.0.1:{port}/predict", texts)
        yield Bench(meter, arms, bare, cached, Offline(offline.ask), pairs, swaps)


@contextmanager
def server_less(arguments: Sequence[str], log: Path) -> Iterator[None]:
    """A program that is waited for."""
    with log.open("w", encoding="utf-8") as out:
        done = subprocess.run([sys.executable, *arguments], stdout=out, stderr=out)
    if done.returncode:
        raise InputError(str(log), log.read_text(encoding="utf-8")[-500:], "mend what it says")
    yield


def make_arms(bare: Stack, cached: Stack, naive: psutil.Process, naive_url: str, texts: Sequence[str]) -> dict[str, Arm]:
    """What is asked, how, and where the first search begins."""
    mixed = mix(texts)
    question = http_target(naive_url, method="POST", template='{"text": "{text}"}', headers={}, label="label")
    triton = triton_target(bare.triton_url, "intent-1", outputs=OUTPUTS, headers={})
    unbatched, padded_fp32 = (
        triton_target(bare.triton_url, name, outputs=OUTPUTS, headers={}) for name in (UNBATCHED, PLAIN_FP32)
    )
    padded = padded_target(bare)
    gateway, with_cache = (gateway_target(one.gateway_url, units=0, headers={}) for one in (bare, cached))
    plain_, cached_, naive_ = bare.processes, cached.processes, (naive,)
    listed = (
        Arm("naive", question, texts, 0.0, naive_, 25.0),
        Arm("triton", triton, texts, 0.0, plain_, 150.0),
        Arm("triton, no batching", unbatched, texts, 0.0, plain_, 120.0),
        Arm("triton, padded fp32", padded_fp32, texts, 0.0, plain_, 120.0),
        Arm("triton, mixed lengths", triton, mixed, 0.0, plain_, 100.0, MIXED_P99_MS),
        Arm("padded, mixed lengths", padded, mixed, 0.0, plain_, 15.0, MIXED_P99_MS),
        Arm("gateway", gateway, texts, 0.0, plain_, 150.0),
        Arm("gateway, no cache, repeats", gateway, texts, REPEATS, plain_, 150.0),
        Arm("gateway, repeats", with_cache, texts, REPEATS, cached_, 300.0),
        Arm("gateway, cache, no repeats", with_cache, texts, 0.0, cached_, 150.0),
    )
    return {arm.name: arm for arm in listed}


def mix(texts: Sequence[str]) -> list[str]:
    """A tenth of the texts become long ones, eight of them in one: a desk gets chats and letters."""
    rng = np.random.default_rng(4)
    return [" ".join(rng.choice(texts, size=8)) if rng.random() < LONG_SHARE else text for text in texts]


def padded_target(bare: Stack) -> Target:
    """A KServe v2 request of pieces that the client has padded to `model.max_pieces`, for Triton's own dynamic batching."""
    length = bare.params.model.max_pieces
    tokenizer = Tokenizer.from_file(str(PACKAGE / "1" / "tokenizer.json"))
    tokenizer.enable_truncation(length)
    tokenizer.no_padding()
    plain_one = triton_target(bare.triton_url, FIXED, outputs=OUTPUTS, headers={})

    def body(text: str, _number: int) -> bytes:
        feeds = pad([tokenizer.encode(clean(text)).ids])
        inputs = [
            {"name": name, "shape": [1, length], "datatype": "INT64", "data": np.pad(own[0], (0, length - own.shape[1])).tolist()}
            for name, own in feeds.items()
        ]
        wanted = [{"name": name, "parameters": {"binary_data": True}} for name in OUTPUTS]
        return json.dumps({"inputs": inputs, "outputs": wanted}).encode()

    return Target(FIXED, plain_one.url, "POST", plain_one.headers, body, plain_one.read)


def measure(bench: Bench, texts: Sequence[str], found: Found) -> None:
    """Everything, in the order of what one would miss most."""
    offline: dict[str, list[float]] = {name: [] for name in OFFLINE}
    compared = [*LADDER[:1], *LADDER[3:], "triton, mixed lengths", "padded, mixed lengths"]
    for pair in range(bench.pairs):
        bench.meter.pair = pair
        for name, (batch, session) in OFFLINE.items():
            offline[name].append(bench.offline.texts_per_s(bench.meter.pace.step_s, batch, session))
        for name in compared:
            limit_of(bench, name, found)
    capacities(found, offline, bench.pairs)
    latencies(bench, found)
    swaps(bench, texts, found)
    for name in ("triton, no batching", "triton, padded fp32"):
        limit_of(bench, name, found)


def limit_of(bench: Bench, name: str, found: Found) -> None:
    """One more reading of an arm's capacity, searched near the last one."""
    known, arm = found.limits.setdefault(name, []), bench.arms[name]
    start = next((limit for limit in reversed(known) if limit > 0), arm.guess_per_s)
    known.append(max(bench.meter.limit("capacity", arm, start, 1.5 if not known else bench.meter.pace.resolution), 1e-9))


def capacities(found: Found, offline: dict[str, list[float]], pairs: int) -> None:
    """Rows that compare capacities of the same rounds."""
    limits = found.limits
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
        found.rows.append(row(goal, what, "requests/s", ours, control, theirs))
    limits |= {f"offline, {name}": values for name, values in offline.items()}


def saturated(bench: Bench, found: Found) -> float:
    """What the naive server answers a second, however late, when some clients always wait for it.

    More than that at a time and it answers nobody before the asking ends: its threads keep the event loop from the processor.
    """
    meter, arm, rate = bench.meter, bench.arms["naive"], OVERLOAD * statistics.median(found.limits["naive"])
    since_s, until_s = meter.pace.warm_s, meter.pace.warm_s + 2 * meter.pace.step_s
    answered = []
    for _ in range(3):
        with meter.reading("S2", arm, rate) as keep:
            result = run_load(arm.target, arm.texts, meter.load(arm, rate, until_s)._replace(connections=CLIENTS))
            keep(without_warmup(result, since_s))
        arrived_s = result.at_s + result.latency_ms / 1000
        answered.append(float(((arrived_s > since_s) & (arrived_s <= until_s)).sum()) / (until_s - since_s))
    found.limits["naive, all it can answer, however late"] = answered
    return statistics.median(answered)


def latencies(bench: Bench, found: Found) -> None:
    """P99 near the naive server's capacity, what the gateway adds when nothing waits, what a miss costs."""
    meter, arms = bench.meter, bench.arms
    rate = 0.9 * saturated(bench, found)
    p99: dict[str, list[float]] = {"naive": [], "gateway": []}
    p50: dict[str, list[float]] = {"triton": [], "gateway": [], "gateway, cache, no repeats": []}
    for pair in range(bench.pairs):
        meter.pair = pair
        for name, values in p99.items():
            values.append(meter.run("S2", arms[name], rate, seconds=2 * meter.pace.step_s).p99_all_ms)
        for name, values in p50.items():
            result = meter.run("S6a", arms[name], QUIET_PER_S, seconds=2 * meter.pace.step_s, arrivals="constant")
            values.append(float(np.median(result.latency_ms[result.ok])))
    found.rows.append(
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
    found.rows.append(Row("S6a", what, middle, "ms", "Triton alone, P50 ms", statistics.median(p50["triton"]), None, len(added)))
    found.rows.append(
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


def swaps(bench: Bench, texts: Sequence[str], found: Found) -> None:
    """Versions swapped again and again under load; each label is held against the version that the answer names."""
    capacity = statistics.median(found.limits["gateway"])
    rate, arm = SWAP_SHARE * capacity, bench.arms["gateway, cache, no repeats"]
    steady = [bench.meter.run("S7", arm, rate, seconds=2 * bench.meter.pace.step_s).p99_all_ms for _ in range(3)]
    took: list[float] = []
    errors: list[str] = []
    home = bench.cached.home
    with child(["-m", "tests.faults.swapper"], bench.cached.folder, home, home / "swaps.log") as swapper:
        over = threading.Event()

        def work() -> None:
            for number in range(bench.swaps):
                said = swapper.ask(version=2 - number % 2)
                if "error" in said:
                    errors.append(str(said["error"]))
                    break
                took.append(float(said["ended_s"]) - float(said["began_s"]))
            over.set()

        threading.Thread(target=work, daemon=True).start()
        results: list[Result] = []
        while not over.is_set():
            load = bench.meter.load(arm, rate, 10.0)
            results.append(run_load(arm.target, arm.texts, load, check=lambda _text, answer: is_of_version(answer)))
    during = [without_warmup(result, 0.0) for result in results]
    failed = sum(one.failed for one in during)
    wrong = sum(int(one.wrong.sum()) for one in during if one.wrong is not None)
    asked = sum(len(one.at_s) for one in during)
    for one in errors:
        bench.meter.say(f"a swap failed: {one}", "red")
    each = statistics.median(took) if took else float("nan")
    what = f"failed or wrong answers of {asked} during {len(took)} swaps ({each:.1f} s each)"
    found.rows.append(Row("S7a", what, float(failed + wrong + len(errors)), "answers", "", None, None, len(took)))
    waits = np.concatenate([np.nan_to_num(one.latency_ms, nan=1e9) for one in during])
    ratio = float(np.percentile(waits, 99)) / statistics.median(steady)
    found.rows.append(
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
    """Version 2 has a mark behind each of its labels."""
    return bool(str(answer.label).endswith(SUFFIX) == (answer.version == "2"))


def row(
    goal: str, what: str, unit: str, ours: Sequence[float], control: str, theirs: Sequence[float], *, less: bool = False
) -> Row:
    """A compared row: medians, and the ratio of pairs; `less`: smaller is better."""
    ratio: Ratio = paired_ratio(theirs, ours) if less else paired_ratio(ours, theirs)
    return Row(goal, what, statistics.median(ours), unit, control, statistics.median(theirs), ratio, len(ours))


def finish(found: Found, meter: Meter, out: Path, console: Terminal, texts: str) -> None:
    """Rows, readings, table and picture."""
    rows = [*found.rows, *precisions()]
    rows.sort(key=lambda one: one.goal)
    path = write(rows, out, "serve")
    medians = {name: statistics.median(values) for name, values in found.limits.items() if values}
    (out / "serve-readings.json").write_text(
        json.dumps({"texts": texts, "limits": found.limits, "readings": json_values(meter.readings)}, indent=1), encoding="utf-8"
    )
    console.print(table(rows, BARS, "make bench-serve"))
    steps = Table("what answers", "requests/s at P99 ≤ 50 ms", title="which part brought what", title_justify="left")
    for name, value in sorted(medians.items(), key=lambda one: one[1]):
        steps.add_row(name, f"{value:.0f}" + (" texts/s, no limit" if name.startswith("offline") else ""))
    console.print(steps)
    draw(rows, medians, out / "serve.png")
    console.print(f"→ {path}, {out / 'serve-readings.json'}, {out / 'serve.png'}")


def precisions() -> list[Row]:
    """S5: what the gate of `select_session` measured when the package was made."""
    if not SESSIONS.is_file():
        return []
    told = json.loads(SESSIONS.read_text(encoding="utf-8"))
    base = next(one["texts_per_s"] for one in told["candidates"] if one["name"] == "onnxruntime-fp32")
    ran = [one for one in told["candidates"] if one["agreement"]]  # the others were too slow to be compared
    whats = [f"{one['name']}: {one['agreement']:.2%} agree, accuracy {one['accuracy']:.2%}, {one['verdict']}" for one in ran]
    return [
        Row("S5", what, one["texts_per_s"], "texts/s", "onnxruntime-fp32", base, None, 1)
        for what, one in zip(whats, ran, strict=True)
    ]


def draw(rows: Sequence[Row], medians: dict[str, float], path: Path) -> None:
    """Ratios beside the ladder."""
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
