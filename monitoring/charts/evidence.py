"""Charts of tests: evidence as bars up to a threshold, and a difference with its interval. Pure."""

from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup

from monitoring.charts.lines import LimitLine, escaped
from monitoring.charts.ticks import format_value, value_ticks

ROW_PX, NAME_PX, BAR_PX = 40, 13, 12  # of a row, its name and its bar
THRESHOLD_AT = 80.0  # per cent of the width; a bar that goes beyond it is cut at the end
MIN_WIDTH = 0.35  # per cent: no evidence is still seen
DIFFERENCE_PX = 64
EDGE = 8.0  # per cent


class EvidenceBar(NamedTuple):
    """One test: `share` is its evidence over its threshold, `value` the same in words."""

    name: str
    share: float
    value: str
    kind: str  # a class of `page.css`: good, bad or neutral


def evidence_chart(bars: Sequence[EvidenceBar], *, title: str) -> Markup:
    """Draw a bar a test, all with their thresholds at the same place."""
    height = ROW_PX * len(bars)
    parts = [f'<svg class="evidence" width="100%" height="{height}" role="img" aria-label="{escaped(title)}">']
    for number, bar in enumerate(bars):
        top = ROW_PX * number
        width = min(100.0, max(MIN_WIDTH, THRESHOLD_AT * bar.share))
        place = f'y="{top + NAME_PX + 5}" height="{BAR_PX}" rx="3"'
        parts.append(
            f'<text class="lane-name" x="0" y="{top + NAME_PX}">{escaped(bar.name)}</text>'
            f'<text class="lane-name value" x="100%" y="{top + NAME_PX}" text-anchor="end">{escaped(bar.value)}</text>'
            f'<rect class="track" width="100%" {place}/>'
            f'<rect class="span {escaped(bar.kind)}" width="{width:.2f}%" {place}>'
            f"<title>{escaped(f'{bar.name}: {bar.value}')}</title></rect>"
            f'<line class="threshold" x1="{THRESHOLD_AT}%" x2="{THRESHOLD_AT}%" y1="{top + NAME_PX + 2}" '
            f'y2="{top + NAME_PX + BAR_PX + 8}"/>'
        )
    return Markup("".join([*parts, "</svg>"]))  # noqa: S704 (every text in it went through `escaped`)


def difference_chart(value: float, bounds: tuple[float, float], limits: Sequence[LimitLine], *, title: str) -> Markup:
    """Draw a difference of shares with its interval, and values to compare with."""
    shown = [value, *bounds, *(limit.value for limit in limits)]
    ticks = value_ticks(min(shown), max(shown), "share")
    low, high = ticks[0].at, ticks[-1].at

    def x(at: float) -> str:
        return f"{100 * (at - low) / (high - low):.2f}%"

    width = f"{100 * (bounds[1] - bounds[0]) / (high - low):.2f}%"
    middle = DIFFERENCE_PX // 2
    in_words = (
        f"{title}: {format_value(value, 'share')}, {format_value(bounds[0], 'share')} to {format_value(bounds[1], 'share')}"
    )
    parts = [
        f'<svg class="evidence difference" width="100%" height="{DIFFERENCE_PX}" role="img" aria-label="{escaped(in_words)}">',
        f"<title>{escaped(in_words)}</title>",
        *(f'<line class="grid" x1="{x(tick.at)}" x2="{x(tick.at)}" y1="14" y2="{DIFFERENCE_PX - 16}"/>' for tick in ticks),
        *(
            f'<text class="tick" x="{x(tick.at)}" y="{DIFFERENCE_PX - 3}" text-anchor="{_anchor(number, len(ticks))}">'
            f"{escaped(tick.text)}</text>"
            for number, tick in enumerate(ticks)
        ),
        f'<rect class="interval" x="{x(bounds[0])}" y="{middle - 7}" width="{width}" height="10" rx="3"/>',
        f'<circle class="point" cx="{x(value)}" cy="{middle - 2}" r="5"/>',
        *(_limit(limit, 100 * (limit.value - low) / (high - low)) for limit in limits),
        "</svg>",
    ]
    return Markup("".join(parts))  # noqa: S704 (every text in it went through `escaped`)


def _anchor(number: int, count: int) -> str:
    return "start" if number == 0 else "end" if number == count - 1 else "middle"


def _limit(limit: LimitLine, at: float) -> str:
    """Return a value to compare with, at this place in per cent; its name stays inside the chart."""
    side = "start" if at < EDGE else "end" if at > 100 - EDGE else "middle"
    return (
        f'<g class="{"limit" if limit.is_alarm else "limit reference"}">'
        f'<line x1="{at:.2f}%" x2="{at:.2f}%" y1="14" y2="{DIFFERENCE_PX - 16}"/>'
        f'<text x="{at:.2f}%" y="11" text-anchor="{side}">{escaped(limit.name)}</text></g>'
    )
