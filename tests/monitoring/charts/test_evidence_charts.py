"""Charts of tests: bars up to a threshold, and a difference with its interval."""

import re

from monitoring.charts.evidence import EvidenceBar, difference_chart, evidence_chart
from monitoring.charts.lines import LimitLine
from tests.monitoring.console.published import HOSTILE


def widths(drawn: str) -> list[float]:
    return [float(width) for width in re.findall(r'class="span [^"]*" width="([\d.]+)%"', drawn)]


def test_bars_grow_with_the_evidence_up_to_the_end() -> None:
    bars = [EvidenceBar("a", share, "", "bad") for share in (0.0, 0.5, 1.0, 9.0)]
    assert widths(evidence_chart(bars, title="t")) == [0.35, 40.0, 80.0, 100.0]


def test_a_difference_stands_between_its_bounds_and_beside_its_limits() -> None:
    drawn = difference_chart(
        -0.01, (-0.03, 0.01), [LimitLine(0.0, "equal", is_alarm=False), LimitLine(-0.02, "margin")], title="t"
    )
    left, width = (float(part) for part in re.findall(r'class="interval" x="([\d.]+)%" y="\d+" width="([\d.]+)%"', drawn)[0])
    at = float(re.findall(r'cx="([\d.]+)%"', drawn)[0])
    assert abs(at - (left + width / 2)) < 0.05
    assert re.findall(r'<g class="([^"]+)">', drawn) == ["limit reference", "limit"]


def test_an_interval_without_width_is_drawn() -> None:
    assert "circle" in difference_chart(0.0, (0.0, 0.0), [], title="t")


def test_names_are_text() -> None:
    drawn = evidence_chart([EvidenceBar(HOSTILE, 0.5, HOSTILE, "bad")], title=HOSTILE)
    assert "<script>" not in drawn and "\u202e" not in drawn
