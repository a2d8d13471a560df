"""Feedback becomes rows: which label counts, what stays a proposal, and that any label is data."""

import json
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import example, given, settings
from hypothesis import strategies as st

from monitoring.retrain.feedback_rows import (
    FeedbackEntry,
    MergedFeedback,
    find_texts,
    merge_feedback,
    read_feedback,
    read_file,
    write_file,
)
from monitoring.retrain.journal import RetrainJob
from monitoring.retrain.new_labels import LabelCount, count_labels_since, count_new_labels, last_learnt_feedback
from monitoring.retrain.run_local import branch
from pipeline.data.given_labels import label_rules
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


def entry(number: int, label: str, *, prediction: str = "", person: str = "ann") -> FeedbackEntry:
    return FeedbackEntry(number, prediction or f"p{number}", label, person, 1_790_000_000.0 + number)


def texts(count: int) -> dict[str, str]:
    return {f"p{number}": f"my question number {number}" for number in range(1, count + 1)}


def merge(
    params: Params, entries: list[FeedbackEntry], texts: dict[str, str], stored: list[dict[str, str]] | None = None
) -> MergedFeedback:
    few = params.retrain.model_copy(update={"proposal_people": 2, "proposal_texts": 3})
    return merge_feedback(stored or [], entries, texts, LABELS, params.model_copy(update={"retrain": few}))


def by_text(merged: MergedFeedback) -> dict[str, str]:
    return {row["text"]: row["label"] for row in merged.rows}


def test_labels_that_the_champion_has_are_learnt(params: Params) -> None:
    merged = merge(params, [entry(1, "track_order"), entry(2, "return_item")], texts(2))
    assert by_text(merged) == {"my question number 1": "track_order", "my question number 2": "return_item"}
    assert (merged.last_id, merged.skipped) == (2, {})


def test_the_majority_label_counts_and_the_first_one_in_a_tie(params: Params) -> None:
    entries = [
        entry(1, "return_item", prediction="p1", person="ann"),
        entry(2, "track_order", prediction="p1", person="ben"),
        entry(3, "return_item", prediction="p2", person="ann"),
        entry(4, "track_order", prediction="p2", person="ben"),
        entry(5, "track_order", prediction="p2", person="cem"),
    ]
    assert by_text(merge(params, entries, texts(2))) == {
        "my question number 1": "return_item",
        "my question number 2": "track_order",
    }


def test_the_same_text_from_two_customers_is_one_row(params: Params) -> None:
    same = {"p1": "Where is it?", "p2": "where is it", "p3": "WHERE IS IT"}
    entries = [entry(1, "return_item"), entry(2, "track_order", person="ben"), entry(3, "track_order", person="cem")]
    assert list(by_text(merge(params, entries, same)).values()) == ["track_order"]


def test_a_new_label_is_a_proposal_until_enough_people_agree_on_enough_texts(params: Params) -> None:
    alone = [entry(n, "battery_problem") for n in range(1, 6)]
    assert merge(params, alone, texts(5)).skipped == {"only proposed": 5}
    pair = [entry(n, "battery_problem", person=f"person {n}") for n in range(1, 3)]
    assert merge(params, pair, texts(2)).rows == []
    agreed = [entry(n, "battery_problem", person=f"person {n % 2}") for n in range(1, 4)]
    assert set(by_text(merge(params, agreed, texts(3))).values()) == {"battery_problem"}


def test_another_spelling_of_a_known_label_is_that_label(params: Params) -> None:
    entries = [entry(1, "Track-Order"), entry(2, "RETURN ITEM")]
    assert set(by_text(merge(params, entries, texts(2))).values()) == set(LABELS)


def test_one_of_two_spellings_of_a_new_label_is_learnt(params: Params) -> None:
    entries = [entry(n, "battery_problem", person=f"person {n}") for n in range(1, 5)]
    entries += [entry(n, "Battery Problem", person=f"person {n}") for n in range(5, 8)]
    merged = merge(params, entries, texts(7))
    assert set(by_text(merged).values()) == {"battery_problem"}
    assert merged.skipped == {"only proposed": 3}


def test_the_file_is_cumulative_and_newer_feedback_corrects_it(params: Params) -> None:
    stored = [{"text": "long ago", "label": "charging"}, {"text": "my question number 1", "label": "return_item"}]
    merged = merge(params, [entry(1, "track_order"), entry(2, "charging")], texts(2), stored)
    assert by_text(merged) == {
        "long ago": "charging",
        "my question number 1": "track_order",
        "my question number 2": "charging",
    }
    assert merge(params, [entry(1, "track_order"), entry(2, "charging")], texts(2), merged.rows) == merged


def test_feedback_without_a_text_is_counted(params: Params) -> None:
    assert merge(params, [entry(1, "track_order")], {}).skipped == {"without a text in the log": 1}


labels = st.one_of(st.sampled_from(NASTY), st.text(max_size=300), st.sampled_from(sorted(LABELS)))


@given(given_labels=st.lists(labels, min_size=1, max_size=12))
@example(given_labels=[*NASTY])
@example(given_labels=["../x"] * 6)
@settings(max_examples=60, deadline=None)
def test_a_hostile_label_stays_data(params: Params, tmp_path_factory: pytest.TempPathFactory, given_labels: list[str]) -> None:
    folder = tmp_path_factory.mktemp("feedback")
    entries = [entry(n, label, person=f"person {n}") for n, label in enumerate(given_labels, start=1)]
    merged = merge(params, entries, texts(len(given_labels)))
    write_file(folder / "feedback.jsonl", merged.rows)
    assert [path.name for path in folder.iterdir()] == ["feedback.jsonl"]
    raw = (folder / "feedback.jsonl").read_bytes()
    assert raw.isascii()
    assert len(raw.splitlines()) == len(merged.rows)
    back = [{key: row[key] for key in ("text", "label")} for row in read_file(folder / "feedback.jsonl")]
    assert back == merged.rows
    for row in merged.rows:
        assert len(row["label"]) <= 200
        assert not set("\n\r\0\u2028") & set(row["label"])
        assert (
            sum(normalise_label(label.strip()) == normalise_label(row["label"]) for label in given_labels)
            or row["label"] in LABELS
        )
    assert sum(merged.skipped.values()) + len(merged.rows) == len(given_labels)


def test_stage_ingest_accepts_every_merged_row(params: Params, tmp_path: Path) -> None:
    given_labels = [*NASTY, "track_order"] * 4
    entries = [entry(n, label, person=f"person {n}") for n, label in enumerate(given_labels, start=1)]
    known = frozenset(json.loads(line)["label"] for line in (ROOT / params.data.source).read_text(encoding="utf-8").splitlines())
    few = params.retrain.model_copy(update={"proposal_people": 2, "proposal_texts": 3})
    merged = merge_feedback([], entries, texts(len(given_labels)), known, params.model_copy(update={"retrain": few}))
    write_file(tmp_path / "feedback.jsonl", merged.rows)
    ingested = ingest(ROOT / params.data.source, ROOT / params.data.test, tmp_path, params.data, label_rules(params))
    assert ingested.report["feedback"]["rows"] == len(merged.rows) > 30
    assert all(row.reason.startswith("waits for") for row in ingested.quarantined)


def test_texts_are_found_in_the_log_by_prediction(params: Params, tmp_path: Path) -> None:
    gateway = Gateway(tmp_path, "one")
    for start in (0, 10):
        gateway.write([logged(number) for number in range(start, start + 10)])
    entries = [FeedbackEntry(1, "p3", "track_order", "ann", NOON + 60), FeedbackEntry(2, "p14", "track_order", "ann", NOON + 60)]
    assert find_texts(params, tmp_path, entries) == {"p3": "text 3", "p14": "text 14"}
    assert find_texts(params, tmp_path, [FeedbackEntry(1, "gone", "x", "ann", NOON)]) == {}


def logged(number: int) -> Prediction:
    about = (f"p{number}", None, f"text {number}", None, 3, 1.0, 1, "champion", "track_order", 0.9, None, b"", b"", 1.0, False)
    return Prediction(NOON + number, "r", *about)  # type: ignore[arg-type]


def test_labels_since_the_last_retrain_are_counted_by_prediction(params: Params, tmp_path: Path) -> None:
    few = params.retrain.model_copy(update={"proposal_people": 2, "proposal_texts": 3})
    with open_state(tmp_path) as engine, engine.begin() as connection:
        for number in range(6):
            for person in ("ann", "ben"):
                insert_feedback(connection, f"p{number}", "track_order" if number < 2 else "new_one", person)
        assert last_learnt_feedback(connection, "evergreen") == 0
        assert count_new_labels(count_labels_since(connection, 0), LABELS, few) == 6
        assert count_new_labels(count_labels_since(connection, 0), LABELS, params.retrain) == 2
        assert count_labels_since(connection, 10) == [LabelCount("new_one", 1, 2)]
        assert len(read_feedback(connection)) == 12


def insert_feedback(connection: sa.Connection, id: str, label: str, person: str) -> None:
    row = {"prediction_id": id, "label": label, "kind": "label", "source": person, "received_at": sa.func.current_timestamp()}
    connection.execute(feedback.insert().values(row))


def test_a_branch_name_contains_no_text_of_an_alert() -> None:
    job = RetrainJob(7, 3, "collect", 1, None, 1, None, "../../x; rm -rf ~", "$(id)")
    assert branch(job) == "retrain/7"
