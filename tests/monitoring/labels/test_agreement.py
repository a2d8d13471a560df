"""Opinions become rows: how many people a label needs, what stays a proposal, and that any label is data."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from monitoring.labels.agreement import MergedFeedback, merge_feedback
from monitoring.labels.disputes import Settlement
from monitoring.labels.entries import FeedbackEntry
from monitoring.labels.feedback_file import read_file, write_file
from monitoring.labels.opinions import collect_opinions
from monitoring.labels.trusted_rows import TrustedRow, TrustedRows
from pipeline.data.fence import Fence
from pipeline.data.given_labels import label_rules
from pipeline.data.records import normalise_label, text_id
from pipeline.params import Params
from pipeline.runtime.text import clean
from pipeline.stages.ingest import ingest
from serving.prediction import Prediction
from tests.conftest import ROOT
from tests.monitoring.homes import NOON

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


NOTHING = TrustedRows({}, {})


def trusted(corpus: dict[str, str], *, protected: bool = False) -> TrustedRows:
    """Return the corpus rows, by text, all protected or none."""
    rows = {text_id(text): TrustedRow(text, label) for text, label in corpus.items()}
    return TrustedRows(rows, {key: row.label for key, row in rows.items()} if protected else {})


def merge(
    params: Params,
    entries: list[FeedbackEntry],
    texts: dict[str, str],
    stored: Sequence[dict[str, Any]] = (),
    *,
    rows: TrustedRows = NOTHING,
    settled: Sequence[Settlement] = (),
    known: frozenset[str] = LABELS,
) -> MergedFeedback:
    few = params.retrain.model_copy(update={"proposal_people": 2, "proposal_texts": 3})
    known = known | {row["label"] for row in stored}
    opinions = collect_opinions(entries, texts, known, params.data)
    return merge_feedback(stored, opinions, rows, settled, known, params.model_copy(update={"retrain": few}))


def by_text(merged: MergedFeedback) -> dict[str, str]:
    return {row["text"]: row["label"] for row in merged.rows}


def test_labels_that_the_champion_has_are_learnt(params: Params) -> None:
    merged = merge(params, [entry(1, "track_order"), entry(2, "return_item")], texts(2))
    assert by_text(merged) == {"my question number 1": "track_order", "my question number 2": "return_item"}
    assert merged.skipped == {}


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


def test_rows_that_name_nobody_stay_until_there_is_an_opinion_on_their_text(params: Params) -> None:
    stored = [{"text": "long ago", "label": "charging"}, {"text": "my question number 1", "label": "return_item"}]
    merged = merge(params, [entry(1, "track_order"), entry(2, "charging")], texts(2), stored)
    assert by_text(merged) == {
        "long ago": "charging",
        "my question number 1": "track_order",
        "my question number 2": "charging",
    }
    assert merge(params, [entry(1, "track_order"), entry(2, "charging")], texts(2), merged.rows) == merged


def test_a_row_names_its_labellers_and_the_time_of_the_latest(params: Params) -> None:
    entries = [
        entry(1, "track_order", prediction="p1", person="ben"),
        entry(2, "track_order", prediction="p1", person="ann"),
        entry(3, "return_item", prediction="p1", person="cem"),
    ]
    (row,) = merge(params, entries, texts(1)).rows
    assert row == {
        "text": "my question number 1",
        "label": "track_order",
        "labellers": ["ann", "ben"],
        "given_at": "2026-09-21T14:13:22+00:00",
        "source": "feedback",
    }


def test_the_latest_label_of_a_labeller_counts_once_a_text(params: Params) -> None:
    same = {f"p{number}": "where is it" for number in range(1, 5)}
    entries = [entry(number, "return_item", person="ann") for number in (1, 2, 3)] + [entry(4, "track_order", person="ann")]
    (row,) = merge(params, entries, same).rows
    assert (row["label"], row["labellers"]) == ("track_order", ["ann"])


def test_one_opinion_labels_a_new_text_and_does_not_overrule_the_corpus(params: Params) -> None:
    rows = trusted({"my question number 1": "return_item"})
    merged = merge(params, [entry(1, "track_order"), entry(2, "track_order")], texts(2), rows=rows)
    assert by_text(merged) == {"my question number 2": "track_order"}
    assert merged.skipped == {"by too few people": 1}


def test_two_people_overrule_the_corpus_unless_as_many_say_otherwise(params: Params) -> None:
    rows = trusted({"my question number 1": "return_item"})
    two = [entry(1, "track_order", prediction="p1"), entry(2, "track_order", prediction="p1", person="ben")]
    assert by_text(merge(params, two, texts(1), rows=rows)) == {"my question number 1": "track_order"}
    against = [entry(n, "return_item", prediction="p1", person=name) for n, name in ((3, "cem"), (4, "dee"))]
    assert by_text(merge(params, two + against, texts(1), rows=rows)) == {"my question number 1": "return_item"}


def test_one_person_under_many_predictions_is_one_person(params: Params) -> None:
    same = {f"p{number}": "where is it" for number in range(1, 61)}
    entries = [entry(number, "track_order", person="mallory") for number in range(1, 61)]
    assert merge(params, entries, same, rows=trusted({"where is it": "return_item"})).rows == []


def test_nobody_changes_a_protected_row(params: Params) -> None:
    rows = trusted({"my question number 1": "return_item"}, protected=True)
    crowd = [entry(number, "track_order", prediction="p1", person=f"person {number}") for number in range(1, 30)]
    merged = merge(params, crowd, texts(1), rows=rows)
    assert (merged.rows, merged.skipped) == ([], {"disputed": 1})


def test_a_row_that_feedback_made_keeps_its_label_once_a_champion_was_measured_on_it(params: Params) -> None:
    rows = TrustedRows({}, {text_id("my question number 1"): "return_item"})
    first = entry(1, "return_item", prediction="p1", person="ann")
    others = [entry(n, "track_order", prediction="p1", person=f"person {n}") for n in (2, 3, 4)]
    assert by_text(merge(params, [first, *others], texts(1), rows=rows)) == {"my question number 1": "return_item"}


def test_a_settled_change_becomes_a_dated_row(params: Params) -> None:
    rows = trusted({"my question number 1": "return_item"}, protected=True)
    change = Settlement(1, text_id("my question number 1"), "track_order", "change", "olga", 1_790_000_100.0)
    keep = change._replace(verdict="keep")
    assert merge(params, [entry(1, "track_order")], texts(1), rows=rows, settled=[keep]).rows == []
    (row,) = merge(params, [entry(1, "track_order")], texts(1), rows=rows, settled=[change]).rows
    assert (row["label"], row["labellers"], row["source"]) == ("track_order", ["olga"], "settlement")
    assert merge(params, [], {}, [row], rows=rows, settled=[change]).rows == [row]


def test_a_stored_row_that_names_nobody_does_not_overrule_the_corpus(params: Params) -> None:
    stored = [{"text": "my question number 1", "label": "track_order"}]
    assert merge(params, [], {}, stored, rows=trusted({"my question number 1": "return_item"})).rows == []


def test_rows_of_a_withdrawn_labeller_vanish_and_those_decided_with_others_are_decided_again(params: Params) -> None:
    ann = [entry(1, "track_order", prediction="p1"), entry(2, "track_order", prediction="p2")]
    ben = [entry(3, "return_item", prediction="p2", person="ben")]
    stored = merge(params, ann + ben, texts(2)).rows
    assert {row["label"] for row in stored} == {"track_order"}
    assert by_text(merge(params, ben, texts(2), stored)) == {"my question number 2": "return_item"}


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
    assert read_file(folder / "feedback.jsonl") == merged.rows
    for row in merged.rows:
        assert len(row["label"]) <= 200
        assert not set("\n\r\0\u2028") & set(row["label"])
        assert (
            sum(normalise_label(clean(label)) == normalise_label(row["label"]) for label in given_labels)
            or row["label"] in LABELS
        )
    assert sum(merged.skipped.values()) + len(merged.rows) == len(given_labels)


def test_stage_ingest_accepts_every_merged_row(params: Params, tmp_path: Path) -> None:
    given_labels = [*NASTY, "track_order"] * 4
    entries = [entry(n, label, person=f"person {n}") for n, label in enumerate(given_labels, start=1)]
    known = frozenset(json.loads(line)["label"] for line in (ROOT / params.data.source).read_text(encoding="utf-8").splitlines())
    merged = merge(params, entries, texts(len(given_labels)), known=known)
    write_file(tmp_path / "feedback.jsonl", merged.rows)
    ingested = ingest(ROOT / params.data.source, ROOT / params.data.test, tmp_path, params.data, label_rules(params))
    assert ingested.report["feedback"]["rows"] == len(merged.rows) > 30
    assert all(row.reason.startswith("waits for") for row in ingested.quarantined)


def logged(number: int) -> Prediction:
    about = (f"p{number}", None, f"text {number}", None, 3, 1.0, 1, "champion", "track_order", 0.9, None, b"", b"", 1.0, False)
    return Prediction(NOON + number, "r", *about)  # type: ignore[arg-type]


def test_a_text_that_nearly_equals_a_measuring_row_makes_no_row_and_is_counted(params: Params) -> None:
    words = "where is the parcel that i ordered three weeks ago for my mother please tell me"
    fence = Fence([f"{words} now"], params.split, has_test=True, jaccard=0.8)
    near = next(
        text for text in (f"{words} {word}" for word in ("today", "soon", "thanks", "again")) if fence.side(text) == "train"
    )
    rows = TrustedRows({}, {}, fence)
    merged = merge(params, [entry(1, "track_order"), entry(2, "track_order")], {"p1": near, "p2": "a new text"}, rows=rows)
    assert by_text(merged) == {"a new text": "track_order"}
    assert merged.summary == "1 labelled texts, 1 nearly equal to rows that measure the model"
