"""What a bench leaves: `reports/bench/<name>.json` with a row a goal, a table on the terminal, a picture of the ratios.

Measurements come in pairs, taken one after the other in one run; a ratio is the median over pairs with a bootstrap interval.
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

from evergreen.promises import number
from pipeline.charts import GREEN, GREY, RUST
from pipeline.data.records import json_values, write_json
from pipeline.errors import ToolError
from pipeline.home import git

RESAMPLES, CONFIDENCE, SEED = 10_000, 0.95, 17
TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


class Ratio(NamedTuple):
    """How many times better than the control: median over pairs, bounds of its bootstrap interval."""

    median: float
    low: float
    high: float
    pairs: int


class Row(NamedTuple):
    """One goal; `value` is in the row's own unit, `ratio` = how many times better than the control. None: there is none."""

    goal: str
    what: str
    value: float
    unit: str
    control: str
    control_value: float | None
    ratio: Ratio | None
    pairs: int


class Bar(NamedTuple):
    """What a goal asks for: `value` or `ratio` at least or at most so much."""

    field: str  # value | ratio
    at_least: float | None = None
    at_most: float | None = None

    def is_met(self, row: Row) -> bool:
        """Whether the row's median stands at the right side; a number that is not there, or NaN, does not."""
        found = row.value if self.field == "value" else row.ratio.median if row.ratio else float("nan")
        if isnan(found):
            return False
        return (self.at_least is None or found >= self.at_least) and (self.at_most is None or found <= self.at_most)

    def __str__(self) -> str:
        sign, limit = ("≥", self.at_least) if self.at_least is not None else ("≤", self.at_most)
        return f"{sign} {limit:g}{'x' if self.field == 'ratio' else ''}"


def paired_ratio(better: Sequence[float], worse: Sequence[float]) -> Ratio:
    """Of `better[i] / worse[i]`: the median and the 95 % percentile bootstrap interval of it, pairs drawn whole.

    With five pairs the interval is the whole range. Raises `ValueError` for lists of unlike length or values not above 0.
    """
    if len(better) != len(worse) or not len(better):
        raise ValueError(f"{len(better)} and {len(worse)} values are no pairs")
    values = np.array([better, worse], dtype=np.float64)
    if not (np.isfinite(values) & (values > 0)).all():
        raise ValueError("a ratio needs values above 0")
    return Ratio(*median_interval(values[0] / values[1]), len(better))


def median_interval(values: Sequence[float] | np.ndarray[Any, Any]) -> tuple[float, float, float]:
    """Median, and the bounds of its percentile bootstrap interval; the same values give the same bounds."""
    own = np.asarray(values, dtype=np.float64)
    draws = np.random.default_rng(SEED).integers(0, len(own), size=(RESAMPLES, len(own)))
    medians = np.median(own[draws], axis=1)
    low, high = np.percentile(medians, [50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)])
    return float(np.median(own)), float(low), float(high)


def write(rows: Sequence[Row], folder: Path, name: str) -> Path:
    """`<folder>/<name>.json`: the rows with the command, the commit and the date (UTC) of now."""
    origin = {"command": command(), "commit": commit(), "date": datetime.now(UTC).isoformat(timespec="seconds")}
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    write_json(path, [flat(row) | origin for row in rows])
    return path


def flat(row: Row) -> dict[str, Any]:
    """The row as JSON has it; NaN and infinity are null."""
    median, low, high = row.ratio[:3] if row.ratio else (None, None, None)
    values = row._asdict() | {"ratio": median, "ratio_low": low, "ratio_high": high}
    del values["pairs"]
    whole = values | {"pairs": row.pairs}
    flattened: dict[str, Any] = json_values(whole)
    return flattened


def command() -> str:
    """What has to be typed to run this again, from the project's folder."""
    module = getattr(sys.modules["__main__"].__spec__, "name", None)
    called = [f"-m {module}"] if module else [sys.argv[0]]
    return shlex.join([".venv/bin/python"]) + " " + " ".join([*called, shlex.join(sys.argv[1:])]).strip()


def commit() -> str:
    """The commit of the current folder, `-dirty` behind it when files differ from it or are not in it; "" outside of git."""
    try:
        return git("rev-parse", "HEAD") + ("-dirty" if git("status", "--porcelain") else "")
    except ToolError:
        return ""


def table(rows: Sequence[Row], bars: Mapping[str, Bar], title: str) -> Table:
    """The rows for the terminal, each beside its bar."""
    made = Table("goal", "what", "value", "control", "ratio", "pairs", "bar", title=title, title_justify="left")
    for row in rows:
        bar = bars.get(row.goal)
        colour = "" if bar is None else "green" if bar.is_met(row) else "yellow"
        control = row.control + (f": {number(row.control_value)}" if row.control_value is not None else "")
        ratio = f"{row.ratio.median:.2f} [{row.ratio.low:.2f}, {row.ratio.high:.2f}]" if row.ratio else ""
        made.add_row(
            row.goal,
            row.what,
            f"{number(row.value)} {row.unit}",
            control,
            ratio,
            str(row.pairs),
            str(bar) if bar else "",
            style=colour,
        )
    return made


def draw_ratios(axes: Axes, rows: Sequence[Row], bars: Mapping[str, Bar]) -> None:
    """Each row's ratio and interval on a logarithmic axis, the ratio its bar asks for as a tick; 1 is the control."""
    shown = [row for row in rows if row.ratio]
    for line, row in enumerate(shown):
        assert row.ratio is not None
        bar = bars.get(row.goal)
        colour = GREY if bar is None else GREEN if bar.is_met(row) else RUST
        axes.plot([row.ratio.low, row.ratio.high], [line, line], color=colour, linewidth=3, solid_capstyle="butt")
        axes.plot(row.ratio.median, line, "o", color=colour)
        if bar is not None and bar.field == "ratio":
            wanted = bar.at_least if bar.at_least is not None else bar.at_most
            axes.plot(wanted, line, "|", color="black", markersize=14)
    axes.axvline(1.0, color=GREY, linewidth=1, linestyle="--")
    axes.set_xscale("log")
    reach = [bound for row in shown if row.ratio for bound in (row.ratio.low, row.ratio.high)]
    if reach:
        axes.set_xlim(min(0.8, min(reach) / 1.3), max(1.25, max(reach) * 1.3))
    axes.xaxis.set_major_locator(FixedLocator(TICKS))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _place: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_yticks(range(len(shown)), [row.goal for row in shown])
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.set_xlabel("times better than the control: median and 95 % interval; | what the goal asks for")
    axes.grid(axis="x", alpha=0.25)
