"""Example rows: their validation, identity, digest and storage."""

import hashlib
import json
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.atomic_write import atomic_write
from pipeline.data.columns import Columns
from pipeline.data.records import (
    Example,
    describe_fault,
    digest_examples,
    labels_of,
    make_example,
    read_examples,
    text_id,
    words_id,
    write_examples,
    write_json,
)
from pipeline.data.split_sides import hash_to_unit, side_of
from pipeline.runtime.text import is_symbol
from tests.conftest import ROOT

CHANGED_OF_SHIPPED = 23  # of 2,184


def an_example(text: str = "where is it", **fields: Any) -> Example:
    return Example(**{"id": text_id(text), "text": text, "label": "track", **fields})


def test_known_columns_are_fields_and_the_rest_is_meta() -> None:
    row = {
        "id": "7",
        "body": "hi",
        "topic": "greet",
        "customer": "g",
        "time": "2026-01-01",
        "source": "mail",
        "stars": 5,
        "none": None,
    }
    example = make_example(row, Columns("body", "topic", "customer"), max_text_chars=10, source="file")
    assert example == Example(
        id=text_id("hi"), text="hi", label="greet", group="g", time="2026-01-01", source="mail", meta={"stars": 5}
    )


def test_the_file_is_the_source_of_a_row_that_names_none() -> None:
    assert make_example({"text": "hi", "label": "x"}, Columns("text", "label"), max_text_chars=10, source="file").source == "file"


def test_an_empty_cell_of_an_optional_column_is_no_value() -> None:
    row = {"text": "hi", "label": "x", "target": "", "group": "", "time": ""}  # as in a csv
    example = make_example(row, Columns("text", "label"), max_text_chars=10, source="file")
    assert (example.target, example.group or None, example.time or None) == (None, None, None)


@pytest.mark.parametrize("field", ["text", "label", "group"])
def test_no_field_may_hold_half_of_a_surrogate_pair(field: str) -> None:
    row = {"text": "hi", "label": "x", field: "half \ud83d"}
    with pytest.raises(ValidationError):
        make_example(row, Columns("text", "label", "group"), max_text_chars=10, source="file")


@pytest.mark.parametrize("field", ["time", "source", "target"])
@pytest.mark.parametrize(
    ("value", "used"),
    [
        (1735689600000, "1735689600000"),
        (0.5, "0.5"),
        (True, "true"),
        (b"mail", "mail"),
        (datetime(2026, 3, 2, 8, 40, tzinfo=UTC), "2026-03-02T08:40:00+00:00"),
        (date(2026, 3, 2), "2026-03-02"),
        (["a", "b"], None),
        ({"a": 1}, None),
        ("half \ud83d", None),
        ("a control \x1b character", None),
        (5000 * "x", None),
    ],
    ids=repr,
)
def test_an_optional_column_of_any_type_is_converted_or_carried_along(field: str, value: Any, used: str | None) -> None:
    row = {"text": "hi", "label": "x", field: value}
    example = make_example(row, Columns("text", "label"), max_text_chars=100, source="file")
    assert getattr(example, field) == (used if used or field != "source" else "file")
    assert example.meta == ({} if used else {field: value})


@pytest.mark.parametrize("text", ["group", "time", "source", "target"])
def test_the_text_or_label_column_may_have_the_name_of_an_optional_one(text: str) -> None:
    example = make_example({text: "hi", "label": "x"}, Columns(text, "label"), max_text_chars=10, source="file")
    assert (example.text, example.source, example.time, example.target, example.group) == ("hi", "file", None, None, None)


def test_a_column_called_group_decides_nothing_unless_params_name_it() -> None:
    row = {"text": "hi", "label": "x", "group": 7}
    assert make_example(row, Columns("text", "label"), max_text_chars=10, source="file").group is None
    assert make_example(row, Columns("text", "label", "group"), max_text_chars=10, source="file").group == "7"


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (1, "1"), (-7, "-7"), (True, "true"), (False, "false"), ("é".encode(), "é"), ("007", "007")]
)
def test_whole_numbers_booleans_and_bytes_are_texts(value: Any, text: str) -> None:
    example = make_example({"text": value, "label": value}, Columns("text", "label"), max_text_chars=10, source="file")
    assert (example.text, example.label, example.id) == (text, text, text_id(text))


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        (1.0, "label is not a text: 1.0, a number with a decimal point"),
        (0.5, "label is not a text: the number 0.5, which is not whole"),
        (["a", "b"], "the row has several labels: a, b"),
        ("['a', 'b']", "the row has several labels: a, b"),
        ({"a": 1}, "label is not a text: an object"),
        (b"\xff", "label is not a text: bytes that are not UTF-8"),
    ],
)
def test_a_label_of_another_type_is_named(value: Any, fault: str) -> None:
    with pytest.raises(ValidationError) as caught:
        make_example({"text": "hi", "label": value}, Columns("text", "label"), max_text_chars=10, source="file")
    assert describe_fault(caught.value) == fault


@pytest.mark.parametrize(
    ("value", "label"),
    [
        (["ui"], "ui"),
        ([{"id": 7, "name": "ui", "color": "d73a4a"}], "ui"),
        ("['ui']", "ui"),
        ('["ui"]', "ui"),
        ([], None),
        ("[refund]", "[refund]"),  # no list: its text has no quotes
        ("[/track]", "[/track]"),
    ],
)
def test_a_list_of_one_label_is_that_label(value: Any, label: str | None) -> None:
    """A column of lists was refused row by row: "label is not a text: a list"."""
    assert make_example({"text": "hi", "label": value}, Columns("text", "label"), max_text_chars=10, source="file").label == label


def test_labels_are_merged_and_html_is_decoded_as_the_columns_say() -> None:
    columns = Columns("text", "label", merged=(("memberhsip", "membership"),), is_html=True)
    fields = {"text": "&iquest;C&oacute;mo?<br>a &lt; b &amp; c", "label": " memberhsip "}
    example = make_example(fields, columns, max_text_chars=100, source="file")
    assert (example.text, example.label) == ("¿Cómo? a < b & c", "membership")
    plain = make_example(fields, Columns("text", "label"), max_text_chars=100, source="file")
    assert (plain.text, plain.label) == (fields["text"], "memberhsip")


@given(st.text())
def test_ids_are_sixteen_hex_digits(text: str) -> None:
    assert len(text_id(text)) == 16
    assert int(text_id(text), 16) >= 0


def test_the_id_depends_on_the_folded_text_alone() -> None:
    assert text_id("Where is it?") == text_id("where IS it") == hashlib.sha256(b"where is it").hexdigest()[:16]
    assert text_id("where is it") != text_id("where was it")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("sort a list in c++", "sort a list in c#"),
        ("sort a list in c", "sort a list in c++"),
        ("great 👍", "great 👎"),
        ("great 👍", "great 👍🏽"),
        ("👍", "👎"),
        ("?", "!"),
        ("pay $5", "pay €5"),
        ("pay 5", "pay 5%"),
        ("is a < b", "is a > b"),
        ("/track", "track"),
        ("x^2", "x 2"),
    ],
)
def test_texts_that_differ_in_symbols_are_two_texts_on_one_side_of_the_split(one: str, other: str) -> None:
    assert text_id(one) != text_id(other)
    sides = {side_of(an_example(text), seed, val_share=0.3, test_share=0.3) for text in (one, other) for seed in range(1)}
    assert len(sides) == 1 or not any(c.isalnum() for c in one)


def shipped_texts() -> list[str]:
    lines = (ROOT / "data/support_desk.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["text"] for line in lines]


def test_symbols_change_the_ids_of_the_texts_that_hold_some_and_move_no_row() -> None:
    """Ids are content hashes that name rows in stored packages: those of texts without symbols are what they were."""
    texts = shipped_texts()
    changed = [text for text in texts if text_id(text) != words_id(text)]
    assert all(any(is_symbol(c) for c in text) for text in changed)
    assert len(changed) == CHANGED_OF_SHIPPED
    assert words_id("Where is it?") == hashlib.sha256(b"where is it").hexdigest()[:16]
    for text in changed:
        number = hash_to_unit(f"7\0{words_id(text)}")
        assert side_of(an_example(text), 7, val_share=0.1, test_share=0.3) == (
            "test" if number < 0.3 else "val" if number < 0.4 else "train"
        )


def test_examples_are_read_from_parquet_as_written(tmp_path: Path) -> None:
    examples = [
        an_example(group="customer-1", time="2026-03-02T08:40:15Z", meta={"stars": 5, "tags": ["a", "é"], "in": {"b": None}}),
        an_example("two", label=None, target="deux"),
    ]
    write_examples(tmp_path / "deep" / "rows.parquet", examples)
    assert read_examples(tmp_path / "deep" / "rows.parquet") == examples


def test_an_empty_list_is_read_as_empty(tmp_path: Path) -> None:
    write_examples(tmp_path / "rows.parquet", [])
    assert read_examples(tmp_path / "rows.parquet") == []


def test_labels_keep_their_order() -> None:
    assert labels_of([an_example(label="b"), an_example(label="a"), an_example(label="b")]) == ["b", "a", "b"]


def test_the_digest_is_over_ids_and_labels_in_order() -> None:
    first, second = an_example("one", label="x"), an_example("two", label="y")
    assert digest_examples([first, second]) == hashlib.sha256(f"{text_id('one')}\tx\n{text_id('two')}\ty\n".encode()).hexdigest()
    assert digest_examples([second, first]) != digest_examples([first, second])
    assert digest_examples([first.model_copy(update={"meta": {"a": 1}}), second]) == digest_examples([first, second])


def test_an_atomically_written_file_appears_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file"
    with atomic_write(path) as part:
        part.write_text("all")
        assert not path.exists()
    assert path.read_text() == "all"
    assert list(path.parent.iterdir()) == [path]


def test_a_block_that_fails_leaves_nothing_and_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic_write(path) as part:
        part.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_invalid_json_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"score": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_json_is_indented_and_not_escaped(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"name": "é"})
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == '{\n  "name": "é"\n}\n'
