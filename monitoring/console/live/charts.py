"""What each chart of the page Live shows, from which source, and the same values as a table."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeVar

from markupsafe import Markup

from monitoring.charts.lines import LimitLine, Mark, PlotLine, TimeAxis, line_chart, share_chart
from monitoring.charts.ticks import format_value, local_time

PROMETHEUS, LOG, WINDOWS = "Prometheus", "the prediction log", "the state database"
REACHES_FURTHER = 0.05  # of the range: by this much stored values must begin earlier to be preferred
BAR_STEPS = 4  # in a bar of shares: fewer predictions are mostly noise
NAMES_SHOWN = 7  # of shares; the others are one
Moments = Sequence[tuple[float, Sequence[float]]]  # (time, a value for each name), ordered


class Lines(NamedTuple):
    """Lines from one source."""

    lines: Sequence[PlotLine]
    source: str

    @property
    def since(self) -> float:
        """Return the time of the first value; infinite without any."""
        return min((line.points[0][0] for line in self.lines if line.points), default=math.inf)


class Shares(NamedTuple):
    """Shares from one source."""

    names: Sequence[str]
    moments: Moments
    source: str

    @property
    def since(self) -> float:
        """Return the time of the first shares; infinite without any."""
        return self.moments[0][0] if self.moments else math.inf


class Table(NamedTuple):
    """The values behind a chart, newest first."""

    names: Sequence[str]
    rows: Sequence[tuple[str, Sequence[str]]]


class ChartView(NamedTuple):
    """A chart as the page shows it; without values, `svg` is empty and `missing` says why."""

    id: str
    title: str
    unit: str
    svg: Markup
    table: Table
    source: str
    missing: str
    latest: str


class Frame(NamedTuple):
    """What all charts of a page share."""

    axis: TimeAxis
    marks: Sequence[Mark]


S = TypeVar("S", Lines, Shares)


def prefer(prometheus: S, stored: S, axis: TimeAxis) -> S:
    """Return what Prometheus knows, unless what is stored begins earlier."""
    if math.isinf(prometheus.since):
        return stored
    further_s = max(2 * axis.step_s, REACHES_FURTHER * (axis.end - axis.start))
    return stored if stored.since < prometheus.since - further_s else prometheus


def show_lines(
    id: str, title: str, unit: str, shown: Lines, frame: Frame, missing: str, *, limit: LimitLine | None = None,
    from_zero: bool = True, in_words: str = "",
) -> ChartView:  # fmt: skip
    """Draw lines, or say why there are none."""
    lines = [line for line in shown.lines if line.points]
    if not lines:
        return ChartView(id, title, in_words, Markup(), Table((), ()), "", missing, "")
    svg = line_chart(
        lines, frame.axis, title=f"{title}, {in_words}", unit=unit, limit=limit, marks=frame.marks, from_zero=from_zero
    )
    newest = [(line, line.points[-1]) for line in lines]
    is_current = all(frame.axis.end - at <= 3 * line.step_s(frame.axis) for line, (at, _) in newest)
    latest = format_value(newest[0][1][1], unit) if len(lines) == 1 and is_current else ""
    return ChartView(id, title, in_words, svg, lines_table(lines, unit), shown.source, "", latest)


def show_shares(id: str, title: str, shown: Shares, frame: Frame, missing: str, alone: str) -> ChartView:
    """Draw shares, or say why there are none; with a single name there is nothing to draw, and `alone` says so."""
    if not shown.moments:
        return ChartView(id, title, "", Markup(), Table((), ()), "", missing, "")
    if len(shown.names) == 1:
        return ChartView(id, title, "", Markup(), Table((), ()), "", alone.format(shown.names[0]), "")
    shown, axis = with_rest(shown), frame.axis._replace(step_s=frame.axis.step_s * BAR_STEPS)
    in_words = "share of predictions"
    svg = share_chart(shown.names, shown.moments, axis, title=f"{title}, {in_words}", marks=frame.marks)
    rows = [(local_time(at), [f"{share:.1%}" for share in parts]) for at, parts in reversed(shown.moments)]
    return ChartView(id, title, in_words, svg, Table(shown.names, rows), shown.source, "", "")


def lines_table(lines: Sequence[PlotLine], unit: str) -> Table:
    """Return the values of lines and their bounds; an empty cell where a line has no value."""
    columns: dict[str, dict[float, str]] = {}
    for line in lines:
        columns[line.name] = {at: format_value(value, unit) for at, value in line.points}
        if line.band:
            columns[f"{line.name}, bounds"] = {
                at: f"{format_value(low, unit)} to {format_value(high, unit)}" for at, low, high in line.band
            }
    times = sorted({at for column in columns.values() for at in column}, reverse=True)
    return Table(tuple(columns), [(local_time(at), [column.get(at, "") for column in columns.values()]) for at in times])


def as_shares(amounts: Mapping[float, Mapping[str, float]], axis: TimeAxis, source: str) -> Shares:
    """Turn amounts by time and name into shares of `BAR_STEPS` steps each, up to the end; the largest name is first."""
    bar_s = axis.step_s * BAR_STEPS
    totals: dict[float, dict[str, float]] = {}
    for at, named in amounts.items():
        bar = totals.setdefault(axis.end - (axis.end - at) // bar_s * bar_s, {})
        for name, amount in named.items():
            bar[name] = bar.get(name, 0.0) + amount
    sums: dict[str, float] = {}
    for bar in totals.values():
        for name, amount in bar.items():
            sums[name] = sums.get(name, 0.0) + amount
    names = sorted(sums, key=lambda name: (-sums[name], name))
    moments = []
    for at in sorted(totals):
        whole = sum(totals[at].values())
        if whole:
            moments.append((at, [totals[at].get(name, 0.0) / whole for name in names]))
    return Shares(names, moments, source)


def with_rest(shares: Shares) -> Shares:
    """Join the names beyond `NAMES_SHOWN`."""
    if len(shares.names) <= NAMES_SHOWN + 1:
        return shares
    names = [*shares.names[:NAMES_SHOWN], f"{len(shares.names) - NAMES_SHOWN} others"]
    moments = [(at, [*parts[:NAMES_SHOWN], sum(parts[NAMES_SHOWN:])]) for at, parts in shares.moments]
    return Shares(names, moments, shares.source)
