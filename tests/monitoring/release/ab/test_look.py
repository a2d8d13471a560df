"""A look at a test in a home: outcomes and labels joined with the prediction log, what does not count, and what it records."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa

from monitoring.labels.entries import delete_expired
from monitoring.release.ab.look import AbLook, AnswerMemory, look_at
from monitoring.release.ab.tests_table import end_test, keep_verdict, newest_tests
from pipeline.params import Params
from serving.prediction import Prediction
from serving.release.routing import set_routing
from state.database import open_state
from state.tables import feedback, labellers, outcomes, queue_actions
from tests.monitoring.homes import Gateway
from tests.monitoring.release.ab.ab_story import BEGAN, IDS, answered, live, report

NOW = BEGAN + 100


@pytest.fixture(autouse=True)
def sqlite_in_the_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EVERGREEN_STATE_URL", raising=False)


def look(params: Params, home: Path, memory: AnswerMemory | None = None) -> AbLook:
    with open_state(home) as engine, engine.connect() as connection:
        return look_at(newest_tests(connection, 1)[0], connection, params, home, NOW, memory)


def label(home: Path, rows: list[tuple[Prediction, str]], labeller: str = "ana") -> None:
    values = [
        {
            "prediction_id": row.id, "label": given, "kind": "label", "labeller": labeller, "version": row.version,
            "received_at": datetime.fromtimestamp(NOW, UTC),
        }
        for row, given in rows
    ]  # fmt: skip
    with open_state(home) as engine, engine.begin() as connection:
        connection.execute(feedback.insert(), values)


def test_a_better_challenger_is_b_with_its_interval(params: Params, tmp_path: Path) -> None:
    live(tmp_path, 2000, lambda version, number: float(number % 10 < 3 * version))
    found = look(params, tmp_path)
    assert (found.sentence, found.has_answer) == ("B is better", True)
    record = found.record()
    assert record["lower"] > 0.15
    assert record["units_a"] + record["units_b"] == record["outcomes"] == 2000
    assert (round(record["mean_a"], 1), round(record["mean_b"], 1)) == (0.3, 0.6)
    json.dumps(record, allow_nan=False)


def test_where_less_is_better_the_slower_one_loses(params: Params, tmp_path: Path) -> None:
    live(tmp_path, 1000, lambda version, number: 4.0 * version + number % 7, is_lower_better=True)
    assert look(params, tmp_path).sentence == "A is better"


def test_without_outcomes_there_is_no_verdict_and_the_record_is_still_json(params: Params, tmp_path: Path) -> None:
    live(tmp_path, 1, lambda _version, _number: 1.0)
    found = look(params, tmp_path)
    assert (found.has_answer, found.sentence) == (False, "not yet: too few units to say how many")
    assert json.loads(json.dumps(found.record(), allow_nan=False))["lower"] is None


def test_only_outcomes_of_the_named_caller_count(params: Params, tmp_path: Path) -> None:
    rows = live(tmp_path, 400, lambda _version, _number: 0.0, caller="shop")
    with open_state(tmp_path) as engine, engine.begin() as connection:
        report(connection, [(row.id, 1.0) for row in rows if row.version == 2], caller="mallory")
    found = look(params, tmp_path)
    assert (found.units.outcomes, found.verdict.b.mean) == (400, 0.0)


def test_outcomes_of_answers_before_the_test_and_reports_after_its_end_do_not_count(params: Params, tmp_path: Path) -> None:
    live(tmp_path, 100, lambda _version, _number: 0.0)
    early, late = answered(1, unit="early", at=BEGAN - 5), answered(1, unit="late", at=BEGAN + 20)
    Gateway(tmp_path, "another").write([early, late])
    with open_state(tmp_path) as engine, engine.begin() as connection:
        report(connection, [(early.id, 1.0)])
        end_test(connection, 1, {"answer": "not yet", "sentence": "not yet"}, BEGAN + 60)
        report(connection, [(late.id, 1.0)], at=BEGAN + 61)
    assert look(params, tmp_path).units.outcomes == 100


def test_outcomes_of_control_texts_and_of_unlogged_answers_do_not_count(params: Params, tmp_path: Path) -> None:
    live(tmp_path, 100, lambda _version, _number: 0.0)
    (control,) = IDS.issue(BEGAN + 10, 2, 1, is_control=True)
    with open_state(tmp_path) as engine, engine.begin() as connection:
        report(connection, [(control, 1.0), (answered(2).id, 1.0)])
    found = look(params, tmp_path)
    assert (found.units.outcomes, found.units.unlogged) == (100, 2)


def test_a_copy_for_the_challenger_gives_its_original_no_second_arm(params: Params, tmp_path: Path) -> None:
    rows = live(tmp_path, 400, lambda _version, number: float(number % 2))
    copies = [row._replace(role="shadow", version=2) for row in rows if row.version == 1]
    Gateway(tmp_path, "copies").write(copies)
    found = look(params, tmp_path)
    assert (found.units.outcomes, found.units.crossed) == (400, 0)


def test_labels_that_nobody_was_asked_for_judge_the_answers(params: Params, tmp_path: Path) -> None:
    rows = live(
        tmp_path,
        800,
        lambda _version, _number: 0.0,
        label_of=lambda version, number: "refund" if version == 2 or number % 2 else "track",
        metric="feedback",
    )
    label(tmp_path, [(row, "refund") for row in rows])
    found = look(params, tmp_path)
    assert (found.sentence, found.verdict.b.mean) == ("B is better", 1.0)
    with open_state(tmp_path) as engine, engine.begin() as connection:
        asked = [
            {"text_id": row.id, "prediction_id": row.id, "labeller": "ana", "action": "label", "shown_at": NOW, "at": NOW}
            for row in rows[:300]
        ]
        connection.execute(queue_actions.insert(), asked)
    assert look(params, tmp_path).units.outcomes == 500


def test_labels_of_labellers_who_do_not_count_and_withdrawn_ones_do_not_judge(params: Params, tmp_path: Path) -> None:
    rows = live(tmp_path, 50, lambda _version, _number: 0.0, metric="feedback")
    label(tmp_path, [(row, "refund") for row in rows])
    label(tmp_path, [(row, "track") for row in rows], "mallory")
    assert look(params, tmp_path).verdict.a.mean == 0.5
    measured = {"name": "mallory", "controls": 9, "controls_right": 0, "is_counted": False, "measured_at": datetime.now(UTC)}
    with open_state(tmp_path) as engine, engine.begin() as connection:
        connection.execute(labellers.insert(), measured)
        connection.execute(feedback.update().where(feedback.c.id <= 10).values(withdrawn_at=datetime.now(UTC)))
    found = look(params, tmp_path)
    assert (found.units.outcomes, found.verdict.a.mean) == (40, 1.0)


def test_after_the_routing_has_changed_there_is_no_verdict_any_more(params: Params, tmp_path: Path) -> None:
    live(tmp_path, 2000, lambda version, number: float(number % 10 < 3 * version))
    with open_state(tmp_path) as engine, engine.begin() as connection:
        set_routing(connection, challenger_weight=0.1, shadow_share=0.0)
    found = look(params, tmp_path)
    assert (found.is_interrupted, found.has_answer, found.record()["answer"]) == (True, False, "not yet")
    assert "routing is no longer" in found.sentence


def test_the_first_verdict_is_what_later_looks_say(params: Params, tmp_path: Path) -> None:
    live(tmp_path, 2000, lambda version, number: float(number % 10 < 3 * version))
    with open_state(tmp_path) as engine, engine.begin() as connection:
        keep_verdict(connection, 1, {"answer": "A", "sentence": "A is better"})
    assert look(params, tmp_path).sentence == "A is better"


def test_a_look_with_a_memory_reads_only_what_it_does_not_know(params: Params, tmp_path: Path) -> None:
    rows = live(tmp_path, 60, lambda _version, _number: 1.0)
    memory = AnswerMemory()
    first = look(params, tmp_path, memory)
    for segment in (tmp_path / "predictions").rglob("*.parquet"):
        segment.unlink()
    more = [answered(1, unit=f"more-{number}", at=BEGAN + 30) for number in range(5)]
    Gateway(tmp_path, "later").write(more)
    with open_state(tmp_path) as engine, engine.begin() as connection:
        report(connection, [(row.id, 0.0) for row in more])
    second = look(params, tmp_path, memory)
    assert (first.units.outcomes, second.units.outcomes) == (len(rows), len(rows) + 5)


def test_outcomes_are_deleted_with_labels_of_their_age(state: sa.Engine) -> None:
    now = datetime.now(UTC).timestamp()
    with state.begin() as connection:
        report(connection, [(answered(1).id, 1.0)], at=now - 1000)
        report(connection, [(answered(1).id, 0.0)], at=now)
        assert delete_expired(connection, 500) == 0
        assert connection.execute(sa.select(outcomes.c.value)).scalars().all() == [0.0]
