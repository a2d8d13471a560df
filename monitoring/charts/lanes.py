"""A chart of what happened: a lane for each kind of event, with spans and marks that lead to their details. Pure."""

from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup

from monitoring.charts.lines import BOTTOM, TimeAxis, escaped
from monitoring.charts.ticks import local_time, time_ticks

LANE_PX, NAME_PX, SPAN_PX = 34, 13, 11  # of a lane, its name and its spans
MIN_WIDTH = 0.35  # per cent: a short span is still seen


class Span(NamedTuple):
    """Something that lasted; `end` is None while it lasts."""

    start: float
    end: float | None
    name: str
    kind: str  # a class of `page.css`: alert, retrain
    url: str


class EventMark(NamedTuple):
    """Something that happened at a moment."""

    at: float
    name: str
    kind: str  # good, bad, neutral
    url: str


class Lane(NamedTuple):
    """A lane and its name."""

    name: str
    spans: Sequence[Span] = ()
    events: Sequence[EventMark] = ()


def lane_chart(lanes: Sequence[Lane], axis: TimeAxis, *, title: str) -> Markup:
    """Draw the lanes, one below the other, on the time axis of the other charts."""
    height = LANE_PX * len(lanes)
    parts = [
        f'<svg class="chart lanes" height="{height + BOTTOM}" role="group" aria-label="{escaped(title)}">',
        f'<svg height="{height}" overflow="visible">',
    ]
    for number, tick in enumerate(time_ticks(axis.start, axis.end)):
        x = axis.per_cent(tick.at)
        parts.append(
            f'<line class="grid" x1="{x}" x2="{x}" y1="0" y2="{height + 5}"/>'
            f'<text class="tick time{" minor" if number % 2 else ""}" x="{x}" y="{height + 19}">{escaped(tick.text)}</text>'
        )
    for number, lane in enumerate(lanes):
        top = LANE_PX * number
        parts.append(f'<text class="lane-name" x="0" y="{top + NAME_PX}">{escaped(lane.name)}</text>')
        parts.append(f'<line class="grid" x2="100%" y1="{top + LANE_PX - 1}" y2="{top + LANE_PX - 1}"/>')
        parts += [_span(span, top, axis) for span in lane.spans if _is_seen(span.start, span.end, axis)]
        parts += [_event(event, top, axis) for event in lane.events if axis.start <= event.at <= axis.end]
    parts.append("</svg></svg>")
    return Markup("".join(parts))  # noqa: S704 (every text in it went through `escaped`)


def _is_seen(start: float, end: float | None, axis: TimeAxis) -> bool:
    return start <= axis.end and (end is None or end >= axis.start)


def describe(span: Span) -> str:
    """Return what a span was, and from when to when."""
    return f"{span.name}, from {local_time(span.start)} {f'to {local_time(span.end)}' if span.end is not None else 'until now'}"


def _span(span: Span, top: float, axis: TimeAxis) -> str:
    left = max(0.0, float(axis.per_cent(span.start)[:-1]))
    right = min(100.0, float(axis.per_cent(axis.end if span.end is None else span.end)[:-1]))
    place = f'x="{left:.3f}%" y="{top + NAME_PX + 5}" width="{max(right - left, MIN_WIDTH):.3f}%" height="{SPAN_PX}" rx="3"'
    classes = f"span {span.kind}{' open' if span.end is None else ''}"
    return _link(span.url, describe(span), f'<rect class="{escaped(classes)}" {place}>', "</rect>")


def _event(event: EventMark, top: float, axis: TimeAxis) -> str:
    place = f'cx="{axis.per_cent(event.at)}" cy="{top + NAME_PX + 5 + SPAN_PX / 2}" r="5.5"'
    what = f"{event.name}, {local_time(event.at)}"
    return _link(event.url, what, f'<circle class="{escaped(f"event {event.kind}")}" {place}>', "</circle>")


def _link(url: str, what: str, opening: str, closing: str) -> str:
    """Return a shape that is a link, with its text as the name and as the tooltip."""
    return f'<a href="{escaped(url)}" aria-label="{escaped(what)}">{opening}<title>{escaped(what)}</title>{closing}</a>'
