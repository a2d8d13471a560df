"""The drill of alerts, small: a real receiver and real Alertmanagers, killed; and that its promises can be broken."""

from pathlib import Path

from pipeline.params import Params
from tests.faults import alerts
from tests.faults.timeline import draw


def test_nothing_acknowledged_is_lost_and_one_retrain_is_decided_on(params: Params, tools: Path, tmp_path: Path) -> None:
    amount = alerts.Amount(webhooks=150, callers=6, kills=1, told=4)
    outcome, story = alerts.run(tmp_path / "drill", params, tools.absolute(), amount, print)
    broken = [one.what for one in outcome.promises if not one.is_kept and not one.what.startswith("P99")]
    assert broken == [], outcome.figures  # how fast it is depends on what else the machine does
    draw(story, tmp_path / "alerts.png")
    assert (tmp_path / "alerts.png").stat().st_size > 10_000


def test_what_was_lost_or_came_twice_breaks_a_promise() -> None:
    bounds = alerts.judge(
        alerts.Figures(
            p99_same_ms=60.0, p99_different_ms=10.0, started_by_one=2, started=2, episodes=5, decisions=6, lost=1, felt=0,
            missing=1, too_many=1, rss_mib=300.0,
        ),
        webhooks=10,
    )  # fmt: skip
    kept = [one.what for one in bounds if one.is_kept]
    assert kept == ["P99 of 10 different ones"]
