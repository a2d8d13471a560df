"""The next batch: what is done stays out, control texts look the same, and a turn ends with its budget."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

import pytest

from monitoring.flywheel.queue.batch import GoldTexts, QueueBatch, Turn, next_batch
from monitoring.flywheel.queue.progress import QueueProgress, read_progress
from monitoring.flywheel.queue.round import LabelCandidate, Round
from monitoring.flywheel.queue.verify import is_sure, mix_sure
from monitoring.labels.controls import read_controls
from monitoring.labels.entries import labelled_ids, withdraw
from pipeline.data.records import text_id
from pipeline.params import Params
from state.database import open_state
from state.tables import labellers, queue_actions
from tests.monitoring.flywheel.queue.candidates import candidate
from tests.monitoring.flywheel.queue.test_order import texts
from tests.monitoring.homes import NOON
from tests.monitoring.labels.test_book import label

GOLD = GoldTexts({f"known text {number}": "return_item" for number in range(30)}, 3)
NOTHING = QueueProgress({}, {})


def settings(params: Params, **labels: Any) -> Params:
    return params.model_copy(update={"labels": params.labels.model_copy(update=labels)})


def turn(params: Params, rows: Sequence[LabelCandidate], progress: QueueProgress = NOTHING, budget: int = 100) -> Turn:
    flywheel = params.flywheel.model_copy(update={"budget": budget})
    return Turn(Round(NOON, 3, rows, []), progress, params.model_copy(update={"flywheel": flywheel}))


def draw(made: Turn, home: Path, labeller: str | None = "ann", size: int = 20) -> QueueBatch:
    return next_batch(made, GOLD, home, labeller=labeller, size=size, rng=Random(1), now=NOON)  # noqa: S311


def act(home: Path, text: str, action: str, labeller: str = "ann", undone_at: float | None = None, given: str = "x") -> None:
    row = {"text_id": text_id(text), "prediction_id": f"p-{text}", "labeller": labeller, "action": action}
    with open_state(home) as engine, engine.begin() as connection:
        said = None if action == "skip" else given
        connection.execute(
            queue_actions.insert().values(**row, label=said, cluster=4, shown_at=NOON, at=NOON, undone_at=undone_at)
        )


def progress_of(home: Path) -> QueueProgress:
    with open_state(home) as engine, engine.begin() as connection:
        return read_progress(connection)


def test_a_batch_is_the_front_of_the_queue_with_its_share_of_control_texts(params: Params, tmp_path: Path) -> None:
    rows = [candidate(text) for text in texts(40)]
    batch = draw(turn(params, rows), tmp_path)
    controls = [row for row in batch.candidates if row.prediction_id in read_controls(tmp_path)]
    assert len(controls) == 2 and all(row.text in GOLD.labels for row in controls)
    assert sorted(row.text for row in batch.candidates if row not in controls) == sorted(texts(18))


def test_nothing_but_the_text_tells_a_control_text_apart(params: Params, tmp_path: Path) -> None:
    rows = [candidate(text, "track_order", cluster=number % 3, is_sure=number % 2 == 0) for number, text in enumerate(texts(40))]
    batch = draw(turn(settings(params, control_share=0.5), rows), tmp_path)
    controls = [row for row in batch.candidates if row.text in GOLD.labels]
    assert {row.label for row in controls} == {"return_item", "track_order"}, "some are shown with a wrong label"
    assert {row.version for row in controls} == {3} and {row.cluster for row in controls} <= {0, 1, 2}
    assert all(row.text_id == text_id(row.text) for row in controls)
    assert {type(value) for row in controls for value in row} == {type(value) for row in rows for value in row}


def test_labelled_and_skipped_texts_stay_out_and_undone_ones_come_back(params: Params, tmp_path: Path) -> None:
    done, skipped, undone, fresh = texts(4)
    act(tmp_path, done, "label")
    act(tmp_path, skipped, "skip")
    act(tmp_path, undone, "label", undone_at=NOON + 1)
    made = turn(params, [candidate(text) for text in (done, skipped, undone, fresh)], progress_of(tmp_path))
    assert [row.text for row in made.open_texts("ann")] == [undone, fresh]
    assert [row.text for row in made.open_texts("ben")] == [skipped, undone, fresh], "a skip is one person's"


def test_a_text_that_needs_two_people_is_asked_of_a_second_person(params: Params, tmp_path: Path) -> None:
    first, second = texts(2)
    act(tmp_path, first, "label")
    made = turn(settings(params, new_text_people=2), [candidate(first), candidate(second)], progress_of(tmp_path))
    assert [row.text for row in made.open_texts("ann")] == [second]
    assert [row.text for row in made.open_texts("ben")] == [first, second]


def test_a_text_on_which_two_people_differ_is_asked_of_a_third(params: Params, tmp_path: Path) -> None:
    first, second = texts(2)
    two = settings(params, new_text_people=2)
    act(tmp_path, first, "label", given="refund")
    act(tmp_path, first, "label", "ben", given="track")
    rows = [candidate(first), candidate(second)]
    assert [row.text for row in turn(two, rows, progress_of(tmp_path)).open_texts("cem")] == [first, second]
    act(tmp_path, first, "label", "cem", given="track")
    assert [row.text for row in turn(two, rows, progress_of(tmp_path)).open_texts("dan")] == [second]


def test_a_text_that_will_measure_a_model_is_asked_of_a_second_person(params: Params, tmp_path: Path) -> None:
    learnt, measuring = texts(2)
    act(tmp_path, learnt, "label")
    act(tmp_path, measuring, "label")
    rows = [candidate(learnt), candidate(measuring)._replace(people=2)]
    assert [row.text for row in turn(params, rows, progress_of(tmp_path)).open_texts("ben")] == [measuring]
    act(tmp_path, measuring, "label", "ben")
    assert turn(params, rows, progress_of(tmp_path)).open_texts("cem") == []


def test_labels_that_training_leaves_out_close_a_text_for_their_labeller_alone(params: Params, tmp_path: Path) -> None:
    unsure, taken, fresh = texts(3)
    act(tmp_path, unsure, "label", "mallory")
    act(tmp_path, taken, "label", "ann")
    bad = {"name": "mallory", "controls": 20, "controls_right": 0, "is_counted": False, "measured_at": datetime.now(UTC)}
    with open_state(tmp_path) as engine, engine.begin() as connection:
        label(connection, f"p-{unsure}", "x", "mallory")
        label(connection, f"p-{taken}", "x", "ann")
        connection.execute(labellers.insert().values(bad))
        assert withdraw(connection, "ann", None) == 1
        assert labelled_ids(connection) == set()
    made = turn(params, [candidate(text) for text in (unsure, taken, fresh)], progress_of(tmp_path))
    opened = {name: [row.text for row in made.open_texts(name)] for name in ("mallory", "ann", "ben", None)}
    everything = [unsure, taken, fresh]
    assert opened == {"mallory": [taken, fresh], "ann": [unsure, fresh], "ben": everything, None: everything}
    assert made.budget_left == 100


def test_labels_given_outside_the_queue_count(params: Params, tmp_path: Path) -> None:
    with open_state(tmp_path) as engine, engine.begin() as connection:
        label(connection, "p-lima 0", "return_item", "ben")
        progress = read_progress(connection)
    made = turn(params, [candidate(text) for text in texts(2)], progress)
    assert [row.text for row in made.open_texts("ann")] == ["mike 1"] and made.budget_left == 99


def test_a_near_duplicate_of_a_labelled_text_is_not_asked(params: Params, tmp_path: Path) -> None:
    words = "when will the parcel that i ordered last week be here please"
    act(tmp_path, words, "label")
    made = turn(params, [candidate(words), candidate(f"{words} today"), candidate("another matter")], progress_of(tmp_path))
    assert [row.text for row in made.open_texts("ben")] == ["another matter"]


def test_labels_of_an_earlier_round_are_not_of_this_turn(params: Params, tmp_path: Path) -> None:
    first, second = candidate("first"), candidate("second")
    for row in (first, second):
        act(tmp_path, row.text, "propose")
        with open_state(tmp_path) as engine, engine.begin() as connection:
            label(connection, row.prediction_id, "x", "ann")
    made = turn(params, [first, second], progress_of(tmp_path), budget=3)
    assert made.budget_left == 1
    assert made._replace(made=made.made._replace(made_at=NOON + 1)).budget_left == 3


@pytest.mark.parametrize("size", [1, 20])
def test_a_turn_ends_with_its_budget(params: Params, tmp_path: Path, size: int) -> None:
    rows = [candidate(text) for text in texts(10)]
    act(tmp_path, rows[0].text, "label")
    assert draw(turn(params, rows, progress_of(tmp_path), budget=1), tmp_path, size=size).candidates == []
    batch = draw(turn(params, rows, progress_of(tmp_path), budget=3), tmp_path, size=size)
    assert batch.budget_left == 2 and 1 <= len(batch.candidates) <= 2


def test_sure_answers_are_at_most_their_share_of_a_batch_unless_nothing_else_is_left() -> None:
    rows = [candidate(text, is_sure=number < 8) for number, text in enumerate(texts(12))]
    assert [row.is_sure for row in mix_sure(rows, 5, 0.4)] == [False, False, False, True, True]
    assert mix_sure(rows, 5, 0.4)[-2:] == rows[:2] and mix_sure(rows, 5, 0.4)[:3] == rows[8:11]
    assert sum(row.is_sure for row in mix_sure(rows, 8, 0.25)) == 4, "there are only four others"
    assert len(mix_sure(rows, 20, 0.25)) == 12
    assert mix_sure(rows, 0, 0.5) == []


def test_an_answer_is_sure_when_both_models_agree_confidently_on_nothing_new(params: Params) -> None:
    assert is_sure("a", "a", 0.95, (), params.flywheel)
    assert not is_sure("a", "b", 0.95, (), params.flywheel)
    assert not is_sure("a", None, 0.95, (), params.flywheel), "no second opinion"
    assert not is_sure("a", "a", 0.85, (), params.flywheel)
    assert not is_sure("a", "a", 0.95, ("novelty",), params.flywheel)
