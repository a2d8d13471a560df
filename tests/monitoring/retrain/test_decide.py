"""Decisions on made-up situations: the exact outcome and reason."""

from typing import Any

import pytest

from monitoring.retrain.clock import Moment, elapsed_s, is_past, later
from monitoring.retrain.decide import ASKED, Episode, Harm, Past, Situation, decide, spent_s
from pipeline.params import Params, Retrain

NOW = Moment(1_790_000_000.0, 500_000.0, "this boot")
HOUR = 3600.0


def ago(seconds: float, now: Moment = NOW) -> Moment:
    return Moment(now.wall - seconds, now.mono - seconds, now.boot)


def episode(alertname: str = "EvergreenDrift", *, id: int = 1, held_s: float = HOUR, **changed: Any) -> Episode:
    return Episode(id, alertname, 3, False, ago(held_s))._replace(**changed)


SITUATION = Situation(
    champion=3, champion_commit="old", head="new", history=(), new_labels=500, harm=Harm(False, False), disagreement=None
)
DONE = Past(7, "done", ago(20 * HOUR), ago(19 * HOUR), "old")


@pytest.fixture
def settings(params: Params) -> Retrain:
    return params.retrain.model_copy(
        update={"settle_s": 60, "cooldown_s": 6 * HOUR, "patience_s": 48 * HOUR, "budget_s": 4 * HOUR, "min_labels": 100}
    )


def outcome(settings: Retrain, one: Episode, now: Moment = NOW, **changed: Any) -> str:
    (made,) = decide([one], SITUATION._replace(**changed), settings, now)
    return f"{made.outcome}: {made.reason}"


@pytest.mark.parametrize(
    ("alertname", "situation", "expected"),
    [
        ("EvergreenDrift", {}, "started: labels"),
        ("EvergreenDrift", {"new_labels": 99}, "waiting: no_harm"),
        ("EvergreenDrift", {"new_labels": 0, "harm": Harm(True, False)}, "started: harm"),
        ("EvergreenWindowDrift", {"new_labels": 0, "harm": Harm(False, True)}, "started: harm"),
        ("EvergreenDrift", {"new_labels": 0, "disagreement": 0.2}, "started: disagreement"),
        ("EvergreenDrift", {"new_labels": 0, "disagreement": 0.19}, "waiting: no_harm"),
        ("EvergreenAccuracyHarm", {"new_labels": 0}, "started: harm"),
        ("EvergreenAccuracyHarm", {"new_labels": 0, "head": "old"}, "waiting: nothing_new"),
        ("EvergreenAccuracyHarm", {"new_labels": 1, "head": "old"}, "started: harm"),
        ("EvergreenAccuracyHarm", {"new_labels": 0, "head": None, "champion_commit": None}, "started: harm"),
        ("EvergreenReferenceOld", {}, "refused: not_a_cause"),
        ("EvergreenDrift; rm -rf /", {}, "refused: not_a_cause"),
        ("EvergreenDrift", {"champion": 4}, "refused: another_version"),
        ("EvergreenDrift", {"champion": None}, "refused: no_champion"),
        (ASKED, {"new_labels": 0, "head": "old", "history": [DONE._replace(ended=NOW)]}, "started: asked"),
    ],
)
def test_drift_must_hurt_or_bring_something_new(
    settings: Retrain, alertname: str, situation: dict[str, Any], expected: str
) -> None:
    assert outcome(settings, episode(alertname), **situation) == expected


def test_an_alert_without_a_version_counts_as_one_of_the_champion(settings: Retrain) -> None:
    assert outcome(settings, episode(version=None)) == "started: labels"


def test_an_alert_has_to_last_before_anything_begins(settings: Retrain) -> None:
    assert outcome(settings, episode(held_s=59)) == "waiting: settling"
    assert outcome(settings, episode(held_s=60)) == "started: labels"


def test_what_is_over_is_refused_even_while_a_retrain_runs(settings: Retrain) -> None:
    assert outcome(settings, episode(is_over=True)) == "refused: over"
    assert outcome(settings, episode(is_over=True), history=[DONE._replace(state="running", ended=None)]) == "refused: over"


def test_while_a_retrain_runs_alerts_join_it_without_waiting(settings: Retrain) -> None:
    running = DONE._replace(state="running", ended=None)
    (made,) = decide([episode(held_s=0)], SITUATION._replace(history=[running], new_labels=0), settings, NOW)
    assert (made.outcome, made.retrain) == ("joined", 7)


def test_of_many_alerts_one_starts_and_the_others_join(settings: Retrain) -> None:
    many = [episode(id=id) for id in range(1, 6)]
    made = decide(many, SITUATION, settings, NOW)
    assert [one.outcome for one in made] == ["started", "joined", "joined", "joined", "joined"]
    assert [one.episode for one in made] == [1, 2, 3, 4, 5]


def test_a_cool_down_is_waited_for_while_the_alert_fires(settings: Retrain) -> None:
    warm = {"history": [DONE._replace(ended=ago(6 * HOUR - 1))]}
    assert outcome(settings, episode(), **warm) == "waiting: cooldown"
    assert outcome(settings, episode(is_over=True), **warm) == "refused: over"
    assert outcome(settings, episode(), history=[DONE._replace(began=ago(7 * HOUR), ended=ago(6 * HOUR))]) == "started: labels"


def test_a_failed_retrain_is_followed_by_a_cool_down_too(settings: Retrain) -> None:
    assert outcome(settings, episode(), history=[DONE._replace(state="failed", ended=ago(60))]) == "waiting: cooldown"


def test_a_day_has_a_budget_of_compute(settings: Retrain) -> None:
    spent = [DONE._replace(id=i, began=ago(23 * HOUR), ended=ago(21 * HOUR)) for i in (1, 2)]
    assert outcome(settings, episode(), history=spent) == "waiting: budget"
    assert outcome(settings, episode(), history=[spent[0], spent[1]._replace(began=ago(24 * HOUR))]) == "started: labels"


def test_patience_ends_and_the_last_obstacle_is_the_reason(settings: Retrain) -> None:
    assert outcome(settings, episode(held_s=48 * HOUR), new_labels=0) == "refused: no_harm"


def test_the_same_labels_and_the_same_commit_are_not_trained_on_twice(settings: Retrain) -> None:
    same = {"history": [DONE._replace(git_commit="new")], "new_labels": 0}
    assert outcome(settings, episode("EvergreenAccuracyHarm"), **same) == "waiting: nothing_new"
    failed = {"history": [DONE._replace(git_commit="new", state="failed")], "new_labels": 0}
    assert outcome(settings, episode("EvergreenAccuracyHarm"), **failed) == "started: harm"


def test_a_clock_that_was_set_skips_no_cool_down_and_no_budget(settings: Retrain) -> None:
    for jump in (-HOUR, HOUR, 400 * HOUR):
        now = NOW._replace(wall=NOW.wall + jump)
        recent = [DONE._replace(ended=ago(HOUR))]
        assert outcome(settings, episode(), now, history=recent) == "waiting: cooldown"
        assert spent_s([DONE], now) == HOUR
        assert outcome(settings, episode(held_s=10), now) == "waiting: settling"


def test_after_a_restart_of_the_machine_the_wall_clock_is_believed_up_to_the_time_since_then() -> None:
    then = Moment(1000.0, 90_000.0, "before")
    assert elapsed_s(then, Moment(1600.0, 300.0, "after")) == 300
    assert elapsed_s(then, Moment(1100.0, 5000.0, "another host")) == 100
    assert elapsed_s(then, Moment(400.0, 5000.0, "another host")) == 0


def test_a_lease_ends_by_the_clock_that_cannot_jump() -> None:
    lease = later(NOW, 60)
    assert not is_past(lease, NOW._replace(wall=NOW.wall + 1e6))
    assert is_past(lease, Moment(NOW.wall - 1e6, NOW.mono + 60, NOW.boot))
    assert is_past(lease, Moment(NOW.wall + 60, 5.0, "another boot"))
    assert not is_past(lease, Moment(NOW.wall + 59, 5.0, "another boot"))
