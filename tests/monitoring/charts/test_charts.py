"""Charts show gaps as gaps, never a value that is not there, and escape what comes from outside."""

import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from monitoring.charts.lanes import EventMark, Lane, Span, lane_chart
from monitoring.charts.lines import HEIGHT, LABEL_PX, LimitLine, Mark, PlotLine, TimeAxis, line_chart, share_chart, spread

AXIS = TimeAxis(0.0, 1000.0, 10.0)
HOSTILE = "</title><script>alert(1)</script>\u202e\"'"


def parse(svg: str) -> ElementTree.Element:
    """Return the root of markup that has to be well-formed."""
    return ElementTree.fromstring(f"<div>{svg}</div>")  # noqa: S314 (our own)


def parts(svg: str, name: str) -> list[ElementTree.Element]:
    """Return the elements of a class."""
    return [element for element in parse(svg).iter() if name in element.get("class", "").split()]


def test_missing_values_split_a_line_and_its_band() -> None:
    points = [(float(at), 1.0) for at in (0, 10, 20, 200, 210, 500)]
    band = [(at, 0.5, 1.5) for at, _ in points]
    svg = line_chart([PlotLine("rate", points, 0, band)], AXIS, title="Rate", unit="")
    (line,) = parts(svg, "line")
    assert line.get("d", "").count("M") == 3
    assert len(parts(svg, "band")) == 3
    assert [dot.get("cx") for dot in parts(svg, "dot-mark")] == ["50.000%"]  # a point without neighbours


def test_a_filled_line_is_filled_down_to_zero() -> None:
    (area,) = parts(
        line_chart([PlotLine("rate", [(0.0, 1.0), (10.0, 2.0)], 0, is_filled=True)], AXIS, title="R", unit=""), "band"
    )
    assert area.get("d") == f"M0.0,{HEIGHT / 2} L10.0,0.0 L10.0,{HEIGHT:.1f} L0.0,{HEIGHT:.1f} Z"


def test_a_sparse_series_is_joined_at_its_usual_distance() -> None:
    points = [(float(at), 1.0) for at in range(0, 1000, 100)]
    assert (
        parts(line_chart([PlotLine("w", points, 0, usual_s=100.0)], AXIS, title="W", unit=""), "line")[0].get("d", "").count("M")
        == 1
    )


def test_values_stand_where_the_axes_say() -> None:
    svg = line_chart([PlotLine("a", [(0.0, 0.0), (30.0, 2.0)], 0)], AXIS, title="A", unit="", limit=LimitLine(1.0, "limit"))
    assert parts(svg, "line")[0].get("d") == f"M0.0,{HEIGHT:.1f} L30.0,0.0"
    (limit,) = parts(svg, "limit")
    assert float(limit[0].get("y1", "")) == HEIGHT / 2


def test_a_tooltip_names_time_line_and_value_with_its_unit() -> None:
    svg = line_chart([PlotLine("P99", [(500.0, 0.042)], 0)], AXIS, title="Latency", unit="s")
    (tip,) = parts(svg, "tip")
    assert "".join(tip.itertext()).split("\n")[1] == "P99: 42 ms"


def test_shares_fill_the_height_and_moments_without_predictions_stay_empty() -> None:
    shares = [(100.0, [0.25, 0.75]), (110.0, [1.0, 0.0])]
    svg = share_chart(["a", "b"], shares, AXIS, title="Labels")
    bars = parts(svg, "bar")
    assert [(bar.get("class"), bar.get("x"), float(bar.get("height", ""))) for bar in bars] == [
        ("bar c0", "90.0", HEIGHT / 4),
        ("bar c1", "90.0", 3 * HEIGHT / 4),
        ("bar c0", "100.0", HEIGHT),
    ]


def test_names_at_the_ends_never_cover_each_other() -> None:
    placed = spread([(y, str(y), 0) for y in (0.0, 1.0, 2.0, HEIGHT - 1.0, HEIGHT + 0.0)])
    gaps = [later[0] - earlier[0] for earlier, later in pairwise(placed)]
    assert min(gaps) >= LABEL_PX
    assert placed[-1][0] <= HEIGHT


def test_events_and_spans_are_links_with_names() -> None:
    spans = [Span(-50.0, 100.0, "EvergreenDrift", "alert", "/live/why?name=a&b=1"), Span(900.0, None, "Open", "alert", "/x")]
    events = [EventMark(500.0, "version 2 promoted", "good", "/live/why?name=2"), EventMark(2000.0, "later", "good", "/y")]
    svg = lane_chart([Lane("Alerts", spans), Lane("Versions", events=events)], AXIS, title="What happened")
    links = [element for element in parse(svg).iter() if element.tag == "a"]
    assert [link.get("href") for link in links] == ["/live/why?name=a&b=1", "/x", "/live/why?name=2"]  # what is later is left out
    assert "version 2 promoted" in links[2].get("aria-label", "")
    span, still_open, _ = (next(iter(link)) for link in links)
    assert (span.get("x"), span.get("width")) == ("0.000%", "10.000%")
    assert "open" in still_open.get("class", "").split()


@pytest.mark.parametrize(
    "svg",
    [
        line_chart(
            [PlotLine(HOSTILE, [(1.0, 1.0)], 0)],
            AXIS,
            title=HOSTILE,
            unit="",
            limit=LimitLine(1, HOSTILE),
            marks=[Mark(2.0, HOSTILE)],
        ),
        share_chart([HOSTILE], [(1.0, [1.0])], AXIS, title=HOSTILE),
        lane_chart(
            [Lane(HOSTILE, [Span(1.0, 2.0, HOSTILE, "alert", HOSTILE)], [EventMark(1.0, HOSTILE, "good", HOSTILE)])],
            AXIS,
            title=HOSTILE,
        ),
    ],
)
def test_texts_from_outside_are_escaped(svg: str) -> None:
    parse(svg)
    assert "<script" not in svg
    assert "\u202e" not in svg
    assert not re.search(r"\son\w+=", svg)
