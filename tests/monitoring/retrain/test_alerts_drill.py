"""The alert drill in small: a real receiver and real Alertmanagers are killed; and its promises can be broken."""

from pathlib import Path

from pipeline.params import Params
from tests.faults.timeline import draw
from tests.faults.watching import alerts


def test_nothing_acknowledged_is_lost_and_one_retrain_is_decided_on(params: Params, tools: Path, tmp_path: Path) -> None:
    amount = alerts.Amount(webhooks=150, callers=6, kills=1, shared_alerts=4)
    outcome, timeline = alerts.run(tmp_path / "drill", params, tools.absolute(), amount, print)
    broken = [promise.what for promise in outcome.promises if not promise.is_kept and not promise.what.startswith("P99")]
    assert broken == [], outcome.figures  # its speed depends on the load of the machine
    draw(timeline, tmp_path / "alerts.png")
    assert (tmp_path / "alerts.png").stat().st_size > 10_000


def test_a_lost_or_doubled_alert_breaks_a_promise() -> None:
    bounds = alerts.judge(
        alerts.Figures(
            p99_same_ms=60.0, p99_different_ms=10.0, started_by_one=2, started=2, episodes=5, decisions=6, lost=1, felt=0,
            missing=1, too_many=1, rss_mib=300.0,
        ),
        webhooks=10,
    )  # fmt: skip
    kept = [promise.what for promise in bounds if promise.is_kept]
    assert kept == ["P99 of 10 different ones"]
