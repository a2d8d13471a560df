"""Decisions on constructed inputs: the exact outcome and reason."""

from typing import Any

import pytest

from monitoring.clock import Moment, elapsed_s, is_past, later
from monitoring.retrain.decide import ASKED, RELEASE_ASKED, Episode, Harm, Inputs, PastRetrain, decide, spent_s
from pipeline.params import Params, Retrain

NOW = Moment(1_790_000_000.0, 500_000.0, "this boot")
HOUR = 3600.0


def ago(seconds: float, now: Moment = NOW) -> Moment:
    return Moment(now.wall - seconds, now.mono - seconds, now.boot)


def episode(alertname: str = "EvergreenDrift", *, id: int = 1, lasted_s: float = HOUR, **changed: Any) -> Episode:
    return Episode(id, alertname, 3, False, ago(lasted_s))._replace(**changed)


INPUTS = Inputs(
    champion=3, champion_commit="old", head="new", history=(), new_labels=500, harm=Harm(False, False), disagreement=None
)
DONE = PastRetrain(7, "done", ago(20 * HOUR), ago(19 * HOUR), "old")


@pytest.fixture
def settings(params: Params) -> Retrain:
    return params.retrain.model_copy(
        update={
            "settle_s": 60,
            "cooldown_s": 6 * HOUR,
            "patience_s": 48 * HOUR,
            "budget_s": 4 * HOUR,
            "min_labels": 100,
            "disagreement": 0.2,
        }
    )


def outcome(settings: Retrain, alert: Episode, now: Moment = NOW, **changed: Any) -> str:
    (decision,) = decide([alert], INPUTS._replace(**changed), settings, now)
    return f"{decision.outcome}: {decision.reason}"


@pytest.mark.parametrize(
    ("alertname", "changes", "expected"),
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
        ("EvergreenAccuracyHarm", {"is_on_request": True}, "waiting: on_request"),
        ("EvergreenDrift", {"is_on_request": True}, "waiting: on_request"),
        ("EvergreenDrift", {"is_on_request": True, "new_labels": 0}, "waiting: no_harm"),
        (ASKED, {"is_on_request": True}, "started: asked"),
        ("EvergreenAccuracyHarm", {"other_inputs": "my.csv is not in the commit"}, "waiting: other_inputs"),
        (ASKED, {"other_inputs": "my.csv is not in the commit"}, "refused: other_inputs"),
        (ASKED, {"new_labels": 0, "head": "old", "history": [DONE._replace(ended=NOW)]}, "started: asked"),
    ],
)
def test_drift_must_cause_harm_or_bring_new_labels(
    settings: Retrain, alertname: str, changes: dict[str, Any], expected: str
) -> None:
    assert outcome(settings, episode(alertname), **changes) == expected


def test_an_alert_without_a_version_counts_for_the_champion(settings: Retrain) -> None:
    assert outcome(settings, episode(version=None)) == "started: labels"


def test_an_alert_must_last_before_a_retrain_starts(settings: Retrain) -> None:
    assert outcome(settings, episode(lasted_s=59)) == "waiting: settling"
    assert outcome(settings, episode(lasted_s=60)) == "started: labels"


def test_people_who_have_begun_to_label_are_waited_for_but_not_for_ever(settings: Retrain) -> None:
    few = {"new_labels": settings.enough_labels - 1, "harm": Harm(True, False), "labelling_s": settings.label_wait_s - 1}
    assert outcome(settings, episode(), **few) == "waiting: labelling"
    assert outcome(settings, episode(), **few | {"labelling_s": settings.label_wait_s}) == "started: harm"
    assert outcome(settings, episode(), **few | {"new_labels": settings.enough_labels}) == "started: harm"
    assert outcome(settings, episode(), **few | {"new_labels": 0}) == "started: harm"  # a new commit, and nobody labels
    assert outcome(settings, episode(ASKED), **few) == "started: asked"


def test_an_ended_alert_is_refused_even_while_a_retrain_runs(settings: Retrain) -> None:
    assert outcome(settings, episode(is_over=True)) == "refused: over"
    assert outcome(settings, episode(is_over=True), history=[DONE._replace(state="running", ended=None)]) == "refused: over"


def test_while_a_retrain_runs_alerts_join_it_without_waiting(settings: Retrain) -> None:
    running = DONE._replace(state="running", ended=None)
    (decision,) = decide([episode(lasted_s=0)], INPUTS._replace(history=[running], new_labels=0), settings, NOW)
    assert (decision.outcome, decision.retrain_id) == ("joined", 7)


def test_one_of_many_alerts_starts_and_the_others_join(settings: Retrain) -> None:
    many = [episode(id=id) for id in range(1, 6)]
    decisions = decide(many, INPUTS, settings, NOW)
    assert [decision.outcome for decision in decisions] == ["started", "joined", "joined", "joined", "joined"]
    assert [decision.episode_id for decision in decisions] == [1, 2, 3, 4, 5]


def test_a_cool_down_is_waited_for_while_the_alert_fires(settings: Retrain) -> None:
    recent = {"history": [DONE._replace(ended=ago(6 * HOUR - 1))]}
    assert outcome(settings, episode(), **recent) == "waiting: cooldown"
    assert outcome(settings, episode(is_over=True), **recent) == "refused: over"
    assert outcome(settings, episode(), history=[DONE._replace(began=ago(7 * HOUR), ended=ago(6 * HOUR))]) == "started: labels"


def test_a_failed_retrain_is_followed_by_a_cool_down_too(settings: Retrain) -> None:
    assert outcome(settings, episode(), history=[DONE._replace(state="failed", ended=ago(60))]) == "waiting: cooldown"


def test_a_day_has_a_budget_of_compute(settings: Retrain) -> None:
    spent = [DONE._replace(id=i, began=ago(23 * HOUR), ended=ago(21 * HOUR)) for i in (1, 2)]
    assert outcome(settings, episode(), history=spent) == "waiting: budget"
    assert outcome(settings, episode(), history=[spent[0], spent[1]._replace(began=ago(24 * HOUR))]) == "started: labels"


def test_patience_ends_and_the_last_obstacle_is_the_reason(settings: Retrain) -> None:
    assert outcome(settings, episode(lasted_s=48 * HOUR), new_labels=0) == "refused: no_harm"


def test_the_same_labels_and_the_same_commit_are_not_trained_on_twice(settings: Retrain) -> None:
    same = {"history": [DONE._replace(git_commit="new")], "new_labels": 0}
    assert outcome(settings, episode("EvergreenAccuracyHarm"), **same) == "waiting: nothing_new"
    failed = {"history": [DONE._replace(git_commit="new", state="failed")], "new_labels": 0}
    assert outcome(settings, episode("EvergreenAccuracyHarm"), **failed) == "started: harm"


def test_setting_the_clock_skips_no_cool_down_and_no_budget(settings: Retrain) -> None:
    for jump in (-HOUR, HOUR, 400 * HOUR):
        now = NOW._replace(wall=NOW.wall + jump)
        recent = [DONE._replace(ended=ago(HOUR))]
        assert outcome(settings, episode(), now, history=recent) == "waiting: cooldown"
        assert spent_s([DONE], now) == HOUR
        assert outcome(settings, episode(lasted_s=10), now) == "waiting: settling"


def test_after_a_restart_of_the_machine_the_wall_clock_is_trusted_up_to_the_time_since_boot() -> None:
    then = Moment(1000.0, 90_000.0, "before")
    assert elapsed_s(then, Moment(1600.0, 300.0, "after")) == 300
    assert elapsed_s(then, Moment(1100.0, 5000.0, "another host")) == 100
    assert elapsed_s(then, Moment(400.0, 5000.0, "another host")) == 0


def test_a_lease_expires_by_the_clock_that_cannot_jump() -> None:
    lease = later(NOW, 60)
    assert not is_past(lease, NOW._replace(wall=NOW.wall + 1e6))
    assert is_past(lease, Moment(NOW.wall - 1e6, NOW.mono + 60, NOW.boot))
    assert is_past(lease, Moment(NOW.wall + 60, 5.0, "another boot"))
    assert not is_past(lease, Moment(NOW.wall + 59, 5.0, "another boot"))


def test_the_facts_of_a_refused_request_say_how_the_inputs_differ(settings: Retrain) -> None:
    inputs = INPUTS._replace(other_inputs="version 3 was made with data.source=my.csv")
    (decision,) = decide([episode(ASKED)], inputs, settings, NOW)
    assert decision.facts["other_inputs"] == "version 3 was made with data.source=my.csv"


@pytest.mark.parametrize(
    ("version", "changes", "expected"),
    [
        (2, {}, "started: release"),
        (2, {"is_on_request": True, "other_inputs": "other data", "new_labels": 0}, "started: release"),
        (3, {}, "refused: is_champion"),
        (2, {"champion": None}, "refused: no_champion"),
        (2, {"history": (PastRetrain(8, "running", ago(HOUR), None, "new"),)}, "refused: busy"),
    ],
)
def test_a_requested_release_begins_at_once_or_is_refused(
    settings: Retrain, version: int, changes: dict[str, Any], expected: str
) -> None:
    asked = episode(RELEASE_ASKED, lasted_s=0, version=version)
    assert outcome(settings, asked, **changes) == expected
    (decision,) = decide([asked], INPUTS._replace(**changes), settings, NOW)
    assert decision.release == (version if decision.outcome == "started" else None)


def test_the_release_of_a_model_costs_no_compute(settings: Retrain) -> None:
    slow = PastRetrain(7, "running", ago(20 * HOUR), None, "old", made=ago(19 * HOUR))
    assert spent_s([slow], NOW) == HOUR


@pytest.mark.parametrize("state", ["refused", "rolled_back", "aborted"])
def test_a_model_that_was_made_and_not_kept_is_not_made_again_from_the_same(settings: Retrain, state: str) -> None:
    past = PastRetrain(7, state, ago(20 * HOUR), ago(19 * HOUR), "new")
    released = PastRetrain(8, "done", ago(18 * HOUR), ago(17 * HOUR), None)  # of a version that existed
    assert outcome(settings, episode("EvergreenAccuracyHarm"), history=(past, released), new_labels=0) == "waiting: nothing_new"
