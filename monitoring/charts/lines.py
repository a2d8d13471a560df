"""Charts as SVG, drawn on the server: lines with bands, stacked shares, lanes of events. Pure.

An SVG is as wide as the page. Text and dots are placed by per cent, and curves are in a nested SVG that is stretched, so nothing
is distorted on a narrow screen. Missing values are gaps. Colours are classes of `page.css`, which knows light and dark.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, TypeVar

from markupsafe import Markup, escape

from monitoring.charts.ticks import Tick, format_value, local_time, time_ticks, value_ticks
from pipeline.output.plain_text import printable_lines

COLOURS = 8  # classes c0 … c7; the last is grey, for the rest
HEIGHT, TOP, BOTTOM = 120, 8, 24  # of the plot, and the space around it, in pixels
LABEL_PX = 14  # between two labels at the ends of lines
WIDTH = 1000.0  # of the stretched coordinates
MAX_BRIDGED = 3.0  # a line bridges this many times the usual distance between points
P = TypeVar("P", bound=tuple[float, ...])  # (seconds of the epoch, …)
Points = Sequence[tuple[float, float]]  # (seconds of the epoch, value), ordered; a missing value is absent


class TimeAxis(NamedTuple):
    """The time axis that all charts of a page share; `step_s` is the usual distance between points."""

    start: float
    end: float
    step_s: float

    def per_cent(self, at: float) -> str:
        """Return the place of a moment on the axis."""
        return f"{100 * (at - self.start) / (self.end - self.start):.3f}%"

    def x(self, at: float) -> float:
        """Return the place of a moment in stretched coordinates."""
        return round(WIDTH * (at - self.start) / (self.end - self.start), 2)


class PlotLine(NamedTuple):
    """A line; `band` is (time, lower, upper). `usual_s` is the usual distance between points where that is not the axis' step.

    A filled line is filled down to zero.
    """

    name: str
    points: Points
    colour: int
    band: Sequence[tuple[float, float, float]] = ()
    usual_s: float = 0.0
    is_filled: bool = False

    def step_s(self, axis: TimeAxis) -> float:
        """Return the usual distance between points."""
        return max(self.usual_s, axis.step_s)


class LimitLine(NamedTuple):
    """A threshold, or a value to compare with."""

    value: float
    name: str
    is_alarm: bool = True


class Mark(NamedTuple):
    """An event that every chart marks with a thin vertical line."""

    at: float
    name: str


def line_chart(
    lines: Sequence[PlotLine], axis: TimeAxis, *, title: str, unit: str, limit: LimitLine | None = None,
    marks: Sequence[Mark] = (), from_zero: bool = True,
) -> Markup:  # fmt: skip
    """Draw lines with their bands and a threshold; names stand at the ends of the lines."""
    values = [value for line in lines for _, value in line.points]
    values += [bound for line in lines for _, lower, upper in line.band for bound in (lower, upper)]
    values += [limit.value] if limit else []
    ticks = value_ticks(0.0 if from_zero else min(values), max(values), unit)
    scale = _Scale(ticks[0].at, ticks[-1].at)
    bands = [(line, [(at, 0.0, value) for at, value in line.points] if line.is_filled else line.band) for line in lines]
    curves = [_area(part, axis, scale, line.colour) for line, band in bands for part in split_at_gaps(band, line.step_s(axis))]
    curves += [_curve(line, axis, scale) for line in lines]
    over = [_limit_line(limit, scale)] if limit else []
    over += [
        _dot(at, value, axis, scale, line.colour) for line in lines for at, value in lonely_points(line.points, line.step_s(axis))
    ]
    ends = [(scale.y(line.points[-1][1]), line.name, line.colour) for line in lines if line.points]
    rows: dict[float, list[str]] = {}
    for line in lines:
        for at, value in line.points:
            rows.setdefault(at, [local_time(at)]).append(f"{line.name}: {format_value(value, unit)}")
    return _frame(title, axis, ticks, scale, curves, over, ends, rows, marks)


def share_chart(names: Sequence[str], shares: Sequence[tuple[float, Sequence[float]]], axis: TimeAxis, *, title: str,
    marks: Sequence[Mark] = (),
) -> Markup:  # fmt: skip
    """Draw shares that add up to 1, stacked as bars of one step each; `shares` holds (time, a share for each name)."""
    scale, ticks = _Scale(0.0, 1.0), value_ticks(0.0, 1.0, "share")
    bars = []
    for at, parts in shares:
        left, right = axis.x(max(at - axis.step_s, axis.start)), axis.x(at)
        bottom = 0.0
        for number, share in enumerate(parts):
            if share:
                top, low = scale.y(bottom + share), scale.y(bottom)
                size = f'width="{right - left:.2f}" height="{low - top:.2f}"'
                bars.append(f'<rect class="bar {colour(number)}" x="{left}" y="{top}" {size}/>')
                bottom += share
    last = shares[-1][1]
    ends, bottom = [], 0.0
    for number, (name, share) in enumerate(zip(names, last, strict=True)):
        ends.append((scale.y(bottom + share / 2), f"{name} {share:.0%}", number))
        bottom += share
    rows = {
        at: [local_time(at), *(f"{name}: {share:.1%}" for name, share in zip(names, parts, strict=True) if share)]
        for at, parts in shares
    }
    return _frame(title, axis, ticks, scale, bars, [], ends, rows, marks)


class _Scale(NamedTuple):
    """The value axis, in pixels from the top."""

    low: float
    high: float

    def y(self, value: float) -> float:
        return round(HEIGHT * (1 - (value - self.low) / (self.high - self.low)), 2)


def colour(number: int) -> str:
    """Return the class of a colour; those beyond the last share it."""
    return f"c{min(number, COLOURS - 1)}"


def escaped(value: str) -> Markup:
    """Escape a text, and show what is invisible in it but line ends."""
    return escape(printable_lines(value))


def split_at_gaps(points: Sequence[P], step_s: float) -> Iterator[list[P]]:
    """Yield runs of points; where more than `MAX_BRIDGED` steps are missing, a new run begins."""
    run: list[P] = []
    for point in points:
        if run and point[0] - run[-1][0] > MAX_BRIDGED * step_s:
            yield run
            run = []
        run.append(point)
    if run:
        yield run


def lonely_points(points: Points, step_s: float) -> list[tuple[float, float]]:
    """Return points without neighbours, which a line would not show."""
    return [run[0] for run in split_at_gaps(points, step_s) if len(run) == 1]


def _curve(line: PlotLine, axis: TimeAxis, scale: _Scale) -> str:
    path = " ".join(
        "M" + " L".join(f"{axis.x(at)},{scale.y(value)}" for at, value in run)
        for run in split_at_gaps(line.points, line.step_s(axis))
    )
    return f'<path class="line {colour(line.colour)}" d="{path}"/>'


def _area(band: Sequence[tuple[float, float, float]], axis: TimeAxis, scale: _Scale, number: int) -> str:
    upper = [f"{axis.x(at)},{scale.y(high)}" for at, _, high in band]
    lower = [f"{axis.x(at)},{scale.y(low)}" for at, low, _ in reversed(band)]
    return f'<path class="band {colour(number)}" d="M{" L".join(upper + lower)} Z"/>'


def _dot(at: float, value: float, axis: TimeAxis, scale: _Scale, number: int) -> str:
    return f'<circle class="dot-mark {colour(number)}" cx="{axis.per_cent(at)}" cy="{scale.y(value)}" r="2.5"/>'


def _limit_line(limit: LimitLine, scale: _Scale) -> str:
    y = scale.y(limit.value)
    kind = "limit" if limit.is_alarm else "limit reference"
    return (
        f'<g class="{kind}"><line x1="0" x2="100%" y1="{y}" y2="{y}"/>'
        f'<text x="4" y="{y - 4 if y > 14 else y + 13}">{escaped(limit.name)}</text></g>'
    )


def _frame(
    title: str, axis: TimeAxis, ticks: Sequence[Tick], scale: _Scale, curves: Sequence[str], over: Sequence[str],
    ends: Sequence[tuple[float, str, int]], rows: Mapping[float, Sequence[str]], marks: Sequence[Mark],
) -> Markup:  # fmt: skip
    """Put curves into axes, with the names of lines at their ends, and what each moment holds as a tooltip."""
    half = 50 * axis.step_s / (axis.end - axis.start)
    tips = [
        f'<rect class="tip" x="{float(axis.per_cent(at)[:-1]) - half:.3f}%" width="{2 * half:.3f}%" height="{HEIGHT}">'
        f"<title>{escaped(chr(10).join(row))}</title></rect>"
        for at, row in sorted(rows.items())
    ]
    parts = [
        f'<svg class="chart" height="{TOP + HEIGHT + BOTTOM}" role="img" aria-label="{escaped(title)}">',
        f"<title>{escaped(title)}</title>",
        f'<svg y="{TOP}" height="{HEIGHT}" overflow="visible">',
        *(_value_tick(tick, scale) for tick in ticks),
        *(_time_tick(number, tick, axis) for number, tick in enumerate(time_ticks(axis.start, axis.end))),
        f'<svg width="100%" height="{HEIGHT}" viewBox="0 0 {WIDTH:.0f} {HEIGHT}" preserveAspectRatio="none">',
        *curves,
        "</svg>",
        *(_mark_line(mark, axis) for mark in marks if axis.start <= mark.at <= axis.end),
        *over,
        *(_end(y, name, number) for y, name, number in spread(ends)),
        *tips,
        "</svg></svg>",
        _keys(ends),
    ]
    return Markup("".join(parts))  # noqa: S704 (every text in it went through `escaped`)


def _value_tick(tick: Tick, scale: _Scale) -> str:
    y = scale.y(tick.at)
    return (
        f'<line class="grid" x2="100%" y1="{y}" y2="{y}"/><text class="tick value" x="-8" y="{y + 4}">{escaped(tick.text)}</text>'
    )


def _time_tick(number: int, tick: Tick, axis: TimeAxis) -> str:
    x = axis.per_cent(tick.at)
    minor = " minor" if number % 2 else ""
    return (
        f'<line class="grid" x1="{x}" x2="{x}" y1="{HEIGHT}" y2="{HEIGHT + 5}"/>'
        f'<text class="tick time{minor}" x="{x}" y="{HEIGHT + 19}">{escaped(tick.text)}</text>'
    )


def _mark_line(mark: Mark, axis: TimeAxis) -> str:
    x = axis.per_cent(mark.at)
    return f'<line class="mark" x1="{x}" x2="{x}" y1="0" y2="{HEIGHT}"><title>{escaped(mark.name)}</title></line>'


def _end(y: float, name: str, number: int) -> str:
    return (
        f'<line class="end {colour(number)}" x1="100%" x2="100%" y1="{y - 5}" y2="{y + 5}"/>'
        f'<text class="end-name" x="100%" dx="13" y="{y + 4}">{escaped(name)}</text>'
    )


def spread(ends: Sequence[tuple[float, str, int]]) -> list[tuple[float, str, int]]:
    """Move labels (y, name, colour) apart until none covers another, and keep them beside the plot where there is room."""
    placed: list[tuple[float, str, int]] = []
    for y, name, number in sorted(ends):
        placed.append((max(y, placed[-1][0] + LABEL_PX) if placed else y, name, number))
    low = float(HEIGHT)
    for index in range(len(placed) - 1, -1, -1):
        y, name, number = placed[index]
        placed[index] = (min(y, low), name, number)
        low = placed[index][0] - LABEL_PX
    return placed


def _keys(ends: Sequence[tuple[float, str, int]]) -> str:
    """Return the names as a list, which stands below the chart where there is no room beside it."""
    items = "".join(f'<li><span class="swatch {colour(number)}"></span>{escaped(name)}</li>' for _, name, number in sorted(ends))
    return f'<ul class="keys" aria-hidden="true">{items}</ul>'
