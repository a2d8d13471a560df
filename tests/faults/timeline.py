"""Draw a drill's time line: latency, statuses and memory over time, with the faults marked; also as rows."""

from collections.abc import Sequence
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from pipeline.charts import GREEN, GREY, RUST
from pipeline.data.records import atomic_write
from serving.loadtest.result import percentile
from tests.faults.memory import Sample
from tests.faults.traffic import Traffic

AMBER, SHADE = "#d9a441", "#f3e3d3"
BINS = 400  # most bins of the time axis
MANY = 5000  # dots; with more they are drawn smaller
SHARES = ((200, "answered", GREEN), (503, "503, try again", AMBER), (0, "anything else", RUST))


class Mark(NamedTuple):
    """Mark a fault on the time line."""

    name: str  # drawn beside the mark; "": no name
    since_s: float  # of the monotonic clock
    until_s: float


class Line(NamedTuple):
    """Mark a latency for comparison."""

    name: str
    ms: float


class Timeline(NamedTuple):
    """Hold everything that the picture shows."""

    title: str
    traffic: Traffic
    samples: Sequence[Sample]
    marks: Sequence[Mark]
    lines: Sequence[Line]

    @property
    def zero_s(self) -> float:
        """Return the start of the time axis."""
        return float(self.traffic.at_s[0])

    @property
    def step_s(self) -> float:
        """Return the seconds of one bin."""
        return float(max(1, ceil((self.traffic.at_s[-1] - self.zero_s) / BINS)))

    def rows(self) -> list[dict[str, Any]]:
        """Return a row for each bin."""
        return rows(self)

    def draw(self, path: Path) -> None:
        """Draw the time line as PNG."""
        draw(self, path)


class DrillTimeline(Protocol):
    """Offer a time line of any kind as rows and as a picture."""

    def rows(self) -> list[dict[str, Any]]: ...

    def draw(self, path: Path) -> None: ...


def rows(timeline: Timeline) -> list[dict[str, Any]]:
    """Return a row for each bin: requests by how they ended, P50 and P99 of answers (ms), memory (MiB)."""
    traffic, step_s = timeline.traffic, timeline.step_s
    bins = ((traffic.at_s - timeline.zero_s) // step_s).astype(np.int64)
    table = []
    for number in np.unique(bins):
        in_bin = bins == number
        answered_ms = traffic.took_ms[in_bin & traffic.ok]
        since_s = timeline.zero_s + number * step_s
        row = {"at_s": float(number * step_s), "requests": int(in_bin.sum()), "status": traffic.by_status(in_bin)}
        row |= {"p50_ms": percentile(answered_ms, 50), "p99_ms": percentile(answered_ms, 99)}
        table.append(row | _memory(timeline.samples, since_s, since_s + step_s))
    return table


def draw(timeline: Timeline, path: Path) -> None:
    """Draw the time line as PNG."""
    figure = Figure(figsize=(12, 8), layout="constrained")
    latency, statuses, memory = figure.subplots(3, 1, sharex=True, height_ratios=(3, 2, 2))
    figure.suptitle(timeline.title)
    table = rows(timeline)
    _draw_latency(latency, timeline, table)
    _draw_statuses(statuses, timeline, table)
    _draw_memory(memory, timeline)
    for axes in (latency, statuses, memory):
        for mark in timeline.marks:
            axes.axvspan(mark.since_s - timeline.zero_s, mark.until_s - timeline.zero_s, color=SHADE, linewidth=0, zorder=0)
        axes.grid(alpha=0.25)
        axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    for mark in timeline.marks:
        latency.annotate(
            mark.name,
            (mark.since_s - timeline.zero_s, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(2, -3),
            textcoords="offset points",
            va="top",
            fontsize=8,
            color=RUST,
            rotation=90,
        )
    memory.set_xlabel("seconds; requests stand at their intended send times, and latency counts from there")
    memory.set_xlim(0, table[-1]["at_s"] + timeline.step_s)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as part:
        figure.savefig(part, format="png", dpi=110)


def _draw_latency(axes: Axes, timeline: Timeline, table: Sequence[dict[str, Any]]) -> None:
    at_s = [row["at_s"] + timeline.step_s / 2 for row in table]
    refused = timeline.traffic.status == 503
    for among, colour, name in ((refused, AMBER, "a 503"), (timeline.traffic.ok, GREY, "an answer")):
        shown = np.flatnonzero(among)
        axes.plot(
            timeline.traffic.at_s[shown] - timeline.zero_s,
            timeline.traffic.took_ms[shown],
            "o",
            markersize=1.6 if len(shown) < MANY else 0.6,
            markeredgewidth=0,
            color=colour,
            alpha=0.5 if len(shown) < MANY else 0.2,
            rasterized=True,
        )
        axes.plot([], [], "o", markersize=3, color=colour, label=name) if len(shown) else None
    for key, colour, name in (("p50_ms", "black", "P50 of answers"), ("p99_ms", GREEN, "P99 of answers")):
        axes.plot(at_s, [row[key] for row in table], color=colour, linewidth=1.4, label=name)
    for line, style in zip(timeline.lines, (":", "--", "-."), strict=False):
        axes.axhline(line.ms, color=RUST, linewidth=1, linestyle=style, label=f"{line.name}: {line.ms:.0f} ms")
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _place: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_ylabel("latency, ms")


def _draw_statuses(axes: Axes, timeline: Timeline, table: Sequence[dict[str, Any]]) -> None:
    at_s = [row["at_s"] + timeline.step_s / 2 for row in table]
    floor = np.zeros(len(table))
    for status, name, colour in SHARES:
        counts = np.array([_count(row["status"], status) for row in table]) / timeline.step_s
        if status == 200 or counts.any():
            axes.bar(at_s, counts, timeline.step_s, bottom=floor, color=colour, linewidth=0, label=name)
        floor += counts
    axes.set_ylabel("requests/s")


def _count(by_status: dict[str, int], status: int) -> int:
    """Count requests of this status; 0 stands for all statuses but 200 and 503."""
    return by_status.get(str(status), 0) if status else sum(n for name, n in by_status.items() if name not in ("200", "503"))


def _draw_memory(axes: Axes, timeline: Timeline) -> None:
    at_s = [sample.at_s - timeline.zero_s for sample in timeline.samples]
    for kind, colour, name in (("triton", GREEN, "Triton"), ("gateway", "black", "gateway"), ("models", GREY, "model processes")):
        axes.plot(at_s, [getattr(sample, kind) for sample in timeline.samples], color=colour, linewidth=1.4, label=name)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("resident MiB")


def _memory(samples: Sequence[Sample], since_s: float, until_s: float) -> dict[str, float]:
    in_bin = [sample for sample in samples if since_s <= sample.at_s < until_s]
    return {f"{kind}_mib": round(getattr(in_bin[-1], kind), 1) for kind in ("triton", "models", "gateway")} if in_bin else {}
