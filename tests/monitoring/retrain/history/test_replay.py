"""The real decision over replayed alerts: started, joined and refused at the moments that the settings name."""

from typing import Any

import pytest

from monitoring.retrain.history.replay import Alert, Opinion, Policy, Ran, Seen, Version, rehearse, situation_at
from pipeline.params import Params

HOUR, DAY = 3600.0, 86_400.0
START = 1_790_000_000.0
HARMED = 0.5  # far below what is agreed


def at(hours: float) -> float:
    return START + hours * HOUR


def alert(
    began: float, over: float | None = None, *, signal: str = "novelty", version: int = 1, name: str = "EvergreenDrift"
) -> Alert:
    return Alert(name, version, signal, at(began), None if over is None else at(over))


def seen(hours: int, *, upper: float | None = None, labels: int = 0, commit: str | None = None, **others: Any) -> Seen:
    """A window an hour; so many labels after half an hour."""
    ends = [at(number) for number in range(hours + 1)]
    known = Seen(
        champions=[(end, 1) for end in ends],
        accuracy_upper=[] if upper is None else [(end, 1, upper) for end in ends],
        opinions=[Opinion(at(0.5), f"p{number}", "refund", "ann") for number in range(labels)],
        correct=[],
        versions={version: Version(commit, frozenset({"refund"}), 0.9) for version in (1, 2)},
    )
    return known._replace(**others)


@pytest.fixture
def policy(params: Params) -> Policy:
    own = {"settle_s": 60, "cooldown_s": 6 * HOUR, "patience_s": 7 * DAY, "budget_s": 4 * HOUR, "min_labels": 60}
    return Policy(params.monitor, params.retrain.model_copy(update=own), 1800.0)


def told(alerts: list[Alert], known: Seen, policy: Policy) -> list[tuple[str, str, float]]:
    """Outcome, reason, and when: hours from the start."""
    return [(one.outcome, one.reason, round((one.at - START) / HOUR, 2)) for one in rehearse(alerts, known, policy)[0]]


def test_drift_that_hurts_starts_a_retrain_once_it_has_lasted_and_what_comes_meanwhile_joins_it(policy: Policy) -> None:
    alerts = [alert(1), alert(1, signal="length"), alert(1.2)]
    known = seen(5, upper=HARMED)
    assert told(alerts, known, policy) == [("started", "harm", 1.02), ("joined", "running", 1.02), ("joined", "running", 1.22)]
    (ran,) = rehearse(alerts, known, policy)[1]
    assert (round(ran.began_at - at(1)), round(ran.ended_at - ran.began_at)) == (60, 1800)


def test_an_alert_between_two_windows_is_not_missed(policy: Policy) -> None:
    assert told([alert(1, 1.5)], seen(5, upper=HARMED), policy) == [("started", "harm", 1.02)]
    assert told([alert(1, 1.01)], seen(5, upper=HARMED), policy) == [("refused", "over", 1.01)]


def test_drift_that_does_not_hurt_waits_for_labels(policy: Policy) -> None:
    assert told([alert(0)], seen(5, labels=59), policy) == [("waiting", "no_harm", 5)]
    assert told([alert(0)], seen(5, labels=60), policy) == [("started", "labels", 1)]
    assert told([alert(0, 3)], seen(5), policy) == [("refused", "over", 3)]


def test_what_comes_within_the_cool_down_waits_for_its_end(policy: Policy) -> None:
    alerts = [alert(1), alert(2, signal="length")]
    assert told(alerts, seen(9, upper=HARMED), policy) == [("started", "harm", 1.02), ("started", "harm", 7.52)]
    assert told(alerts, seen(7, upper=HARMED), policy)[1] == ("waiting", "cooldown", 7)
    impatient = policy._replace(retrain=policy.retrain.model_copy(update={"patience_s": 2 * HOUR}))
    assert told(alerts, seen(9, upper=HARMED), impatient)[1] == ("refused", "cooldown", 4)


def test_a_spent_budget_is_waited_for_until_a_day_has_gone(policy: Policy) -> None:
    dear = policy._replace(retrain_s=4 * HOUR, retrain=policy.retrain.model_copy(update={"cooldown_s": 0}))
    alerts = [alert(1), alert(6, signal="length")]
    assert told(alerts, seen(20, upper=HARMED), dear)[1] == ("waiting", "budget", 20)
    assert told(alerts, seen(30, upper=HARMED), dear)[1] == ("started", "harm", 25.02)


def test_the_same_commit_without_labels_would_make_the_same_again(policy: Policy) -> None:
    assert told([alert(1)], seen(5, upper=HARMED, commit="abc"), policy) == [("waiting", "nothing_new", 5)]
    assert told([alert(1)], seen(5, upper=HARMED, commit="abc", labels=1), policy) == [("started", "harm", 1.02)]


def test_labels_that_a_retrain_has_read_are_new_no_more(policy: Policy) -> None:
    known, ran = seen(5, labels=60), [Ran(at(1), at(2), None)]
    counts = [situation_at(at(hour), known, ran[:hour], policy).new_labels for hour in (0, 1, 3)]
    assert counts == [0, 60, 0]


def test_an_alert_on_a_version_that_has_gone_is_refused(policy: Policy) -> None:
    swapped = [(at(0), 1), (at(1), 1), (at(2), 2), (at(3), 2)]
    quiet = seen(3, champions=swapped)
    assert told([alert(1)], quiet, policy) == [("refused", "another_version", 2)]


def test_labels_that_prove_harm_count_from_when_they_were_given(policy: Policy) -> None:
    known = seen(5, correct=[(at(2.5), 1, False)] * 60)
    assert [situation_at(at(hour), known, [], policy).harm.is_labelled for hour in (2, 3)] == [False, True]
    assert told([alert(1)], known, policy) == [("started", "harm", 3)]
