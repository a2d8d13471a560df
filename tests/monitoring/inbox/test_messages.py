"""Where an alert stands: only an end that Prometheus itself stands by counts. Times in seconds around the shipped settings."""

import pytest

from monitoring.inbox.messages import Message, Switch, moved_on, overdue_s, standing
from pipeline.params import Alerts

BEGAN = 10_000.0


def message(*, ended: float | None = None, repeated: float = BEGAN) -> Message:
    return Message(
        fingerprint="f",
        starts_at=BEGAN,
        ends_at=ended,
        labels={},
        annotations={},
        heard_at=BEGAN,
        repeated_at=repeated,
        evidence=None,
        evidence_problem="",
    )


def heard_at(*times: float, alerts: Alerts) -> Switch | None:
    switch = None
    for at in times:
        switch = moved_on(switch, at, alerts)
    return switch


def test_an_end_counts_once_prometheus_was_heard_before_and_after_it(alerts: Alerts) -> None:
    ended = message(ended=11_000)
    assert standing(ended, heard_at(10_800, 10_990, alerts=alerts), 11_010, alerts) == "unconfirmed"
    assert standing(ended, heard_at(10_800, 10_990, 11_100, alerts=alerts), 11_110, alerts) == "over"


def test_an_end_that_only_alertmanager_made_up_does_not_count(alerts: Alerts) -> None:
    """Prometheus fell silent at 10,500; Alertmanager forgets after 4 × 120 s."""
    assert standing(message(ended=10_980), heard_at(10_400, 10_500, alerts=alerts), 11_500, alerts) == "unconfirmed"


def test_after_a_silence_an_alert_has_time_to_be_told_again_before_its_end_counts(alerts: Alerts) -> None:
    ended = message(ended=10_980)
    back = [10_500, 12_000]
    assert standing(ended, heard_at(*back, alerts=alerts), 12_000, alerts) == "unconfirmed"
    assert standing(ended, heard_at(*back, 12_120, 12_210, alerts=alerts), 12_215, alerts) == "unconfirmed"
    assert standing(ended, heard_at(*back, 12_120, 12_240, alerts=alerts), 12_240, alerts) == "over"


def test_without_a_switch_no_end_is_confirmed(alerts: Alerts) -> None:
    assert standing(message(ended=11_000), None, 99_000, alerts) == "unconfirmed"


@pytest.mark.parametrize(("since_s", "stands"), [(0, "firing"), (14_530, "firing"), (14_531, "unheard")])
def test_what_fires_has_to_be_repeated(since_s: float, stands: str, alerts: Alerts) -> None:
    """Its end may have been held back together with it."""
    assert standing(message(), heard_at(BEGAN, alerts=alerts), BEGAN + since_s, alerts) == stands


@pytest.mark.parametrize(("age_s", "overdue"), [(0, 0), (360, 0), (361, 361)])
def test_the_switch_is_overdue_by_the_time_of_prometheus_own_evaluation(age_s: float, overdue: float, alerts: Alerts) -> None:
    assert overdue_s(heard_at(BEGAN, alerts=alerts), 0, BEGAN + age_s, alerts) == overdue


def test_a_switch_that_was_never_heard_is_overdue_after_the_same_time(alerts: Alerts) -> None:
    assert overdue_s(None, BEGAN, BEGAN + 360, alerts) == 0
    assert overdue_s(None, BEGAN, BEGAN + 400, alerts) == 400


def test_an_older_evaluation_that_comes_late_changes_nothing(alerts: Alerts) -> None:
    assert heard_at(10_000, 10_120, 10_060, alerts=alerts) == Switch(evaluated_at=10_120, unbroken_since=10_000)


def test_a_false_end_cannot_fall_into_a_gap_that_passes_for_none(alerts: Alerts) -> None:
    """The last evaluation that is heard before Prometheus falls silent lies at least 3 × resend_s before the end made up."""
    assert alerts.resend_s + alerts.evaluate_s + 2 * alerts.switch_every_s < 3 * alerts.resend_s
