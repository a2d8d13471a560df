"""Feedback becomes rows: which label stands, what stays a proposal, and that a label of any kind is data."""

import json
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import example, given, settings
from hypothesis import strategies as st

from monitoring.retrain.feedback_rows import Collected, Opinion, collect, find_texts, read_file, read_opinions, write_file
from monitoring.retrain.journal import Job
from monitoring.retrain.new_labels import Said, learnt_upto, new_labels, said_since
from monitoring.retrain.run_local import branch
from pipeline.data.records import normalise_label
from pipeline.params import Params
from pipeline.stages.ingest import ingest
from serving.prediction import Prediction
from state.database import open_state
from state.tables import feedback
from tests.conftest import ROOT
from tests.monitoring.homes import NOON, Gateway

LABELS = frozenset({"track_order", "return_item"})
NASTY = (
    "$(touch /tmp/pwned)", "; rm -rf ~", "`id`", "../../../../etc/passwd", "/etc/passwd", "'; DROP TABLE feedback; --",
    "a\nlabel: b", "a\r\nb", "x" * 100_000, "\x00", "\ud800", "--help", "{{ 7 * 7 }}", "${data.source}", "a\u2028b",
    "track_order\n", "ｔrack_order",
)  # fmt: skip


def opinion(number: int, label: str, *, prediction: str = "", person: str = "ann") -> Opinion:
    return Opinion(number, prediction or f"p{number}", label, person, 1_790_000_000.0 + number)


def texts(count: int) -> dict[str, str]:
    return {f"p{number}": f"my question number {number}" for number in range(1, count + 1)}


def found(params: Params, opinions: list[Opinion], said: dict[str, str], before: list[dict[str, str]] | None = None) -> Collected:
    few = params.retrain.model_copy(update={"proposal_people": 2, "proposal_texts": 3})
    return collect(before or [], opinions, said, LABELS, params.model_copy(update={"retrain": few}))


def by_text(collected: Collected) -> dict[str, str]:
    return {row["text"]: row["label"] for row in collected.rows}


def test_labels_that_the_champion_has_are_taken(params: Params) -> None:
    collected = found(params, [opinion(1, "track_order"), opinion(2, "return_item")], texts(2))
    assert by_text(collected) == {"my question number 1": "track_order", "my question number 2": "return_item"}
    assert (collected.upto, collected.left_out) == (2, {})


def test_the_label_of_most_people_stands_and_the_first_where_they_are_even(params: Params) -> None:
    said = [
        opinion(1, "return_item", prediction="p1", person="ann"),
        opinion(2, "track_order", prediction="p1", person="ben"),
        opinion(3, "return_item", prediction="p2", person="ann"),
        opinion(4, "track_order", prediction="p2", person="ben"),
        opinion(5, "track_order", prediction="p2", person="cem"),
    ]
    assert by_text(found(params, said, texts(2))) == {
        "my question number 1": "return_item",
        "my question number 2": "track_order",
    }


def test_the_same_text_of_two_customers_is_one_row(params: Params) -> None:
    same = {"p1": "Where is it?", "p2": "where is it", "p3": "WHERE IS IT"}
    said = [opinion(1, "return_item"), opinion(2, "track_order", person="ben"), opinion(3, "track_order", person="cem")]
    assert list(by_text(found(params, said, same)).values()) == ["track_order"]


def test_a_new_label_is_a_proposal_until_enough_people_agree_on_enough_texts(params: Params) -> None:
    alone = [opinion(n, "battery_problem") for n in range(1, 6)]
    assert found(params, alone, texts(5)).left_out == {"only proposed": 5}
    few = [opinion(n, "battery_problem", person=f"person {n}") for n in range(1, 3)]
    assert found(params, few, texts(2)).rows == []
    agreed = [opinion(n, "battery_problem", person=f"person {n % 2}") for n in range(1, 4)]
    assert set(by_text(found(params, agreed, texts(3))).values()) == {"battery_problem"}


def test_another_spelling_of_a_known_label_is_that_label(params: Params) -> None:
    said = [opinion(1, "Track-Order"), opinion(2, "RETURN ITEM")]
    assert set(by_text(found(params, said, texts(2))).values()) == set(LABELS)


def test_of_two_spellings_of_a_new_label_one_is_learnt(params: Params) -> None:
    said = [opinion(n, "battery_problem", person=f"person {n}") for n in range(1, 5)]
    said += [opinion(n, "Battery Problem", person=f"person {n}") for n in range(5, 8)]
    collected = found(params, said, texts(7))
    assert set(by_text(collected).values()) == {"battery_problem"}
    assert collected.left_out == {"only proposed": 3}


def test_the_file_is_cumulative_and_a_newer_opinion_corrects_it(params: Params) -> None:
    before = [{"text": "long ago", "label": "charging"}, {"text": "my question number 1", "label": "return_item"}]
    collected = found(params, [opinion(1, "track_order"), opinion(2, "charging")], texts(2), before)
    assert by_text(collected) == {
        "long ago": "charging",
        "my question number 1": "track_order",
        "my question number 2": "charging",
    }
    assert found(params, [opinion(1, "track_order"), opinion(2, "charging")], texts(2), collected.rows) == collected


def test_what_has_no_text_any_more_is_counted(params: Params) -> None:
    assert found(params, [opinion(1, "track_order")], {}).left_out == {"without their text": 1}


labels = st.one_of(st.sampled_from(NASTY), st.text(max_size=300), st.sampled_from(sorted(LABELS)))


@given(said=st.lists(labels, min_size=1, max_size=12))
@example(said=[*NASTY])
@example(said=["../x"] * 6)
@settings(max_examples=60, deadline=None)
def test_a_hostile_label_stays_data(params: Params, tmp_path_factory: pytest.TempPathFactory, said: list[str]) -> None:
    folder = tmp_path_factory.mktemp("feedback")
    opinions = [opinion(n, label, person=f"person {n}") for n, label in enumerate(said, start=1)]
    collected = found(params, opinions, texts(len(said)))
    write_file(folder / "feedback.jsonl", collected.rows)
    assert [path.name for path in folder.iterdir()] == ["feedback.jsonl"]
    raw = (folder / "feedback.jsonl").read_bytes()
    assert raw.isascii()
    assert len(raw.splitlines()) == len(collected.rows)
    back = [{key: row[key] for key in ("text", "label")} for row in read_file(folder / "feedback.jsonl")]
    assert back == collected.rows
    for row in collected.rows:
        assert len(row["label"]) <= 200
        assert not set("\n\r\0\u2028") & set(row["label"])
        assert sum(normalise_label(label.strip()) == normalise_label(row["label"]) for label in said) or row["label"] in LABELS
    assert sum(collected.left_out.values()) + len(collected.rows) == len(said)


def test_what_was_collected_is_what_stage_ingest_takes_whole(params: Params, tmp_path: Path) -> None:
    said = [*NASTY, "track_order"] * 4
    opinions = [opinion(n, label, person=f"person {n}") for n, label in enumerate(said, start=1)]
    known = frozenset(json.loads(line)["label"] for line in (ROOT / params.data.source).read_text(encoding="utf-8").splitlines())
    few = params.retrain.model_copy(update={"proposal_people": 2, "proposal_texts": 3})
    collected = collect([], opinions, texts(len(said)), known, params.model_copy(update={"retrain": few}))
    write_file(tmp_path / "feedback.jsonl", collected.rows)
    ingested = ingest(ROOT / params.data.source, ROOT / params.data.test, tmp_path, params.data)
    assert ingested.report["feedback"]["rows"] == len(collected.rows) > 30
    assert ingested.report["quarantined"]["rows"] == 0


def test_texts_are_found_in_the_log_by_prediction(params: Params, tmp_path: Path) -> None:
    gateway = Gateway(tmp_path, "one")
    for start in (0, 10):
        gateway.write([logged(number) for number in range(start, start + 10)])
    opinions = [Opinion(1, "p3", "track_order", "ann", NOON + 60), Opinion(2, "p14", "track_order", "ann", NOON + 60)]
    assert find_texts(params, tmp_path, opinions) == {"p3": "text 3", "p14": "text 14"}
    assert find_texts(params, tmp_path, [Opinion(1, "gone", "x", "ann", NOON)]) == {}


def logged(number: int) -> Prediction:
    about = (f"p{number}", None, f"text {number}", None, 3, 1.0, 1, "champion", "track_order", 0.9, None, b"", b"", 1.0, False)
    return Prediction(NOON + number, "r", *about)  # type: ignore[arg-type]


def test_labels_since_the_last_retrain_are_counted_by_prediction(params: Params, tmp_path: Path) -> None:
    few = params.retrain.model_copy(update={"proposal_people": 2, "proposal_texts": 3})
    with open_state(tmp_path) as engine, engine.begin() as connection:
        for number in range(6):
            for person in ("ann", "ben"):
                enter(connection, f"p{number}", "track_order" if number < 2 else "new_one", person)
        assert learnt_upto(connection, "evergreen") == 0
        assert new_labels(said_since(connection, 0), LABELS, few) == 6
        assert new_labels(said_since(connection, 0), LABELS, params.retrain) == 2
        assert said_since(connection, 10) == [Said("new_one", 1, 2)]
        assert len(read_opinions(connection)) == 12


def enter(connection: sa.Connection, id: str, label: str, person: str) -> None:
    row = {"prediction_id": id, "label": label, "kind": "label", "source": person, "received_at": sa.func.current_timestamp()}
    connection.execute(feedback.insert().values(row))


def test_no_word_of_an_alert_is_in_the_name_of_a_branch() -> None:
    job = Job(7, 3, "collect", 1, None, 1, None, "../../x; rm -rf ~", "$(id)")
    assert branch(job) == "retrain/7"
