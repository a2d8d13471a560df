"""Run `make bench-train`: goals T1a to T6 of training, beside Hugging Face's Trainer with PEFT, stock and tuned.

Each arm is a process that waits between its windows of 60 steps. One round gives every arm a window, in turn, and a ratio
compares windows of one round, so that a slow minute of the machine affects both. The arms share base model, rows, LoRA, batch
size and learning rate.
"""

import argparse
import csv
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from pipeline.charts import GREEN, GREY
from pipeline.data.records import write_json
from pipeline.errors import InputError, run_stage
from pipeline.network.base_model import base_folder
from pipeline.output.terminal import Terminal, styled
from pipeline.params import Params, load_params
from pipeline.runtime.pieces import load_tokenizer, to_pieces
from tests.bench.children import Child, child, clear_settings
from tests.bench.report import Bar, Row, draw_ratios, paired_ratio, table, write
from tests.bench.train.rows import BenchRows, Settings, with_settings, write_rows

DATA = Path("../shared/data/banking77/train.csv")
LIMIT_S = 25 * 60
OURS, WRITTEN = "ours", "ours, layers written out"
STOCK, TUNED, FULL = "HF Trainer + PEFT", "HF Trainer + PEFT, bf16, group_by_length", "HF Trainer, full fine-tuning"
ARMS = {
    OURS: ["-m", "tests.bench.train.ours", "--kernels", "modules"],
    WRITTEN: ["-m", "tests.bench.train.ours", "--kernels", "auto"],
    TUNED: ["-m", "tests.bench.train.hf", "--tuned"],
    STOCK: ["-m", "tests.bench.train.hf"],
    FULL: ["-m", "tests.bench.train.hf", "--full"],
}
BARS = {
    "T1a": Bar("ratio", at_least=10), "T1b": Bar("ratio", at_least=2), "T2": Bar("value", at_most=1.05),
    "T3a": Bar("ratio", at_least=1.8), "T3b": Bar("ratio", at_least=3), "T3c": Bar("value", at_most=1e-5),
    "T6a": Bar("ratio", at_least=1 / 0.6), "T6b": Bar("ratio", at_least=1 / 0.9),
}  # fmt: skip


class Window(NamedTuple):
    """Record one window of one arm."""

    arm: str
    lora: str
    seconds: float
    cpu_s: float  # of its process, all threads
    examples: int
    processed: int  # pieces, padding included
    real: int
    peak_bytes: int  # since the process started

    @property
    def per_s(self) -> float:
        return self.examples / self.seconds


class Size(NamedTuple):
    """Say how much is run."""

    steps: int
    pairs: int  # of the article's LoRA
    recipe_pairs: int  # of the shipped recipe's
    prefix_rows: int  # an epoch of T3


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench-train", description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA, help="a csv with the columns text and category")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="short windows to try the bench; the figures mean nothing")
    parser.add_argument("--out", type=Path, default=Path("reports/bench"))
    args = parser.parse_args()
    clear_settings()
    params, console = load_params(), Terminal(soft_wrap=True, width=180)
    size = Size(3, 2, 0, 96) if args.quick else Size(60, args.pairs, 2, 960)
    rows = read_texts(args.data, params)
    console.print(f"{len(rows.targets)} texts of {args.data}; {size.pairs} rounds of {size.steps} steps; at most 25 minutes")
    idle = idle_bytes()  # before this process grows: a child's peak starts at its parent's memory
    with tempfile.TemporaryDirectory(prefix="evergreen-bench-") as scratch:
        write_rows(Path(scratch) / "rows.json", rows)
        windows = measure(Path(scratch), params, size, console)
    frozen = list(measure_prefix(rows, params, size, console))
    finish(windows, frozen, idle, args.out, console)


def read_texts(path: Path, params: Params) -> BenchRows:
    """Return the texts of a csv as pieces, and their classes."""
    if not path.is_file():
        raise InputError(str(path), "there is no such file", "name a csv with the columns text and category: --data")
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    classes = {name: number for number, name in enumerate(sorted({row["category"] for row in rows}))}
    tokenizer = load_tokenizer(base_folder(params.model), params.model.max_pieces)
    return BenchRows(to_pieces(tokenizer, [row["text"] for row in rows]), [classes[row["category"]] for row in rows])


def loras(params: Params) -> dict[str, Settings]:
    """Return the LoRA of the original paper for BERT, and that of the shipped recipe."""
    batch, lr, model = params.train.batch_size, params.train.encoder_lr, params.model
    return {
        "r8 query,value": Settings(8, 16, "query,value", batch, lr),
        f"r{model.lora_rank} {model.lora_targets}": Settings(model.lora_rank, model.lora_alpha, model.lora_targets, batch, lr),
    }


def measure(scratch: Path, params: Params, size: Size, console: Terminal) -> list[Window]:
    """Measure the windows of every arm in rounds, until the time is over."""
    until, windows = time.monotonic() + LIMIT_S, []
    article, recipe = loras(params).items()
    for (name, settings), pairs in ((article, size.pairs), (recipe, size.recipe_pairs)):
        if not pairs:
            continue
        with ExitStack() as processes:
            arms = {arm: processes.enter_context(started(arm, scratch, settings)) for arm in (OURS, WRITTEN, TUNED, STOCK)}
            windows += list(rounds(arms, name, size.steps, pairs, until, console))
    with started(FULL, scratch, article[1]) as full:
        windows += list(rounds({FULL: full}, "none", size.steps, size.pairs, until, console))  # peaks grow with the steps
    return windows


def measure_prefix(rows: BenchRows, params: Params, size: Size, console: Terminal) -> Iterator[Row]:
    """Measure T3: epochs over some of the rows with cached activations of frozen layers."""
    import torch

    from pipeline.learning.classification import Rows
    from tests.bench.train.prefix import prefix_rows

    some = Rows(rows.pieces[: size.prefix_rows], torch.tensor(rows.targets[: size.prefix_rows]))
    for (name, settings), pairs in zip(loras(params).items(), (size.pairs, size.recipe_pairs), strict=True):
        if pairs:
            console.print(styled(f"prefix cache, {name}, {pairs} pairs of epochs over {len(some.pieces)} rows", "dim"))
            yield from prefix_rows(some, with_settings(params, settings), name, pairs)


@contextmanager
def started(arm: str, scratch: Path, settings: Settings) -> Iterator[Child]:
    """Start this arm; yield it after a few steps, with everything loaded."""
    arguments = [*ARMS[arm], "--rows", str(scratch / "rows.json"), "--settings", json.dumps(settings._asdict())]
    with child(arguments, Path.cwd(), None, scratch / "child.log") as process:
        process.ask(steps=3)
        yield process


def rounds(arms: dict[str, Child], lora: str, steps: int, pairs: int, until: float, console: Terminal) -> Iterator[Window]:
    """Yield each arm's windows in turn; a round that would not end in time is not started."""
    round_s = 0.0
    for number in range(pairs):
        started_s = time.monotonic()
        if started_s + round_s > until:
            console.print(styled(f"{lora}: {number} of {pairs} rounds, for lack of time", "yellow"))
            return
        for arm, process in arms.items():
            window = Window(arm, lora, **process.ask(steps=steps))
            console.print(styled(f"{lora}, round {number + 1} of {pairs}", "dim"), f" {arm}: {window.per_s:.1f} examples/s")
            yield window
        round_s = time.monotonic() - started_s


def idle_bytes() -> int:
    """Return the peak memory of a process that has only loaded torch."""
    code = "from pipeline.learning.memory_use import peak_bytes; print(peak_bytes())"
    return int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


def to_rows(windows: Sequence[Window], idle: int) -> list[Row]:
    """Return a row for each goal and LoRA that was measured."""
    rows: list[Row] = []
    for lora in dict.fromkeys(window.lora for window in windows if window.arm == OURS):
        for arm, (goal, control) in product((OURS, WRITTEN), (("T1a", STOCK), ("T1b", TUNED))):
            speeds, control_speeds = (
                [window.per_s for window in windows if (window.arm, window.lora) == (name, lora)] for name in (arm, control)
            )
            pairs = min(len(speeds), len(control_speeds))
            ratio = paired_ratio(speeds[:pairs], control_speeds[:pairs])
            value, control_value = statistics.median(speeds), statistics.median(control_speeds)
            rows.append(Row(goal, f"{arm}, LoRA {lora}", value, "examples/s", control, control_value, ratio, pairs))
    waste = {arm: padding([window for window in windows if window.arm == arm]) for arm in (OURS, STOCK)}
    ratio = paired_ratio([waste[STOCK]], [waste[OURS]])
    rows.append(Row("T2", "processed / real pieces", waste[OURS], "x", f"{STOCK}, dynamic padding", waste[STOCK], ratio, 1))
    return [*rows, *memory_rows(windows, idle)]


def padding(windows: Sequence[Window]) -> float:
    """Return the pieces computed for each real piece."""
    return sum(window.processed for window in windows) / sum(window.real for window in windows)


def memory_rows(windows: Sequence[Window], idle: int) -> list[Row]:
    """Return T6a beside full fine-tuning and T6b beside adapters."""
    lora = next(window.lora for window in windows if window.arm == OURS)
    above_idle = {
        arm: max(window.peak_bytes for window in windows if window.arm == arm and window.lora in (lora, "none")) - idle
        for arm in (OURS, WRITTEN, STOCK, FULL)
    }
    what = f"peak memory above an idle process with torch ({idle / 2**20:.0f} MiB), LoRA {lora}"
    return [
        Row(
            goal,
            f"{arm}: {what}",
            above_idle[arm] / 2**20,
            "MiB",
            control,
            above_idle[control] / 2**20,
            paired_ratio([above_idle[control]], [above_idle[arm]]),
            1,
        )
        for arm, (goal, control) in product((OURS, WRITTEN), (("T6a", FULL), ("T6b", STOCK)))
    ]


def finish(windows: Sequence[Window], frozen: Sequence[Row], idle: int, out: Path, console: Terminal) -> None:
    """Write and print the rows, the readings and the picture."""
    rows = sorted([*to_rows(windows, idle), *frozen], key=lambda row: row.goal)
    path = write(rows, out, "train")
    readings: list[dict[str, Any]] = [window._asdict() | {"examples_per_s": window.per_s} for window in windows]
    write_json(out / "train-readings.json", {"idle_bytes": idle, "windows": readings})
    console.print(table(rows, BARS, "make bench-train"))
    draw(rows, windows, out / "train.png")
    console.print(f"→ {path}, {out / 'train-readings.json'}, {out / 'train.png'}")


def draw(rows: Sequence[Row], windows: Sequence[Window], path: Path) -> None:
    """Draw the ratios beside the speed of every window."""
    figure = Figure(figsize=(13, 5), layout="constrained")
    left, right = figure.subplots(1, 2)
    draw_ratios(left, rows, BARS)
    left.set_title("goals")
    arms = list(dict.fromkeys((window.arm, window.lora) for window in windows))
    for line, arm in enumerate(arms):
        speeds = [window.per_s for window in windows if (window.arm, window.lora) == arm]
        colour = GREEN if arm[0] in (OURS, WRITTEN) else GREY
        right.barh(line, statistics.median(speeds), color=colour, alpha=0.5)
        right.plot(speeds, [line] * len(speeds), "o", color=colour, markersize=4)
    right.set_yticks(range(len(arms)), [arm if lora == "none" else f"{arm}\nLoRA {lora}" for arm, lora in arms], fontsize=8)
    right.invert_yaxis()
    right.set_xlabel("examples per second: each window, and their median")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    run_stage(main)
