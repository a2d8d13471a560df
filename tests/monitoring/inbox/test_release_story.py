"""An alert on a release comes with why it ended and with its example texts, as the release stored them."""

from pathlib import Path
from typing import Any

import pytest

from monitoring.retrain_activity import RETRAIN_NOW
from pipeline.params import Alerts
from state.database import open_state
from state.tables import release_runs
from tests.monitoring.inbox.running_inbox import NOW, posted_alert, running_inbox, switch
from tests.monitoring.release.rows import release_row

HOSTILE = "<img src=x onerror=alert(1)> \u202e"


@pytest.fixture(autouse=True)
def _own_database(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EVERGREEN_STATE_URL", raising=False)


def rolled_back(**labels: str) -> dict[str, Any]:
    """Return the alert as Alertmanager posts it."""
    return posted_alert(
        {"alertname": "EvergreenReleaseRolledBack", "area": "release", "severity": "warning", "version": "2", "broken": "latency"}
        | labels,
        {"summary": "Version 2 was rolled back: it answered slowly", "description": "The champion answers everybody again."},
        NOW - 60,
        None,
    )


def add_run(home: Path, **columns: Any) -> None:
    with open_state(home) as engine, engine.begin() as connection:
        connection.execute(release_runs.insert(), release_row(**columns))


def ended(**columns: Any) -> dict[str, Any]:
    """Return the columns of a release that was rolled back, with ten texts."""
    answers = {"prediction_id": "p", "champion": "track", "challenger": "refund", "label": None}
    examples = [answers | {"text": f"text number {n}"} for n in range(9)]
    examples.append(answers | {"text": HOSTILE, "label": "track"})
    reason = "guardrail latency: 100.0% of them, at most 10.0% allowed; evidence 328.2 of 6.4"
    return {"stage": "ended", "outcome": "rolled_back", "reason": reason, "broken": "latency", "examples": examples} | columns


def test_a_roll_back_shows_what_broke_its_evidence_and_ten_texts(alerts: Alerts, tmp_path: Path) -> None:
    add_run(tmp_path, **ended())
    with running_inbox(alerts, tmp_path) as inbox:
        assert inbox.post(switch(NOW - 12), rolled_back()) == 204
        page, (card,) = inbox.page(), inbox.state()["incidents"]
    assert card["title"] == "Version 2 was rolled back: it answered slowly" and len(card["examples"]) == 10
    assert "Guardrail latency: 100.0% of them, at most 10.0% allowed; evidence 328.2 of 6.4" in page
    assert "text number 8\n→ champion: track; new version: refund</blockquote>" in page
    assert "people: track" in page and page.count("<blockquote") == 10
    assert "<img" not in page and "\u202e" not in page


@pytest.mark.parametrize("outcome", ["promoted", "aborted", None])
def test_a_version_that_was_released_again_since_is_not_accused(alerts: Alerts, tmp_path: Path, outcome: str | None) -> None:
    add_run(tmp_path, **ended())
    add_run(tmp_path, retrain_id=8, outcome=outcome)
    with running_inbox(alerts, tmp_path) as inbox:
        inbox.post(switch(NOW - 12), rolled_back())
        (card,) = inbox.state()["incidents"]
    assert card["why"] == "" and card["examples"] == []


@pytest.mark.parametrize("labels", [{"version": "x"}, {"version": "99"}, {"version": ""}])
def test_a_version_that_nobody_knows_is_shown_as_the_alert_has_it(alerts: Alerts, tmp_path: Path, labels: dict[str, str]) -> None:
    add_run(tmp_path, **ended())
    with running_inbox(alerts, tmp_path) as inbox:
        inbox.post(switch(NOW - 12), rolled_back(**labels))
        page = inbox.page()
    assert "it answered slowly" in page and "Example texts" not in page and RETRAIN_NOW in page
