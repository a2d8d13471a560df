"""`make bench-train`: rows T1a to T6 of the training goals, beside Hugging Face's Trainer with PEFT, stock and tuned.

Each arm is a process that stands still between its windows of 60 steps. One round gives every arm a window, in turn, and a ratio
is between the windows of one round, so that a slow minute of the machine hits both. Same base model, rows, LoRA, batch and rate.
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
from tests.bench.children import Child, child, forget_settings
from tests.bench.report import Bar, Row, draw_ratios, paired_ratio, table, write
from tests.bench.train_rows import BenchRows, Settings, with_settings, write_rows

DATA = Path("../shared/data/banking77/train.csv")
LIMIT_S = 25 * 60
OURS, WRITTEN = "ours", "ours, layers written out"
STOCK, TUNED, FULL = "HF Trainer + PEFT", "HF Trainer + PEFT, bf16, group_by_length", "HF Trainer, full fine-tuning"
ARMS = {
    OURS: ["-m", "tests.bench.train_ours", "--kernels", "modules"],
    WRITTEN: ["-m", "tests.bench.train_ours", "--kernels", "auto"],
    TUNED: ["-m", "tests.bench.train_hf", "--tuned"],
    STOCK: ["-m", "tests.bench.train_hf"],
    FULL: ["-m", "tests.bench.train_hf", "--full"],
}
BARS = {
    "T1a": Bar("ratio", at_least=10), "T1b": Bar("ratio", at_least=2), "T2": Bar("value", at_most=1.05),
    "T3a": Bar("ratio", at_least=1.8), "T3b": Bar("ratio", at_least=3), "T3c": Bar("value", at_most=1e-5),
    "T6a": Bar("ratio", at_least=1 / 0.6), "T6b": Bar("ratio", at_least=1 / 0.9),
}  # fmt: skip


class Window(NamedTuple):
    """What one arm did in one window."""

    arm: str
    lora: str
    seconds: float
    cpu_s: float  # of its process, all threads
    examples: int
    processed: int  # pieces, padding included
    real: int
    peak_bytes: int  # since the process began

    @property
    def per_s(self) -> float:
        return self.examples / self.seconds


class Size(NamedTuple):
    """How much is run."""

    steps: int
    pairs: int  # of the article's LoRA
    recipe_pairs: int  # of the shipped recipe's
    prefix_rows: int  # an epoch of T3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA, help="a csv with the columns text and category")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="short windows, for trying out: figures are worth nothing")
    parser.add_argument("--out", type=Path, default=Path("reports/bench"))
    args = parser.parse_args()
    forget_settings()
    params, console = load_params(), Terminal(soft_wrap=True, width=180)
    size = Size(3, 2, 0, 96) if args.quick else Size(60, args.pairs, 2, 960)
    rows = read_texts(args.data, params)
    console.print(f"{len(rows.targets)} texts of {args.data}; {size.pairs} rounds of {size.steps} steps; at most 25 minutes")
    idle = idle_bytes()  # before this process grows: a child's peak begins at what its parent held
    with tempfile.TemporaryDirectory(prefix="evergreen-bench-") as scratch:
        write_rows(Path(scratch) / "rows.json", rows)
        windows = measure(Path(scratch), params, size, console)
    frozen = list(measure_prefix(rows, params, size, console))
    finish(windows, frozen, idle, args.out, console)


def read_texts(path: Path, params: Params) -> BenchRows:
    """Texts of a csv as pieces, and their classes."""
    if not path.is_file():
        raise InputError(str(path), "there is no such file", "name a csv with the columns text and category: --data")
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    classes = {name: number for number, name in enumerate(sorted({row["category"] for row in rows}))}
    tokenizer = load_tokenizer(base_folder(params.model), params.model.max_pieces)
    return BenchRows(to_pieces(tokenizer, [row["text"] for row in rows]), [classes[row["category"]] for row in rows])


def loras(params: Params) -> dict[str, Settings]:
    """The LoRA of the article on BERT's names, and that of the shipped recipe."""
    batch, lr, own = params.train.batch_size, params.train.encoder_lr, params.model
    return {
        "r8 query,value": Settings(8, 16, "query,value", batch, lr),
        f"r{own.lora_rank} {own.lora_targets}": Settings(own.lora_rank, own.lora_alpha, own.lora_targets, batch, lr),
    }


def measure(scratch: Path, params: Params, size: Size, console: Terminal) -> list[Window]:
    """Windows of every arm, by rounds, as far as the time reaches."""
    until, windows = time.monotonic() + LIMIT_S, []
    article, recipe = loras(params).items()
    for (name, settings), pairs in ((article, size.pairs), (recipe, size.recipe_pairs)):
        if not pairs:
            continue
        with ExitStack() as open_:
            arms = {arm: open_.enter_context(started(arm, scratch, settings)) for arm in (OURS, WRITTEN, TUNED, STOCK)}
            windows += list(rounds(arms, name, size.steps, pairs, until, console))
    with started(FULL, scratch, article[1]) as full:
        windows += list(rounds({FULL: full}, "none", size.steps, size.pairs, until, console))  # peaks grow with the steps
    return windows


def measure_prefix(rows: BenchRows, params: Params, size: Size, console: Terminal) -> Iterator[Row]:
    """T3: epochs over some of the rows, once the activations of frozen layers are kept."""
    import torch

    from pipeline.learning.classification import Rows
    from tests.bench.prefix import prefix_rows

    some = Rows(rows.pieces[: size.prefix_rows], torch.tensor(rows.targets[: size.prefix_rows]))
    for (name, settings), pairs in zip(loras(params).items(), (size.pairs, size.recipe_pairs), strict=True):
        if pairs:
            console.print(styled(f"prefix cache, {name}, {pairs} pairs of epochs over {len(some.pieces)} rows", "dim"))
            yield from prefix_rows(some, with_settings(params, settings), name, pairs)


@contextmanager
def started(arm: str, scratch: Path, settings: Settings) -> Iterator[Child]:
    """A process of this arm, everything loaded and a few steps made."""
    arguments = [*ARMS[arm], "--rows", str(scratch / "rows.json"), "--settings", json.dumps(settings._asdict())]
    with child(arguments, Path.cwd(), None, scratch / "child.log") as process:
        process.ask(steps=3)
        yield process


def rounds(arms: dict[str, Child], lora: str, steps: int, pairs: int, until: float, console: Terminal) -> Iterator[Window]:
    """Each arm's windows in turn; a round that would not end in time is not begun."""
    took = 0.0
    for number in range(pairs):
        began = time.monotonic()
        if began + took > until:
            console.print(styled(f"{lora}: {number} of {pairs} rounds, for lack of time", "yellow"))
            return
        for arm, process in arms.items():
            window = Window(arm, lora, **process.ask(steps=steps))
            console.print(styled(f"{lora}, round {number + 1} of {pairs}", "dim"), f" {arm}: {window.per_s:.1f} examples/s")
            yield window
        took = time.monotonic() - began


def idle_bytes() -> int:
    """Peak memory of a process that has loaded torch and does nothing."""
    code = "from pipeline.learning.memory_use import peak_bytes; print(peak_bytes())"
    return int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


def to_rows(windows: Sequence[Window], idle: int) -> list[Row]:
    """A row a goal and LoRA; what was not measured has none."""
    rows: list[Row] = []
    for lora in dict.fromkeys(one.lora for one in windows if one.arm == OURS):
        for own, (goal, control) in product((OURS, WRITTEN), (("T1a", STOCK), ("T1b", TUNED))):
            ours, theirs = ([one.per_s for one in windows if (one.arm, one.lora) == (arm, lora)] for arm in (own, control))
            pairs = min(len(ours), len(theirs))
            ratio = paired_ratio(ours[:pairs], theirs[:pairs])
            value, control_value = statistics.median(ours), statistics.median(theirs)
            rows.append(Row(goal, f"{own}, LoRA {lora}", value, "examples/s", control, control_value, ratio, pairs))
    waste = {arm: padding([one for one in windows if one.arm == arm]) for arm in (OURS, STOCK)}
    ratio = paired_ratio([waste[STOCK]], [waste[OURS]])
    rows.append(Row("T2", "processed / real pieces", waste[OURS], "x", f"{STOCK}, dynamic padding", waste[STOCK], ratio, 1))
    return [*rows, *memory_rows(windows, idle)]


def padding(windows: Sequence[Window]) -> float:
    """Pieces computed over pieces that mean something."""
    return sum(one.processed for one in windows) / sum(one.real for one in windows)


def memory_rows(windows: Sequence[Window], idle: int) -> list[Row]:
    """T6a beside full fine-tuning, T6b beside adapters."""
    article = next(one.lora for one in windows if one.arm == OURS)
    above = {
        arm: max(one.peak_bytes for one in windows if one.arm == arm and one.lora in (article, "none")) - idle
        for arm in (OURS, WRITTEN, STOCK, FULL)
    }
    what = f"peak memory above an idle process with torch ({idle / 2**20:.0f} MiB), LoRA {article}"
    return [
        Row(
            goal,
            f"{own}: {what}",
            above[own] / 2**20,
            "MiB",
            arm,
            above[arm] / 2**20,
            paired_ratio([above[arm]], [above[own]]),
            1,
        )
        for own, (goal, arm) in product((OURS, WRITTEN), (("T6a", FULL), ("T6b", STOCK)))
    ]


def finish(windows: Sequence[Window], frozen: Sequence[Row], idle: int, out: Path, console: Terminal) -> None:
    """Rows, readings, table and picture."""
    rows = sorted([*to_rows(windows, idle), *frozen], key=lambda row: row.goal)
    path = write(rows, out, "train")
    readings: list[dict[str, Any]] = [one._asdict() | {"examples_per_s": one.per_s} for one in windows]
    write_json(out / "train-readings.json", {"idle_bytes": idle, "windows": readings})
    console.print(table(rows, BARS, "make bench-train"))
    draw(rows, windows, out / "train.png")
    console.print(f"→ {path}, {out / 'train-readings.json'}, {out / 'train.png'}")


def draw(rows: Sequence[Row], windows: Sequence[Window], path: Path) -> None:
    """Ratios beside every window's speed."""
    figure = Figure(figsize=(13, 5), layout="constrained")
    left, right = figure.subplots(1, 2)
    draw_ratios(left, rows, BARS)
    left.set_title("goals")
    arms = list(dict.fromkeys((one.arm, one.lora) for one in windows))
    for line, arm in enumerate(arms):
        speeds = [one.per_s for one in windows if (one.arm, one.lora) == arm]
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
