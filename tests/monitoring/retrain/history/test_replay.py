"""The real `decide` over replayed alerts: started, joined and refused at the times the settings give."""

from typing import Any

import pytest

from monitoring.retrain.history.replay import (
    Alert,
    GivenLabel,
    Observations,
    Policy,
    ReplayedRetrain,
    VersionFacts,
    inputs_at,
    replay_decisions,
)
from pipeline.params import Params

HOUR, DAY = 3600.0, 86_400.0
START = 1_790_000_000.0
LOW_ACCURACY = 0.5  # far below the promise


def at(hours: float) -> float:
    return START + hours * HOUR


def alert(
    began: float, over: float | None = None, *, signal: str = "novelty", version: int = 1, name: str = "EvergreenDrift"
) -> Alert:
    return Alert(name, version, signal, at(began), None if over is None else at(over))


def observed(
    hours: int, *, upper: float | None = None, labels: int = 0, commit: str | None = None, **changes: Any
) -> Observations:
    """Return one window an hour, with `labels` labels after half an hour."""
    ends = [at(number) for number in range(hours + 1)]
    observations = Observations(
        champions=[(end, 1) for end in ends],
        accuracy_upper=[] if upper is None else [(end, 1, upper) for end in ends],
        labels=[GivenLabel(at(0.5), f"p{number}", "refund", "ann") for number in range(labels)],
        correct=[],
        versions={version: VersionFacts(commit, frozenset({"refund"}), 0.9) for version in (1, 2)},
    )
    return observations._replace(**changes)


@pytest.fixture
def policy(params: Params) -> Policy:
    values = {
        "settle_s": 60,
        "label_wait_s": 0,
        "cooldown_s": 6 * HOUR,
        "patience_s": 7 * DAY,
        "budget_s": 4 * HOUR,
        "min_labels": 60,
    }
    return Policy(params.monitor, params.retrain.model_copy(update=values), 1800.0)


def outcomes(alerts: list[Alert], observations: Observations, policy: Policy) -> list[tuple[str, str, float]]:
    """Return the outcome, reason and time of each decision, in hours from the start."""
    decisions, _ = replay_decisions(alerts, observations, policy)
    return [(decision.outcome, decision.reason, round((decision.at - START) / HOUR, 2)) for decision in decisions]


def test_drift_with_harm_starts_a_retrain_once_it_has_lasted_and_later_alerts_join_it(policy: Policy) -> None:
    alerts = [alert(1), alert(1, signal="length"), alert(1.2)]
    observations = observed(5, upper=LOW_ACCURACY)
    assert outcomes(alerts, observations, policy) == [
        ("started", "harm", 1.02),
        ("joined", "running", 1.02),
        ("joined", "running", 1.22),
    ]
    (retrain,) = replay_decisions(alerts, observations, policy)[1]
    assert (round(retrain.began_at - at(1)), round(retrain.ended_at - retrain.began_at)) == (60, 1800)


def test_an_alert_between_two_windows_is_not_missed(policy: Policy) -> None:
    assert outcomes([alert(1, 1.5)], observed(5, upper=LOW_ACCURACY), policy) == [("started", "harm", 1.02)]
    assert outcomes([alert(1, 1.01)], observed(5, upper=LOW_ACCURACY), policy) == [("refused", "over", 1.01)]


def test_drift_without_harm_waits_for_labels(policy: Policy) -> None:
    assert outcomes([alert(0)], observed(5, labels=59), policy) == [("waiting", "no_harm", 5)]
    assert outcomes([alert(0)], observed(5, labels=60), policy) == [("started", "labels", 1)]
    assert outcomes([alert(0, 3)], observed(5), policy) == [("refused", "over", 3)]


def test_an_alert_during_the_cool_down_waits_for_its_end(policy: Policy) -> None:
    alerts = [alert(1), alert(2, signal="length")]
    assert outcomes(alerts, observed(9, upper=LOW_ACCURACY), policy) == [("started", "harm", 1.02), ("started", "harm", 7.52)]
    assert outcomes(alerts, observed(7, upper=LOW_ACCURACY), policy)[1] == ("waiting", "cooldown", 7)
    impatient = policy._replace(retrain=policy.retrain.model_copy(update={"patience_s": 2 * HOUR}))
    assert outcomes(alerts, observed(9, upper=LOW_ACCURACY), impatient)[1] == ("refused", "cooldown", 4)


def test_an_alert_waits_until_a_spent_budget_is_a_day_old(policy: Policy) -> None:
    expensive = policy._replace(retrain_s=4 * HOUR, retrain=policy.retrain.model_copy(update={"cooldown_s": 0}))
    alerts = [alert(1), alert(6, signal="length")]
    assert outcomes(alerts, observed(20, upper=LOW_ACCURACY), expensive)[1] == ("waiting", "budget", 20)
    assert outcomes(alerts, observed(30, upper=LOW_ACCURACY), expensive)[1] == ("started", "harm", 25.02)


def test_the_same_commit_without_new_labels_is_not_retrained(policy: Policy) -> None:
    assert outcomes([alert(1)], observed(5, upper=LOW_ACCURACY, commit="abc"), policy) == [("waiting", "nothing_new", 5)]
    assert outcomes([alert(1)], observed(5, upper=LOW_ACCURACY, commit="abc", labels=1), policy) == [("started", "harm", 1.02)]


def test_labels_that_a_retrain_has_read_are_no_longer_new(policy: Policy) -> None:
    observations, retrains = observed(5, labels=60), [ReplayedRetrain(at(1), at(2), None)]
    counts = [inputs_at(at(hour), observations, retrains[:hour], policy).new_labels for hour in (0, 1, 3)]
    assert counts == [0, 60, 0]


def test_an_alert_on_a_former_champion_is_refused(policy: Policy) -> None:
    swapped = [(at(0), 1), (at(1), 1), (at(2), 2), (at(3), 2)]
    quiet = observed(3, champions=swapped)
    assert outcomes([alert(1)], quiet, policy) == [("refused", "another_version", 2)]


def test_labels_that_prove_harm_count_from_when_they_were_given(policy: Policy) -> None:
    observations = observed(5, correct=[(at(2.5), 1, False)] * 60)
    assert [inputs_at(at(hour), observations, [], policy).harm.is_labelled for hour in (2, 3)] == [False, True]
    assert outcomes([alert(1)], observations, policy) == [("started", "harm", 3)]
