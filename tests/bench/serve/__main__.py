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
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from rich.table import Table

from pipeline.charts import GREEN, GREY
from pipeline.data.records import json_values
from pipeline.errors import InputError, run_stage
from pipeline.home import ARTIFACTS, DVC_LOCK, PACKAGE
from pipeline.output.terminal import Terminal, styled
from pipeline.params import Params, load_params
from serving.loadtest import read_texts
from serving.processes.ports import free_port
from tests.bench.children import child, clear_settings, server, stack
from tests.bench.meter import Meter, OutOfTimeError, Pace
from tests.bench.report import Bar, Row, draw_ratios, table, write
from tests.bench.serve.arms import LADDER, make_arms
from tests.bench.serve.rows import Bench, Measurements, measure
from tests.bench.serve.scratch import FIXED, PLAIN_FP32, UNBATCHED

TEXTS = (Path("../shared/data/banking77/test.csv"), Path("data/support_desk.jsonl"))
MODEL, SESSIONS = ARTIFACTS / "model", ARTIFACTS / "session/session.json"
BARS = {
    "S1a": Bar("ratio", at_least=8), "S1b": Bar("ratio", at_least=0.7), "S2": Bar("ratio", at_least=10),
    "S3a": Bar("ratio", at_least=2), "S3b": Bar("ratio", at_least=0.97), "S4": Bar("ratio", at_least=2),
    "S6a": Bar("value", at_most=1.5), "S6b": Bar("ratio", at_least=0.85),
    "S7a": Bar("value", at_most=0), "S7b": Bar("value", at_most=2),
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench-serve", description=__doc__)
    parser.add_argument("--texts", type=Path, default=next((path for path in TEXTS if path.is_file()), TEXTS[-1]))
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--swaps", type=int, default=50)
    parser.add_argument("--quick", action="store_true", help="short runs to try the bench; the figures mean nothing")
    parser.add_argument("--out", type=Path, default=Path("reports/bench"))
    args = parser.parse_args()
    for path in (PACKAGE, MODEL, DVC_LOCK):
        if not path.exists():
            raise InputError(str(path), "it does not exist", "run first: make repro")
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
                measure(bench, measured)
        except (KeyboardInterrupt, OutOfTimeError) as error:
            console.print(styled(f"stopped ({type(error).__name__}); what was measured so far is written", "yellow"))
    finish(measured, meter, args.out, console, str(args.texts))


@contextmanager
def running(scratch: Path, params: Params, texts: Sequence[str], meter: Meter, pairs: int, swaps: int) -> Iterator[Bench]:
    """Start every server that is measured."""
    meter.report("two scratch homes of state from artifacts/package")
    (scratch / "texts.json").write_text(json.dumps(list(texts)), encoding="utf-8")
    arguments = ["-m", "tests.bench.serve.scratch", "--package", str(PACKAGE), "--lock", str(DVC_LOCK), "--out", str(scratch)]
    run_program(arguments, scratch / "scratch.log")
    with ExitStack() as servers:
        plain_home, cached_home = scratch / "plain", scratch / "cached"
        models = ["intent-1", UNBATCHED, PLAIN_FP32, FIXED]
        plain = servers.enter_context(stack(plain_home, params, models=models, cache_bytes=0))
        cached = servers.enter_context(stack(cached_home, params, models=["intent-1"], cache_bytes=params.gateway.cache_bytes))
        port = free_port()
        naive = servers.enter_context(
            server(
                ["-m", "tests.bench.serve.naive_server", "--model", str(MODEL), "--port", str(port)],
                f"http://127.0.0.1:{port}/docs",
                scratch / "naive.log",
            )
        )
        arguments = ["-m", "tests.bench.serve.offline", "--package", str(PACKAGE), "--texts", str(scratch / "texts.json")]
        offline = servers.enter_context(child(arguments, Path.cwd(), None, scratch / "offline.log"))
        arms = make_arms(plain, cached, naive, f"http://127.0.0.1:{port}/predict", texts)
        yield Bench(meter, arms, cached, offline, pairs, swaps)


def run_program(arguments: Sequence[str], log: Path) -> None:
    """Run a Python program to its end; raise `InputError` when it fails."""
    with log.open("w", encoding="utf-8") as out:
        done = subprocess.run([sys.executable, *arguments], stdout=out, stderr=out)
    if done.returncode:
        raise InputError(str(log), log.read_text(encoding="utf-8")[-500:], "fix what the log reports")


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
