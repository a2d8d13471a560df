"""Ingest: every row is accepted, merged or set aside with a reason; data that cannot be trained on is refused."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.given_labels import label_rules
from pipeline.data.records import labels_of, read_examples, text_id
from pipeline.errors import InputError
from pipeline.params import Params
from pipeline.stages import ingest as stage
from pipeline.stages.ingest import IngestResult, ingest, write
from tests.conftest import ROOT

Row = dict[str, Any] | str  # a string is a raw line of the file

TRACK = {"text": "where is my parcel", "label": "track"}
REFUND = {"text": "give me my money back", "label": "refund"}
LONG = "the quick brown fox jumps over the lazy dog and runs far away from"  # with one more word, 12 of 14 grams are shared


class Inputs:
    """A folder with source, test and feedback files."""

    def __init__(self, folder: Path, params: Params) -> None:
        self.folder, self.data = folder, params.data.model_copy(update={"max_quarantined_share": 0.9})
        self.rules = label_rules(params)
        self.source = folder / "source.jsonl"
        self.no_test = folder / "no_test.csv"
        self.no_test.write_text("text,label\n")

    def jsonl(self, name: str, rows: Sequence[Row]) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows), encoding="utf-8")
        return path

    def ingest(
        self, rows: Sequence[Row], *, test: Sequence[Row] = (), feedback: Sequence[Sequence[Row]] = (), **changed: Any
    ) -> IngestResult:
        self.jsonl(self.source.name, rows)
        for turn, given_rows in enumerate(feedback):
            self.jsonl(f"feedback/{turn}.jsonl", given_rows)
        supplied = self.jsonl("test.jsonl", test) if test else self.no_test
        return ingest(self.source, supplied, self.folder / "feedback", self.data.model_copy(update=changed), self.rules)

    def refuse(self, rows: Sequence[Row], **more: Any) -> InputError:
        with pytest.raises(InputError) as caught:
            self.ingest(rows, **more)
        return caught.value


@pytest.fixture
def inputs(tmp_path: Path, params: Params) -> Inputs:
    return Inputs(tmp_path, params)


def pairs(ingested: IngestResult) -> list[tuple[str, str | None]]:
    return [(row.text, row.label) for row in ingested.rows]


def accounted(report: dict[str, Any]) -> int:
    """Count the rows of which the report says what became of them."""
    quarantined = report["quarantined"]["rows"]
    return int(report["accepted"] + report["exact_duplicates"] + report["also_in_test_and_dropped"] + quarantined)


def test_clean_rows_are_accepted_in_order(inputs: Inputs) -> None:
    result = inputs.ingest([TRACK, {**REFUND, "text": "give  me\tmy money\u200b back"}])
    assert pairs(result) == [("where is my parcel", "track"), ("give me my money back", "refund")]
    assert result.report["classes"] == {"refund": 1, "track": 1}
    assert (result.test, result.quarantined) == ([], [])


def test_exact_duplicates_are_counted_and_taken_once(inputs: Inputs) -> None:
    result = inputs.ingest([TRACK, REFUND, {**TRACK, "text": "Where is my parcel?"}, TRACK])
    assert len(result.rows) == 2
    assert result.report["exact_duplicates"] == 2


def test_a_text_with_two_labels_is_set_aside_with_both_in_the_reason(inputs: Inputs) -> None:
    result = inputs.ingest([TRACK, REFUND, {"text": "Help!", "label": "track"}, {"text": "help", "label": "refund"}])
    assert [(q.line, q.reason) for q in result.quarantined] == [
        (3, "the same text has several labels: refund, track; line 4 has it too, but for case and punctuation"),
        (4, "the same text has several labels: refund, track; line 3 has it too, but for case and punctuation"),
    ]
    assert len(result.rows) == 2


def test_texts_that_differ_in_symbols_are_no_conflict_and_no_near_duplicates(inputs: Inputs) -> None:
    rows = [{"text": "sort a list in c++", "label": "cpp"}, {"text": "sort a list in c#", "label": "csharp"}, TRACK, REFUND]
    result = inputs.ingest(rows, near_duplicates="drop")
    assert len(result.rows) == 4
    assert result.quarantined == []


def test_conflicts_count_as_rows_that_are_not_usable(inputs: Inputs) -> None:
    rows = [TRACK, REFUND, {"text": "help", "label": "track"}, {"text": "help", "label": "refund"}]
    error = inputs.refuse(rows, max_quarantined_share=0.4)
    assert (
        "2 of 4 rows are not usable; the first: the same text has several labels: refund, track; line 4 has it too" in error.what
    )
    assert "give each text one label" in error.do


def test_rows_that_a_quote_joins_are_set_aside_and_texts_of_several_lines_are_not(inputs: Inputs) -> None:
    table = inputs.folder / "source.csv"
    lines = [
        "text,label",
        "where,track",
        "money,refund",
        '"soon they said,track',
        'later he left",refund',
        '"hello\nyou, there",track',
    ]
    table.write_text("\n".join(lines) + "\n")
    result = ingest(table, inputs.no_test, inputs.folder / "feedback", inputs.data, inputs.rules)
    assert [(q.line, q.reason) for q in result.quarantined] == [(4, "a quote joins 2 lines, each of which is a row without it")]
    assert ("hello you, there", "track") in pairs(result)


@pytest.mark.parametrize(
    ("row", "words", "do"),
    [
        ({"text": 5000 * "x", "label": "track"}, "text is too long: 5000 characters", "raise data.max_text_chars"),
        ({"text": "hello", "label": 5000 * "x"}, "label is too long: 5000 characters", "shorten the labels"),
        ({"text": "hello", "label": 1.5}, "label is not a text: the number 1.5", "texts or whole numbers"),
    ],
    ids=["long text", "long label", "number"],
)
def test_a_refusal_says_what_mends_its_cause(inputs: Inputs, row: Row, words: str, do: str) -> None:
    error = inputs.refuse([TRACK, REFUND, row], max_quarantined_share=0.02)
    assert words in error.what
    assert do in error.do


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ({"label": "track"}, "text is missing"),
        ({"text": None, "label": "track"}, "text is missing"),
        ({"text": "", "label": "track"}, "text is empty"),
        ({"text": " \n\u200b", "label": "track"}, "text is empty"),
        ({"text": "\u200d", "label": "track"}, "text is empty"),
        ({"text": "nul \0 here", "label": "track"}, "text contains a control character"),
        ({"text": "escape \x1b[0m", "label": "track"}, "text contains a control character"),
        ({"text": "delete \x7f", "label": "track"}, "text contains a control character"),
        ('{"text": "half \\ud83d", "label": "track"}', "text contains half of a surrogate pair"),
        ({"text": 7.5, "label": "track"}, "text is not a text"),
        ({"text": ["a", "b"], "label": "track"}, "text is not a text"),
        ({"text": "hello"}, "label is missing"),
        ({"text": "hello", "label": ""}, "label is missing"),
        ({"text": "hello", "label": " "}, "label is empty"),
        ({"text": "hello", "label": 7.0}, "label is not a text"),
        ({"text": "hello", "label": ["a", "b"]}, "the row has several labels"),
        ({"text": "hello", "label": "tra\0ck"}, "label contains a control character"),
        ("{text: hello}", "not valid JSON"),
        ('["hello", "track"]', "not a JSON object"),
    ],
)
def test_a_bad_row_is_set_aside_with_file_line_and_reason(inputs: Inputs, bad: Row, reason: str) -> None:
    result = inputs.ingest([TRACK, REFUND, bad])
    [quarantined] = result.quarantined
    assert (quarantined.path, quarantined.line) == (inputs.source, 3)
    assert quarantined.reason.startswith(reason)
    assert len(result.rows) == 2


@pytest.mark.parametrize(("field", "length", "limit"), [("text", 301, "data.max_text_chars = 300"), ("label", 201, "200")])
def test_a_field_that_is_too_long_is_set_aside_with_the_limit(inputs: Inputs, field: str, length: int, limit: str) -> None:
    fits, too_long = ({"text": "hello", "label": "hello", field: size * "x"} for size in (length - 1, length))
    [quarantined] = inputs.ingest([TRACK, REFUND, fits, too_long], max_text_chars=300).quarantined
    assert quarantined.line == 4
    assert quarantined.reason.startswith(field)
    assert limit in quarantined.reason


@pytest.mark.parametrize("bad", [{"text": "no label here"}, {"label": "track"}, "nonsense"])
def test_a_bad_row_may_be_the_first_of_its_file(inputs: Inputs, bad: Row) -> None:
    result = inputs.ingest([bad, TRACK, REFUND])
    assert len(result.rows) == 2
    assert [q.line for q in result.quarantined] == [1]


@pytest.mark.parametrize("line", ["only one field", "three,track,fields"])
def test_a_row_of_a_table_with_the_wrong_number_of_fields_is_set_aside(inputs: Inputs, line: str) -> None:
    table = inputs.folder / "source.csv"
    table.write_text(f'text,label\n"where is\nmy parcel",track\n{line}\ngive it back,refund\n')
    result = ingest(table, inputs.no_test, inputs.folder / "feedback", inputs.data, inputs.rules)
    [quarantined] = result.quarantined
    assert (quarantined.path, quarantined.line) == (table, 4)
    assert "the header has 2" in quarantined.reason
    assert len(result.rows) == 2


def test_reasons_are_counted_by_kind(inputs: Inputs) -> None:
    long = [{"text": n * "x", "label": "track"} for n in (4001, 4002)]
    result = inputs.ingest([TRACK, REFUND, *long, "nonsense", "{", {"text": "hello"}], max_text_chars=4000)
    counts = result.report["quarantined"]["reasons"]
    assert sum(counts.values()) == 5
    assert counts["label is missing"] == 1
    assert sorted(counts.values()) == [1, 2, 2]


def test_too_many_bad_rows_are_refused_with_the_first_of_them(inputs: Inputs) -> None:
    error = inputs.refuse([TRACK, REFUND, {"text": "", "label": "track"}], max_quarantined_share=0.3)
    assert error.where == f"{inputs.source}, line 3"
    assert "1 of 3 rows" in error.what
    assert "text is empty" in error.what
    assert "data.max_quarantined_share" in error.do


def test_a_share_of_bad_rows_on_the_limit_is_accepted(inputs: Inputs) -> None:
    assert len(inputs.ingest([TRACK, REFUND, TRACK, "nonsense"], max_quarantined_share=0.25).quarantined) == 1


def test_a_source_without_rows_is_refused(inputs: Inputs) -> None:
    assert "no rows" in inputs.refuse([""]).what


@pytest.mark.parametrize(
    ("first", "second"), [("track", "Track"), ("track", "TRACK"), ("track order", "track_order"), ("track_order", "Track-Order")]
)
def test_a_label_with_two_spellings_is_refused_with_both_places(inputs: Inputs, first: str, second: str) -> None:
    error = inputs.refuse([{"text": "one", "label": first}, REFUND, {"text": "two", "label": second}])
    assert error.where == f"{inputs.source}, line 3"
    assert f"`{second}` is also spelt `{first}` ({inputs.source}, line 1)" in error.what


def test_white_space_around_a_label_is_not_another_spelling(inputs: Inputs) -> None:
    assert inputs.ingest([TRACK, REFUND, {"text": "two", "label": " track\n"}]).report["classes"] == {"refund": 1, "track": 2}


def test_another_spelling_in_the_feedback_is_refused_too(inputs: Inputs) -> None:
    error = inputs.refuse([TRACK, REFUND], feedback=[[{"text": "new", "label": "Refund"}]])
    assert error.where.endswith("0.jsonl, line 1")


@pytest.mark.parametrize(("one", "other"), [("A+", "A-"), ("C", "C++")])
def test_labels_that_differ_in_a_sign_are_two_labels(inputs: Inputs, one: str, other: str) -> None:
    assert len(inputs.ingest([{"text": "first", "label": one}, {"text": "second", "label": other}]).rows) == 2


def test_a_single_class_is_refused_by_name(inputs: Inputs) -> None:
    error = inputs.refuse([TRACK, {**TRACK, "text": "and my other parcel"}])
    assert "one label: track" in error.what


def test_named_columns_are_those_of_the_source_and_a_header_without_rows_needs_none(inputs: Inputs) -> None:
    rows = [{"message": r["text"], "topic": r["label"], "label": "no"} for r in (TRACK, REFUND)]
    assert len(inputs.ingest(rows, text_column="message", label_column="topic").rows) == 2


def test_feedback_is_merged(inputs: Inputs) -> None:
    result = inputs.ingest([TRACK, REFUND], feedback=[[{"text": "battery is flat", "label": "refund"}]])
    assert ("battery is flat", "refund") in pairs(result)
    assert result.report["feedback"]["new"] == result.report["feedback"]["rows"] == 1


def labelled(text: str, label: str, *labellers: str) -> dict[str, Any]:
    return {"text": text, "label": label, "labellers": list(labellers), "source": "feedback"}


def test_enough_people_overrule_a_training_row_and_later_feedback_replaces_earlier(inputs: Inputs) -> None:
    rows = [TRACK, REFUND, {"text": "help", "label": "track"}]
    wrong, right = labelled("Help!", "track", "ann"), labelled("help", "refund", "ann", "ben")
    result = inputs.ingest(rows, feedback=[[wrong], [right]])
    assert pairs(result)[-1] == ("help", "refund")
    assert result.rows[-1].meta["given"] == {"labellers": ("ann", "ben"), "overruled": "track"}
    assert result.report["feedback"]["overrules"] == 1


@pytest.mark.parametrize("labellers", [["ann"], ["ann", "ann"], "ann and ben", None])
def test_one_person_does_not_overrule_a_training_row(inputs: Inputs, labellers: Any) -> None:
    alone = {"text": "help", "label": "refund", "labellers": labellers}
    result = inputs.ingest([TRACK, REFUND, {"text": "help", "label": "track"}], feedback=[[alone]])
    assert pairs(result)[-1] == ("help", "track")
    [waiting] = result.quarantined
    assert waiting.reason.startswith("waits for more people: a label that overrules the source needs 2")


@pytest.mark.parametrize("text", ["where is my parcel", "it will not charge"])  # sides test and validation
def test_however_many_people_contradict_a_row_that_measures_the_model_it_keeps_its_label(inputs: Inputs, text: str) -> None:
    rows = [REFUND, {"text": text, "label": "track"}]
    result = inputs.ingest(rows, feedback=[[labelled(text.upper(), "refund", "ann", "ben", "cy")]])
    assert pairs(result)[-1] == (text, "track")
    [dispute] = result.report["feedback"]["disputed"]
    assert (dispute["id"], dispute["label"], dispute["given"]) == (text_id(text), "track", "refund")
    assert dispute["labellers"] == ["ann", "ben", "cy"]


def test_feedback_that_agrees_is_no_dispute(inputs: Inputs) -> None:
    report = inputs.ingest([TRACK, REFUND], feedback=[[labelled(TRACK["text"], "track", "ann")]]).report
    assert (report["feedback"]["confirms"], report["feedback"]["disputed"]) == (1, [])


@pytest.mark.parametrize(("people", "is_used"), [(["ann"], False), (["ann", "ben"], True)])
def test_a_new_text_that_would_measure_the_model_needs_agreement_and_is_not_trained_on_without(
    inputs: Inputs, people: list[str], is_used: bool
) -> None:
    result = inputs.ingest([TRACK, REFUND], feedback=[[labelled("the battery died", "refund", *people)]])
    assert (("the battery died", "refund") in pairs(result)) == is_used
    assert [q.reason.split(":")[0] for q in result.quarantined] == ([] if is_used else ["waits for more people"])


def test_a_new_training_text_waits_for_as_many_people_as_params_require(inputs: Inputs) -> None:
    inputs.rules = inputs.rules._replace(new_text_people=2)
    [waiting] = inputs.ingest([TRACK, REFUND], feedback=[[labelled("battery is flat", "refund", "ann")]]).quarantined
    assert waiting.reason == "waits for more people: a new text needs 2 (labels.new_text_people), 1 gave it"


def test_a_row_without_fields_is_set_aside_with_a_reason(inputs: Inputs) -> None:
    assert inputs.refuse(["{}"]).what == "1 of 1 rows are not usable; the first: the row has no fields"


def test_a_settled_dispute_changes_a_row_that_measures_the_model_and_leaves_its_date(inputs: Inputs) -> None:
    settled = {**labelled(TRACK["text"], "refund", "eva"), "given_at": "2026-11-02T10:00:00+00:00", "source": "settlement"}
    rows = [TRACK, REFUND, {"text": "help", "label": "track"}]
    result = inputs.ingest(rows, feedback=[[labelled(TRACK["text"], "refund", "ann")], [settled]])
    assert pairs(result)[0] == ("where is my parcel", "refund")
    assert result.rows[0].meta["settled"] == {"at": "2026-11-02T10:00:00+00:00", "by": "eva", "before": "track"}
    assert (result.report["feedback"]["settled"], result.report["feedback"]["disputed"]) == (1, [])


def test_a_class_that_only_people_gave_waits_until_it_can_be_tested(inputs: Inputs) -> None:
    trained, tested = ("battery is flat", "battery hot"), ("the battery died", "flat again")
    few = [labelled(text, "battery", "ann", "ben") for text in (*trained, tested[0])]
    early = inputs.ingest([TRACK, REFUND], feedback=[few])
    assert early.report["classes"] == {"refund": 1, "track": 1}
    assert {q.reason.split(":")[0] for q in early.quarantined} == {"waits for its class"}
    assert (early.report["feedback"]["new"], early.report["feedback"]["waiting"]) == (0, 3)
    ready = inputs.ingest([TRACK, REFUND], feedback=[[*few, labelled(tested[1], "battery", "ann", "ben")]])
    assert ready.report["classes"]["battery"] == 4


def test_a_training_row_overruled_into_a_class_that_waits_keeps_its_label(inputs: Inputs) -> None:
    rows = [TRACK, REFUND, {"text": "help", "label": "track"}]
    result = inputs.ingest(rows, feedback=[[labelled("help", "advice", "ann", "ben")]])
    assert pairs(result)[-1] == ("help", "track")
    assert "given" not in result.rows[-1].meta


def test_an_overruled_row_stays_in_its_group(inputs: Inputs) -> None:
    grouped = {"text": "help", "label": "track", "group": "customer 9"}
    opinion = labelled("help", "refund", "ann", "ben")
    result = inputs.ingest([TRACK, REFUND, grouped], feedback=[[opinion]], group_column="group")
    assert result.rows[-1].group == "customer 9"


def test_feedback_settles_a_conflict_of_the_source(inputs: Inputs) -> None:
    conflicting = [{"text": "help", "label": "track"}, {"text": "help", "label": "refund"}]
    result = inputs.ingest([TRACK, REFUND, *conflicting], feedback=[[conflicting[0]]])
    assert ("help", "track") in pairs(result)
    assert len(result.quarantined) == 2


@pytest.mark.parametrize("bad", ["nonsense", {"text": "no label"}, {"label": "track"}, {"text": "", "label": "track"}])
@pytest.mark.parametrize("first", [True, False])
def test_bad_feedback_is_set_aside(inputs: Inputs, bad: Row, first: bool) -> None:
    good = {"text": "battery is flat", "label": "refund"}
    result = inputs.ingest([TRACK, REFUND], feedback=[[bad, good] if first else [good, bad]])
    [quarantined] = result.quarantined
    assert (quarantined.path.name, quarantined.line) == ("0.jsonl", 1 if first else 2)
    assert ("battery is flat", "refund") in pairs(result)


def test_feedback_has_its_own_columns(inputs: Inputs) -> None:
    rows = [{"utterance": row["text"], "intent": row["label"]} for row in (TRACK, REFUND)]
    result = inputs.ingest(rows, feedback=[[{"text": "battery is flat", "label": "refund"}]])
    assert len(result.rows) == 3


def test_a_supplied_test_is_never_altered_and_its_texts_are_not_trained_on(inputs: Inputs) -> None:
    test = [REFUND, {**TRACK, "text": "WHERE is my parcel?!"}, REFUND]
    result = inputs.ingest([TRACK, {**TRACK, "text": "track it"}, {**REFUND, "text": "money"}], test=test)
    assert [(row.text, row.label) for row in result.test] == [(row["text"], row["label"]) for row in test]
    assert pairs(result) == [("track it", "track"), ("money", "refund")]
    assert result.report["also_in_test_and_dropped"] == 1
    assert result.report["test"]["rows"] == 3


def test_feedback_on_a_test_text_is_not_trained_on(inputs: Inputs) -> None:
    result = inputs.ingest(
        [TRACK, REFUND], test=[{"text": "help", "label": "track"}], feedback=[[{"text": "Help", "label": "refund"}]]
    )
    assert len(result.rows) == 2
    assert [row.label for row in result.test] == ["track"]
    assert [dispute["given"] for dispute in result.report["feedback"]["disputed"]] == ["refund"]


def test_a_bad_test_row_is_refused_with_its_line(inputs: Inputs) -> None:
    error = inputs.refuse([TRACK, REFUND], test=[TRACK, {"text": "hello"}])
    assert error.where.endswith("test.jsonl, line 2")
    assert "label is missing" in error.what


def test_labels_of_the_test_that_no_row_has_are_refused_by_name(inputs: Inputs) -> None:
    error = inputs.refuse([TRACK, REFUND], test=[{"text": "it is flat", "label": "battery"}])
    assert "battery" in error.what


def test_near_duplicates_are_reported_and_kept(inputs: Inputs) -> None:
    near = [{"text": f"{LONG} {word}", "label": "track"} for word in ("home", "here")]
    result = inputs.ingest([TRACK, REFUND, *near], near_duplicates="report")
    near_report = result.report["near_duplicates"]
    assert len(result.rows) == 4
    assert (near_report["action"], near_report["pairs"], near_report["share_of_rows"]) == ("report", 1, 0.5)
    assert near_report["examples"] == [{"first": f"{LONG} home", "second": f"{LONG} here", "jaccard": 0.857}]


def test_near_duplicates_are_dropped_by_params_and_the_first_stays(inputs: Inputs) -> None:
    near = [{"text": f"{LONG} {word}", "label": "track"} for word in ("home", "here", "hence")]
    result = inputs.ingest([TRACK, *near, REFUND], near_duplicates="drop")
    assert [text for text, _ in pairs(result)] == [TRACK["text"], f"{LONG} home", REFUND["text"]]
    assert result.report["near_duplicates"]["pairs"] == 3


def test_rows_dropped_as_near_duplicates_are_counted(inputs: Inputs) -> None:
    near = [{"text": f"{LONG} {word}", "label": "track"} for word in ("home", "here", "hence")]
    report = inputs.ingest([TRACK, *near, REFUND], near_duplicates="drop").report
    assert report["near_duplicates"].get("dropped") == 2
    assert report["near_duplicates"]["share_of_rows"] <= 1


KINDS = st.one_of(
    st.builds(lambda text, label: {"text": text, "label": label}, st.sampled_from("pqrst"), st.sampled_from(["track", "refund"])),
    st.sampled_from([{"text": "P!", "label": "track"}, {"text": "", "label": "track"}, {"text": "no label"}, "nonsense"]),
)


@settings(deadline=None, max_examples=60)
@given(
    rows=st.lists(KINDS, max_size=12),
    feedback=st.lists(KINDS, max_size=6),
    test=st.lists(st.sampled_from([{"text": "p", "label": "track"}, {"text": "Q", "label": "refund"}, REFUND]), max_size=3),
)
def test_no_row_is_lost(
    tmp_path_factory: pytest.TempPathFactory, params: Params, rows: list[Row], feedback: list[Row], test: list[Row]
) -> None:
    inputs = Inputs(tmp_path_factory.mktemp("inputs"), params)
    known: list[Row] = [{"text": "sure", "label": "track"}, {"text": "certain", "label": "refund"}]
    corrections: list[Row] = [{"text": "also sure", "label": "track"}]
    result = inputs.ingest([*known, *rows], test=test, feedback=[[*corrections, *feedback]])
    assert accounted(result.report) == len(known) + len(rows) + len(corrections) + len(feedback)
    assert result.report["accepted"] == len(result.rows) == len({row.id for row in result.rows})
    assert result.report["quarantined"]["rows"] == len(result.quarantined)
    assert not {row.id for row in result.rows} & {row.id for row in result.test}


def test_the_numbers_of_the_report_add_up(inputs: Inputs) -> None:
    feedback: list[Row] = [{"text": "battery is flat", "label": "battery"}, "nonsense"]
    report = inputs.ingest([TRACK, REFUND, TRACK, "nonsense"], feedback=[feedback]).report
    assert report["source"]["rows"] == 4
    assert report["source"]["rows"] + report["feedback"]["rows"] == accounted(report)


def test_the_digest_depends_on_the_data_and_not_on_its_order(inputs: Inputs) -> None:
    rows: list[Row] = [{"text": f"text {n}", "label": "ab"[n % 2]} for n in range(20)]
    assert inputs.ingest(rows).report["digest"] == inputs.ingest(rows[::-1]).report["digest"]
    assert inputs.ingest(rows[1:]).report["digest"] != inputs.ingest(rows).report["digest"]


def test_all_files_are_written_and_agree(inputs: Inputs) -> None:
    source: list[Row] = [
        TRACK,
        REFUND,
        '{"text": "half \\ud83d", "label": "track"}',
        {**REFUND, "text": "money, please", "stars": 5},
    ]
    result = inputs.ingest(source, test=[{"text": "help", "label": "track"}])
    out = inputs.folder / "out"
    write(result, out)
    assert {path.name for path in out.iterdir()} == {
        "rows.parquet",
        "test.parquet",
        "quarantine.jsonl",
        "classes.csv",
        "report.json",
    }
    assert read_examples(out / "rows.parquet") == result.rows
    assert read_examples(out / "test.parquet") == result.test
    [quarantined] = [json.loads(line) for line in (out / "quarantine.jsonl").read_text(encoding="utf-8").splitlines()]
    assert (quarantined["path"], quarantined["line"], quarantined["reason"]) == (
        str(inputs.source),
        3,
        "text contains half of a surrogate pair",
    )
    assert quarantined["fields"] == {"text": "half \ud83d", "label": "track"}
    assert (out / "classes.csv").read_text(encoding="utf-8").splitlines() == ["label,rows", "refund,2", "track,1"]
    assert json.loads((out / "report.json").read_text(encoding="utf-8")) == result.report


def test_without_a_test_its_file_is_there_and_empty(inputs: Inputs) -> None:
    write(inputs.ingest([TRACK, REFUND]), inputs.folder / "out")
    assert read_examples(inputs.folder / "out" / "test.parquet") == []


def test_half_of_a_surrogate_pair_in_another_column_does_not_stop_the_stage(inputs: Inputs) -> None:
    result = inputs.ingest([TRACK, REFUND, '{"text": "hello", "label": "track", "note": "half \\ud83d"}'])
    write(result, inputs.folder / "out")
    assert len(read_examples(inputs.folder / "out" / "rows.parquet")) + len(result.quarantined) == 3


def test_the_shipped_corpus_is_accepted_whole(params: Params) -> None:
    result = ingest(ROOT / params.data.source, ROOT / params.data.test, ROOT / "data/none", params.data, label_rules(params))
    assert result.quarantined == []
    assert len(result.rows) == result.report["source"]["rows"]
    assert set(labels_of(result.rows)) == set(result.report["classes"])


@pytest.mark.parametrize("name", ["train (1).csv", "it's $HOME.csv", 'a "b" & `c`; #d.csv', "-x.csv", " blank.csv", "TRAIN.CSV"])
def test_a_file_may_have_any_name_because_no_shell_reads_it(
    inputs: Inputs, name: str, monkeypatch: pytest.MonkeyPatch, params: Params
) -> None:
    (inputs.folder / name).write_text("text,label\nwhere is it,track\nmoney back,refund\n")
    data = params.data.model_copy(update={"source": Path(name), "test": inputs.no_test})
    monkeypatch.chdir(inputs.folder)
    monkeypatch.setattr(stage, "load_params", lambda: params.model_copy(update={"data": data}))
    monkeypatch.setattr(sys, "argv", ["ingest", "--feedback", "feedback", "--out", "out"])
    stage.main()
    assert len(read_examples(Path("out/rows.parquet"))) == 2
