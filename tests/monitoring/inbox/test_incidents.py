"""Incidents: one card for one cause, each number once and of the right test, and the decision as it stands now."""

from collections.abc import Callable
from typing import Any

import pytest

from monitoring.decisions import Decided
from monitoring.inbox.explanation import Explanation
from monitoring.inbox.incidents import Card, cards_of
from monitoring.inbox.messages import Message, Switch
from pipeline.params import Alerts
from tests.monitoring.inbox.running_inbox import NOW, REPORT

FindDecision = Callable[[str, float, float], Decided | None]


def message(name: str = "EvergreenDrift", area: str = "drift", started: float = NOW - 300, **fields: Any) -> Message:
    labels = {"alertname": name, "area": area, "severity": "warning", "version": "3"} | fields.pop("labels", {})
    annotations = {
        "summary": f"{name} of {labels.get('signal', 'a signal')}",
        "description": "The evidence (log e-value) is 10.42, above its threshold of 9.21.",
        "sure": "Without a change, the evidence on one signal passes its threshold about once in 2.7 years.",
        "cost": "Not known yet: no window has filled.",
        "decided": "as the alert said",
        "next": "as the alert said",
    }
    stored: dict[str, Any] = {
        "fingerprint": f"{sorted(labels.items())}",
        "starts_at": started,
        "ends_at": None,
        "labels": labels,
        "annotations": annotations | fields.pop("annotations", {}),
        "received_at": started,
        "repeated_at": NOW,
        "explanation": None,
        "explanation_error": "",
    }
    return Message(**stored | fields)


def signal(name: str, **fields: Any) -> Message:
    return message(labels={"signal": name}, **fields)


def report(**fields: Any) -> Explanation:
    """Return the report of the issue: the evidence is over its threshold, the last window's statistic is not."""
    sketch = {**REPORT["signals"][0], "value": 1.38, "window_threshold": 3.86}  # type: ignore[index]
    return Explanation.model_validate(REPORT | {"signals": [sketch], "tolerated_loss": 0.02} | fields)


def cards(alerts: Alerts, *messages: Message, find: FindDecision = lambda *_: None) -> list[Card]:
    return cards_of(messages, None, NOW, alerts, find)


def test_an_alert_shows_the_evidence_of_its_own_test_alone(alerts: Alerts) -> None:
    (card,) = cards(alerts, signal("input_sketch", explanation=report()))
    (line,) = card.lines
    assert line.evidence == "Evidence (log e-value): 14.8, over its threshold of 9.21."  # not 1.38 under 3.86, not 10.42


def test_an_alert_on_a_window_shows_the_window(alerts: Alerts) -> None:
    window = message("EvergreenWindowDrift", labels={"signal": "input_sketch"}, explanation=report())
    (line,) = cards(alerts, window)[0].lines
    assert line.evidence == (
        "Statistic of the last window: 1.38 now, back under its threshold of 3.86; the alert ends if it stays there."
    )


def test_an_estimate_that_shows_no_fall_is_not_a_loss_of_nothing(alerts: Alerts) -> None:
    accuracy = {"estimate": 0.95, "lower": 0.9, "upper": 0.97, "reference": 0.94}
    (card,) = cards(alerts, signal("input_sketch", explanation=report(accuracy=accuracy)))
    assert card.cost == (
        "In the last full window accuracy is estimated, without labels, at 95.0% (90.0% to 97.0%). "
        "On the reference it was 94.0%; a fall by more than 2.0% is not shown."
    )


def test_labels_that_prove_a_fall_are_named_beside_the_estimate(alerts: Alerts) -> None:
    labelled = {"labels": 60, "estimate": 0.8, "lower": 0.7, "upper": 0.88}
    (card,) = cards(alerts, signal("input_sketch", explanation=report(labelled=labelled)))
    assert (
        "By 60 labels it is 80.0% (70.0% to 88.0%). On the reference it was 94.0%; a fall by more than 2.0% is shown."
        in card.cost
    )


def test_alerts_of_one_version_are_one_card_with_its_retrain(alerts: Alerts) -> None:
    critical = {"severity": "critical"}
    (card,) = cards(
        alerts,
        signal("input_sketch"),
        signal("input_length", started=NOW - 400, ends_at=NOW - 350),
        message("EvergreenWindowDrift", labels={"signal": "input_sketch"}),
        message("EvergreenAccuracyHarm", "quality", NOW - 60, labels=critical),
        message("EvergreenRetrainRunning", "retrain", NOW - 30, labels={"severity": "info"}),
    )
    assert card.title == "Answers of version 3 got worse"
    assert (card.severity, card.started_at, card.status, len(card.lines)) == ("critical", NOW - 400, "firing", 5)
    assert len(card.sure) == 1  # said once


def test_another_version_and_a_later_episode_are_other_cards(alerts: Alerts) -> None:
    early = signal("input_sketch", started=NOW - 9_000, ends_at=NOW - 8_000)
    other = message(labels={"signal": "input_sketch", "version": "4"})
    watch = message("EvergreenWindowNeverFull", "watch")
    switch = Switch(evaluated_at=NOW, unbroken_since=NOW - 10_000)
    found = cards_of([early, signal("input_sketch"), other, watch], switch, NOW, alerts, lambda *_: None)
    assert [(card.title, card.status) for card in found] == [
        ("Traffic of version 3 has changed", "firing"),
        ("Traffic of version 4 has changed", "firing"),
        ("EvergreenWindowNeverFull of a signal", "firing"),
        ("Traffic of version 3 has changed", "over"),
    ]


def test_the_decision_that_is_stored_replaces_the_one_that_the_alert_said(alerts: Alerts) -> None:
    asked: list[tuple[str, float, float]] = []

    def find(version: str, since: float, until: float) -> Decided:
        asked.append((version, since, until))
        return Decided("running", "A retrain runs: accuracy has fallen.", "retrain 4 began", "Follow it", "status")

    (card,) = cards(alerts, signal("input_sketch"), signal("input_length", started=NOW - 500), find=find)
    assert (card.decided, card.next_step, card.command) == ("A retrain runs: accuracy has fallen.", "Follow it", "status")
    assert asked == [("3", NOW - 500, NOW)]


def test_without_a_stored_decision_the_alert_speaks(alerts: Alerts) -> None:
    (card,) = cards(alerts, signal("input_sketch"))
    assert (card.decided, card.next_step, card.cost) == ("as the alert said",) * 2 + ("Not known yet: no window has filled.",)


@pytest.mark.parametrize("name", ["EvergreenEstimatedAccuracyLow", "EvergreenLabelledAccuracyFallen"])
def test_accuracy_is_stated_once(name: str, alerts: Alerts) -> None:
    stated = {"description": "Estimated without labels, accuracy is 83%, at most 86%."}
    (card,) = cards(alerts, message(name, "quality", annotations=stated, explanation=report()))
    assert card.lines[0].evidence == ""
    assert "87.0% (84.0% to 90.0%)" in card.cost
