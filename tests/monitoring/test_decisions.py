"""What people read about decisions: one answer for all alerts of a version, which follows the journal."""

from typing import Any, get_args

import pytest
import sqlalchemy as sa

from monitoring.clock import Moment
from monitoring.decisions import CAUSES, OBSTACLES, Decided, describe_decision, read_decision, read_open_since
from monitoring.retrain.alerts import insert_alerts
from monitoring.retrain.app import export_decision
from monitoring.retrain.decide import Decision, Episode, Outcome, PastRetrain, Reason
from monitoring.retrain.journal import Journal
from monitoring.retrain.metrics import ControllerMetrics
from serving.release.release_table import add_release
from tests.monitoring.retrain.test_journal import NOW, after, alert, gone

STARTED_AT = 1_789_999_000.5  # of `alert`


def decide_all(outcome: Outcome, reason: Reason) -> Any:
    def make(_connection: sa.Connection, episodes: list[Episode], past: list[PastRetrain]) -> list[Decision]:
        running = next((retrain.id for retrain in past if retrain.state == "running"), None)
        facts: dict[str, object] = {"head": "abc", "champion": 1}
        return [Decision(episode.id, outcome, reason, facts, running if outcome == "joined" else None) for episode in episodes]

    return make


def receive(engine: sa.Engine, journal: Journal, name: str) -> None:
    with engine.begin() as connection:
        insert_alerts(connection, [alert(name)], NOW.wall)
    journal.record_episodes(NOW)


def read(engine: sa.Engine, since: float = STARTED_AT, now: Moment = NOW) -> Decided:
    with engine.connect() as connection:
        decided = read_decision(connection, 1, since, NOW.wall, now)
    assert decided is not None
    return decided


@pytest.fixture
def journal(state: sa.Engine) -> Journal:
    return Journal(state.begin, "evergreen")


def test_every_reason_of_the_controller_has_its_words() -> None:
    assert set(get_args(Reason)) == set(CAUSES) | set(OBSTACLES)


def test_what_is_read_follows_the_decision_from_waiting_to_the_gates_refusal(state: sa.Engine, journal: Journal) -> None:
    receive(state, journal, "a")
    assert read(state).text == "Nothing yet: the retrain controller decides within seconds."
    journal.decide(decide_all("waiting", "no_harm"), NOW)
    assert read(state).text == "No retrain yet: nothing shows that answers got worse, and there are few new labels."
    assert read(state).command == "docs/retraining.md#labels"
    journal.decide(decide_all("started", "harm"), NOW)
    assert read(state).text == "A retrain begins, because accuracy has fallen."
    assert journal.claim(gone(), NOW, lease_s=60)
    assert "nobody works on it" in read(state).text  # its controller was killed
    assert read(state).command == ".venv/bin/evergreen retrain"
    claimed = journal.claim("one", NOW, lease_s=60)
    assert claimed is not None
    assert read(state).text == "A retrain runs, because accuracy has fallen."
    assert "nobody works on it" in read(state, now=after(61)).text  # of another host, and it has not renewed its lease
    journal.renew(claimed[0], NOW, lease_s=60, progress="stage train, 39 %")
    assert read(state).detail.endswith("step collect: stage train, 39 %")
    receive(state, journal, "b")
    journal.decide(decide_all("joined", "running"), NOW)
    assert read(state).text == "A retrain runs, because accuracy has fallen."  # not: it was already running
    journal.finish(claimed[0], after(60), "refused", "worse by 2 points", "")
    assert read(state).text == "A retrain made a model that was not good enough; version 1 stays."
    assert read(state).detail.endswith("worse by 2 points")
    receive(state, journal, "c")
    journal.decide(decide_all("waiting", "cooldown"), after(61))
    assert read(state).text == (
        "A retrain made a model that was not good enough; version 1 stays. "
        "No retrain yet: the last one ended a short time ago (retrain.cooldown_s)."
    )


def test_a_failed_attempt_waits_for_the_next_one(state: sa.Engine, journal: Journal) -> None:
    receive(state, journal, "a")
    journal.decide(decide_all("started", "harm"), NOW)
    lease, _ = journal.claim("one", NOW, lease_s=60) or pytest.fail("not claimed")
    journal.begin_step(lease, NOW)
    journal.postpone(lease, NOW, "disk full", pause_s=30)
    decided = read(state, now=after(1))
    assert (decided.state, decided.text) == ("interrupted", "Step collect of a retrain failed, and is tried again.")
    assert "nobody works on it" in read(state, now=after(31)).text


def test_decisions_on_earlier_alerts_and_other_versions_do_not_count(state: sa.Engine, journal: Journal) -> None:
    receive(state, journal, "a")
    with state.connect() as connection:
        assert read_decision(connection, 1, STARTED_AT + 1, NOW.wall, NOW) is None
        assert read_decision(connection, 2, STARTED_AT, NOW.wall, NOW) is None
        assert read_open_since(connection, 1) == STARTED_AT
        assert read_open_since(connection, 2) is None


def test_the_controller_exports_one_decision_for_the_champion(state: sa.Engine, journal: Journal) -> None:
    metrics = ControllerMetrics()
    with state.begin() as connection:
        add_release(connection, 1, "digest")
    receive(state, journal, "a")
    for outcome, reason in (("waiting", "no_harm"), ("started", "labels")):
        journal.decide(decide_all(outcome, reason), NOW)  # type: ignore[arg-type]
        export_decision(state, metrics, NOW)
    lines = [line for line in metrics.text().decode().splitlines() if line.startswith("evergreen_retrain_decision_info{")]
    assert len(lines) == 1
    assert 'decided="A retrain begins, because enough new labels have arrived."' in lines[0]
    assert 'version="1"' in lines[0]
    assert 'state="running"' in lines[0]


def test_a_decision_is_a_sentence_and_an_unknown_reason_stays_as_it_is() -> None:
    assert describe_decision("refused", "over") == "no retrain, the alert ended first"
    assert describe_decision("started", "harm") == "retrain started, because accuracy has fallen"
    assert describe_decision("joined", "running") == "joined the running retrain, which began before this alert"
    assert describe_decision("waiting", "of_tomorrow") == "no retrain yet, of_tomorrow"
    assert describe_decision("waiting", "") == "not decided yet"


def test_a_release_is_described_from_its_first_step_to_its_roll_back(state: sa.Engine, journal: Journal) -> None:
    receive(state, journal, "a")
    journal.decide(decide_all("started", "harm"), NOW)
    lease, _ = journal.claim("one", NOW, lease_s=60) or pytest.fail("not claimed")
    for step in ("collect", "reproduce", "gate", "publish"):
        journal.begin_step(lease, NOW)
        journal.end_step(lease, NOW, f"{step} is done", **({"version_out": 2} if step == "publish" else {}))
    journal.begin_step(lease, NOW)
    journal.renew(lease, NOW, lease_s=60, progress="shadow: 12 texts compared")
    assert read(state).text == "Version 2 is being released, step shadow; version 1 still answers."
    assert read(state).detail.endswith("step shadow: shadow: 12 texts compared")
    journal.finish(lease, after(60), "rolled_back", "guardrail errors", "")
    assert read(state).text == "Version 2 was rolled back: a guardrail of its release broke; version 1 answers."
    assert read(state).command == ".venv/bin/evergreen why EvergreenDrift"


def test_a_requested_release_has_its_words() -> None:
    assert describe_decision("started", "release") == "release begun, because a person asked for it"
    assert describe_decision("refused", "busy") == "no retrain, a retrain or a release runs already"
