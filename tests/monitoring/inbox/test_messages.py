"""The status of an alert: an end counts only when Prometheus itself confirms it. Times in seconds, with the shipped settings."""

import pytest

from monitoring.alert_rules.monitoring import SWITCH
from monitoring.alertmanager_webhook import Webhook, WebhookAlert
from monitoring.inbox.messages import Message, Switch, apply_webhook, overdue_s, record_evaluation, status_of
from pipeline.params import Alerts

STARTED = 10_000.0


def message(*, ended: float | None = None, repeated: float = STARTED) -> Message:
    return Message(
        fingerprint="f",
        starts_at=STARTED,
        ends_at=ended,
        labels={},
        annotations={},
        received_at=STARTED,
        repeated_at=repeated,
        explanation=None,
        explanation_error="",
    )


def switch_after(*times: float, alerts: Alerts) -> Switch | None:
    switch = None
    for at in times:
        switch = record_evaluation(switch, at, alerts)
    return switch


def switch_webhook(at: float) -> Webhook:
    labels, annotations = {"alertname": SWITCH}, {"evaluated_at": str(at)}
    return Webhook([WebhookAlert("firing", labels, annotations, at, None, "f", "{}")], 0, "", 0)


def test_an_end_counts_once_prometheus_evaluated_before_and_after_it(alerts: Alerts) -> None:
    ended = message(ended=11_000)
    assert status_of(ended, switch_after(10_800, 10_990, alerts=alerts), 11_010, alerts) == "unconfirmed"
    assert status_of(ended, switch_after(10_800, 10_990, 11_100, alerts=alerts), 11_110, alerts) == "over"


def test_an_end_that_alertmanager_inferred_from_silence_does_not_count(alerts: Alerts) -> None:
    """Prometheus fell silent at 10,500; Alertmanager forgets after 4 × 120 s."""
    assert status_of(message(ended=10_980), switch_after(10_400, 10_500, alerts=alerts), 11_500, alerts) == "unconfirmed"


def test_after_a_silence_an_alert_has_time_to_be_resent_before_its_end_counts(alerts: Alerts) -> None:
    ended = message(ended=10_980)
    evaluations = [10_500, 12_000]
    assert status_of(ended, switch_after(*evaluations, alerts=alerts), 12_000, alerts) == "unconfirmed"
    assert status_of(ended, switch_after(*evaluations, 12_120, 12_210, alerts=alerts), 12_215, alerts) == "unconfirmed"
    assert status_of(ended, switch_after(*evaluations, 12_120, 12_240, alerts=alerts), 12_240, alerts) == "over"


def test_without_a_switch_no_end_is_confirmed(alerts: Alerts) -> None:
    assert status_of(message(ended=11_000), None, 99_000, alerts) == "unconfirmed"


@pytest.mark.parametrize(("since_s", "status"), [(0, "firing"), (14_530, "firing"), (14_531, "unheard")])
def test_a_firing_alert_has_to_be_repeated(since_s: float, status: str, alerts: Alerts) -> None:
    """Its end may have been suppressed together with it."""
    assert status_of(message(), switch_after(STARTED, alerts=alerts), STARTED + since_s, alerts) == status


@pytest.mark.parametrize(("age_s", "overdue"), [(0, 0), (360, 0), (361, 361)])
def test_the_switch_is_overdue_by_the_time_of_prometheus_own_evaluation(age_s: float, overdue: float, alerts: Alerts) -> None:
    assert overdue_s(switch_after(STARTED, alerts=alerts), 0, STARTED + age_s, alerts) == overdue


def test_an_evaluation_by_a_clock_that_was_ahead_is_no_news(alerts: Alerts) -> None:
    """The clock was a day ahead and was set right: the switch neither stays silent for a day nor is stuck there."""
    day = 86_400
    ahead = apply_webhook(switch_webhook(STARTED + day), {}, None, STARTED + day, alerts).switch
    assert overdue_s(ahead, STARTED, STARTED + 60, alerts) > 0
    right = apply_webhook(switch_webhook(STARTED + 60), {}, ahead, STARTED + 60, alerts).switch
    assert right == Switch(evaluated_at=STARTED + 60, unbroken_since=STARTED + 60)
    assert overdue_s(right, STARTED, STARTED + 500, alerts) == 440


def test_a_switch_that_was_never_received_is_overdue_after_the_same_time(alerts: Alerts) -> None:
    assert overdue_s(None, STARTED, STARTED + 360, alerts) == 0
    assert overdue_s(None, STARTED, STARTED + 400, alerts) == 400


def test_an_older_evaluation_that_arrives_late_changes_nothing(alerts: Alerts) -> None:
    assert switch_after(10_000, 10_120, 10_060, alerts=alerts) == Switch(evaluated_at=10_120, unbroken_since=10_000)


def test_a_false_end_always_falls_into_a_detected_gap(alerts: Alerts) -> None:
    """The last evaluation before Prometheus falls silent lies at least 3 × resend_s before the inferred end."""
    assert alerts.resend_s + alerts.evaluate_s + 2 * alerts.switch_every_s < 3 * alerts.resend_s
