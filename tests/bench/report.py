"""Write a bench's report: `reports/bench/<name>.json` with a row for each goal, a table on the terminal, a picture of the ratios.

Pairs are measured one after the other in one run; a ratio is the median over pairs with a bootstrap interval.
"""

import shlex
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from math import isnan
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter
from rich.table import Table

from evergreen.loop.promises import number
from pipeline.charts import GREEN, GREY, RUST
from pipeline.data.records import json_values, write_json
from pipeline.errors import ToolError
from pipeline.home import git

RESAMPLES, CONFIDENCE, SEED = 10_000, 0.95, 17
TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


class Ratio(NamedTuple):
    """Say how many times better than the control: median over pairs, and the bounds of its bootstrap interval."""

    median: float
    low: float
    high: float
    pairs: int


class Row(NamedTuple):
    """Hold the result for one goal; `ratio` says how many times better than the control, and is None without one."""

    goal: str
    what: str
    value: float
    unit: str
    control: str
    control_value: float | None
    ratio: Ratio | None
    pairs: int


class Bar(NamedTuple):
    """State a goal: `value` or `ratio` is at least or at most this limit."""

    field: str  # value | ratio
    at_least: float | None = None
    at_most: float | None = None

    def is_met(self, row: Row) -> bool:
        """Return whether the row's median meets the limit; a missing value or NaN does not."""
        value = row.value if self.field == "value" else row.ratio.median if row.ratio else float("nan")
        if isnan(value):
            return False
        return (self.at_least is None or value >= self.at_least) and (self.at_most is None or value <= self.at_most)

    def __str__(self) -> str:
        sign, limit = ("≥", self.at_least) if self.at_least is not None else ("≤", self.at_most)
        return f"{sign} {limit:g}{'x' if self.field == 'ratio' else ''}"


def paired_ratio(better: Sequence[float], worse: Sequence[float]) -> Ratio:
    """Return the median of `better[i] / worse[i]` with its 95 % percentile bootstrap interval over whole pairs.

    With five pairs the interval is the whole range. Raises `ValueError` for lists of different lengths or values not above 0.
    """
    if len(better) != len(worse) or not len(better):
        raise ValueError(f"{len(better)} and {len(worse)} values are no pairs")
    values = np.array([better, worse], dtype=np.float64)
    if not (np.isfinite(values) & (values > 0)).all():
        raise ValueError("a ratio needs values above 0")
    return Ratio(*median_interval(values[0] / values[1]), len(better))


def median_interval(values: Sequence[float] | np.ndarray[Any, Any]) -> tuple[float, float, float]:
    """Return the median and the bounds of its percentile bootstrap interval; the seed is fixed."""
    array = np.asarray(values, dtype=np.float64)
    draws = np.random.default_rng(SEED).integers(0, len(array), size=(RESAMPLES, len(array)))
    medians = np.median(array[draws], axis=1)
    low, high = np.percentile(medians, [50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)])
    return float(np.median(array)), float(low), float(high)


def write(rows: Sequence[Row], folder: Path, name: str) -> Path:
    """Write `<folder>/<name>.json`: the rows with the command, the commit and the current UTC date."""
    origin = {"command": command(), "commit": commit(), "date": datetime.now(UTC).isoformat(timespec="seconds")}
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    write_json(path, [flat(row) | origin for row in rows])
    return path


def flat(row: Row) -> dict[str, Any]:
    """Return the row as JSON has it; NaN and infinity are null."""
    median, low, high = row.ratio[:3] if row.ratio else (None, None, None)
    values = row._asdict() | {"ratio": median, "ratio_low": low, "ratio_high": high}
    del values["pairs"]
    whole = values | {"pairs": row.pairs}
    flattened: dict[str, Any] = json_values(whole)
    return flattened


def command() -> str:
    """Return the command that runs this again from the project's folder."""
    module = getattr(sys.modules["__main__"].__spec__, "name", "").removesuffix(".__main__")
    program = [f"-m {module}"] if module else [sys.argv[0]]
    return shlex.join([".venv/bin/python"]) + " " + " ".join([*program, shlex.join(sys.argv[1:])]).strip()


def commit() -> str:
    """Return the current commit, with `-dirty` when files differ or are untracked; "" outside of git."""
    try:
        return git("rev-parse", "HEAD") + ("-dirty" if git("status", "--porcelain") else "")
    except ToolError:
        return ""


def table(rows: Sequence[Row], bars: Mapping[str, Bar], title: str) -> Table:
    """Return the rows as a table, each with its goal."""
    result = Table("goal", "what", "value", "control", "ratio", "pairs", "bar", title=title, title_justify="left")
    for row in rows:
        bar = bars.get(row.goal)
        colour = "" if bar is None else "green" if bar.is_met(row) else "yellow"
        control = row.control + (f": {number(row.control_value)}" if row.control_value is not None else "")
        ratio = f"{row.ratio.median:.2f} [{row.ratio.low:.2f}, {row.ratio.high:.2f}]" if row.ratio else ""
        result.add_row(
            row.goal,
            row.what,
            f"{number(row.value)} {row.unit}",
            control,
            ratio,
            str(row.pairs),
            str(bar) if bar else "",
            style=colour,
        )
    return result


def draw_ratios(axes: Axes, rows: Sequence[Row], bars: Mapping[str, Bar]) -> None:
    """Draw each ratio and its interval on a logarithmic axis, with the goal as a tick; 1 is the control."""
    shown = [row for row in rows if row.ratio]
    for line, row in enumerate(shown):
        assert row.ratio is not None
        bar = bars.get(row.goal)
        colour = GREY if bar is None else GREEN if bar.is_met(row) else RUST
        axes.plot([row.ratio.low, row.ratio.high], [line, line], color=colour, linewidth=3, solid_capstyle="butt")
        axes.plot(row.ratio.median, line, "o", color=colour)
        if bar is not None and bar.field == "ratio":
            goal = bar.at_least if bar.at_least is not None else bar.at_most
            axes.plot(goal, line, "|", color="black", markersize=14)
    axes.axvline(1.0, color=GREY, linewidth=1, linestyle="--")
    axes.set_xscale("log")
    bounds = [bound for row in shown if row.ratio for bound in (row.ratio.low, row.ratio.high)]
    if bounds:
        axes.set_xlim(min(0.8, min(bounds) / 1.3), max(1.25, max(bounds) * 1.3))
    axes.xaxis.set_major_locator(FixedLocator(TICKS))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _place: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_yticks(range(len(shown)), [row.goal for row in shown])
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.set_xlabel("times better than the control: median and 95 % interval; | the goal")
    axes.grid(axis="x", alpha=0.25)
