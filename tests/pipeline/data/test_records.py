"""Example rows: readers that agree, correct line numbers, column detection and atomic writes."""

import csv
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.atomic_write import atomic_write
from pipeline.data.records import (
    Columns,
    Example,
    Row,
    digest_examples,
    find_columns,
    labels_of,
    make_example,
    read_examples,
    read_rows,
    text_id,
    write_examples,
    write_json,
)
from pipeline.errors import InputError
from pipeline.params import Data, Params

Rows = list[dict[str, Any]]
Write = Callable[[Path, Rows], None]

ROWS: Rows = [
    {"text": 'two\nlines, and "quotes"', "label": "quoting", "channel": "mail"},
    {"text": "naïve 東京 👩\u200d🚀", "label": "unicode", "channel": "chat"},
    {"text": "plain\twith tab", "label": "plain", "channel": "mail"},
]


def write_csv(path: Path, rows: Rows) -> None:
    with path.open("w", encoding="utf-8-sig", newline="") as file:  # with a BOM, as Excel writes it
        table = csv.DictWriter(file, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
        table.writeheader()
        table.writerows(rows)


def write_jsonl(path: Path, rows: Rows) -> None:
    path.write_text("\ufeff" + "\n\n".join(json.dumps(row) for row in rows) + "\n\n", encoding="utf-8")


def write_parquet(path: Path, rows: Rows) -> None:
    pq.write_table(pa.Table.from_pylist(rows), path)


WRITERS: dict[str, Write] = {"a.csv": write_csv, "a.tsv": write_csv, "a.jsonl": write_jsonl, "a.parquet": write_parquet}


def list_of(path: Path, data: Data) -> list[Row]:
    return list(read_rows(path, data))


def lines(path: Path, content: str | bytes, data: Data) -> list[int]:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return [row.line for row in list_of(path, data)]


def refused(path: Path, content: bytes, data: Data) -> InputError:
    """Return the error for a file of these bytes."""
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        list(read_rows(path, data))
    assert caught.value.where.startswith(str(path))
    return caught.value


def an_example(text: str = "where is it", **fields: Any) -> Example:
    return Example(**{"id": text_id(text), "text": text, "label": "track", **fields})


@pytest.mark.parametrize("name", WRITERS)
def test_every_reader_gives_the_same_examples(tmp_path: Path, params: Params, name: str) -> None:
    WRITERS[name](tmp_path / name, ROWS)
    rows = [row.fields for row in list_of(tmp_path / name, params.data)]
    assert rows == ROWS
    examples = [make_example(row, Columns("text", "label"), max_text_chars=100, source="a") for row in rows if row]
    assert [(e.text, e.label, e.meta) for e in examples] == [
        ('two lines, and "quotes"', "quoting", {"channel": "mail"}),
        ("naïve 東京 👩\u200d🚀", "unicode", {"channel": "chat"}),
        ("plain with tab", "plain", {"channel": "mail"}),
    ]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.csv", 'text,label\n"one\ntwo",x\nthree,y\n', [2, 4]),
        ("a.csv", "text,label\r\none,x\r\ntwo,y", [2, 3]),
        ("a.csv", "text,label\none,x\n\n\ntwo,y\n", [2, 5]),
        ("a.tsv", "text\tlabel\none\tx\ntoo\tmany\tfields\ntwo\ty\n", [2, 3, 4]),
        ("a.jsonl", '{"text": "one"}\n\n  \n{"text": "two"}\n', [1, 4]),
        ("a.jsonl", '{"text": "one"}\nnot json\n[1]\n{"text": "two"}', [1, 2, 3, 4]),
    ],
)
def test_a_row_knows_its_line(tmp_path: Path, params: Params, name: str, content: str, expected: list[int]) -> None:
    assert lines(tmp_path / name, content, params.data) == expected


def test_a_row_of_parquet_knows_its_number(tmp_path: Path, params: Params) -> None:
    write_parquet(tmp_path / "a.parquet", [{"text": str(i)} for i in range(5000)])  # more than one batch
    assert [(row.line, row.fields) for row in list_of(tmp_path / "a.parquet", params.data)][4999] == (5000, {"text": "4999"})


@pytest.mark.parametrize(
    ("content", "fault"),
    [("text,label\none\n", "2 fields"), ("text,label\none,x,more\n", "2 fields")],
)
def test_a_row_with_the_wrong_number_of_fields_is_a_fault(tmp_path: Path, params: Params, content: str, fault: str) -> None:
    (tmp_path / "a.csv").write_text(content)
    [row] = list_of(tmp_path / "a.csv", params.data)
    assert row.fields is None
    assert fault in row.fault


@pytest.mark.parametrize(
    ("line", "fault"),
    [("{", "not valid JSON"), ("[1]", "not a JSON object"), ("[" * 100_000, "not valid JSON"), ("9" * 5000, "not valid JSON")],
)
def test_a_line_that_is_not_a_json_object_is_a_fault(tmp_path: Path, params: Params, line: str, fault: str) -> None:
    (tmp_path / "a.jsonl").write_text(line)
    [row] = read_rows(tmp_path / "a.jsonl", params.data)
    assert row.fields is None
    assert fault in row.fault


def test_a_missing_file_is_named(tmp_path: Path, params: Params) -> None:
    with pytest.raises(InputError, match="there is no such file") as caught:
        list(read_rows(tmp_path / "none.csv", params.data))
    assert caught.value.where == str(tmp_path / "none.csv")


@pytest.mark.parametrize("name", WRITERS)
def test_an_empty_file_is_refused(tmp_path: Path, params: Params, name: str) -> None:
    assert "empty" in refused(tmp_path / name, b"", params.data).what


@pytest.mark.parametrize("name", ["a.xlsx", "a.json", "a"])
def test_an_unknown_format_is_refused_with_the_known_ones(tmp_path: Path, params: Params, name: str) -> None:
    error = refused(tmp_path / name, b"text,label\n", params.data)
    assert ".csv, .tsv, .jsonl, .parquet" in error.do


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", b"text,label\nfine,x\ncaf\xe9,y\n"),
        ("a.jsonl", b'{"text": "fine"}\n\n{"text": "caf\xe9"}\n'),
        ("a.tsv", b"text\tlabel\n\n\xff\ty\n"),
    ],
)
def test_bytes_that_are_not_utf8_are_refused_with_their_line(tmp_path: Path, params: Params, name: str, content: bytes) -> None:
    error = refused(tmp_path / name, content, params.data)
    assert error.where.endswith(", line 3")
    assert "not UTF-8" in error.what
    assert "iconv" in error.do


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", b"text,label\n" + 10_000_000 * b"x" + b",y\n"),
        ("a.jsonl", b'{"text": "fine"}\n{"text": "' + 10_000_000 * b"x" + b'"}\n'),
        ("a.tsv", b"text\tlabel\n" + 10_000_000 * b"\0"),
    ],
)
def test_a_row_of_ten_megabytes_is_refused_with_its_line(tmp_path: Path, params: Params, name: str, content: bytes) -> None:
    error = refused(tmp_path / name, content, params.data)
    assert error.where.endswith(", line 2")
    assert "data.max_row_bytes" in error.do


def test_a_quoted_field_over_many_lines_may_not_exceed_the_row_limit_either(tmp_path: Path, params: Params) -> None:
    small = params.data.model_copy(update={"max_row_bytes": 100})
    error = refused(tmp_path / "a.csv", b'text,label\nfine,x\n"' + 50 * b"many\n" + b'",y\n', small)
    assert error.where.endswith(", line 3")


@pytest.mark.parametrize(
    "content",
    [
        b'text,label\nfine,x\n"never closed,y\nnext,x\n',
        b'label,text\nx,fine\ny,"never closed\nx,next\n',  # the open field takes the rest of the file and makes a whole row
        b'label,text\nx,fine\ny,"never closed\nx,"next"\n',
    ],
)
def test_an_unclosed_quote_is_refused_with_the_line_it_begins_on(tmp_path: Path, params: Params, content: bytes) -> None:
    assert refused(tmp_path / "a.csv", content, params.data).where.endswith(", line 3")


def test_two_columns_of_one_name_are_refused(tmp_path: Path, params: Params) -> None:
    error = refused(tmp_path / "a.csv", b"text,label,label\none,x,y\n", params.data)
    assert error.where.endswith(", line 1")


def test_a_file_that_is_not_parquet_is_refused(tmp_path: Path, params: Params) -> None:
    assert "not a readable parquet" in refused(tmp_path / "a.parquet", b"PAR1 not at all PAR1", params.data).what


def test_a_parquet_file_cut_off_is_refused(tmp_path: Path, params: Params) -> None:
    write_parquet(tmp_path / "a.parquet", ROWS)
    error = refused(tmp_path / "a.parquet", (tmp_path / "a.parquet").read_bytes()[:-20], params.data)
    assert "not a readable parquet" in error.what


def test_a_parquet_file_with_corrupt_pages_is_refused(tmp_path: Path, params: Params) -> None:
    write_parquet(tmp_path / "a.parquet", [{"text": f"text number {i}", "label": "x"} for i in range(500)])
    whole = (tmp_path / "a.parquet").read_bytes()
    error = refused(tmp_path / "a.parquet", whole[:4] + 400 * b"\xff" + whole[404:], params.data)
    assert "not a readable parquet" in error.what


@pytest.mark.parametrize(
    ("present", "columns"),
    [
        (["id", "text", "label"], Columns("text", "label")),
        (["utterance", "intent"], Columns("utterance", "intent")),
        (["category", "x", "query"], Columns("query", "category")),
        (["sentence", "label"], Columns("sentence", "label")),
    ],
)
def test_the_only_candidate_is_the_column(params: Params, present: list[str], columns: Columns) -> None:
    assert find_columns(Path("a.csv"), present, params.data) == columns


def test_a_named_column_is_taken_where_several_could_be(params: Params) -> None:
    named = params.data.model_copy(update={"text_column": "body", "label_column": "intent"})
    assert find_columns(Path("a.csv"), ["text", "body", "label", "intent"], named) == Columns("body", "intent")


@pytest.mark.parametrize(
    ("present", "key", "names"),
    [
        (["text", "label", "category"], "data.label_column", "label, category"),
        (["text", "query", "label"], "data.text_column", "text, query"),
        (["text", "topic"], "data.label_column", "topic"),
        (["body", "label"], "data.text_column", "body"),
    ],
)
def test_no_or_several_candidates_are_an_error_that_names_key_and_columns(
    params: Params, present: list[str], key: str, names: str
) -> None:
    with pytest.raises(InputError) as caught:
        find_columns(Path("a.csv"), present, params.data)
    assert key in caught.value.do
    assert names in str(caught.value)


def test_a_named_column_that_is_missing_is_an_error(params: Params) -> None:
    named = params.data.model_copy(update={"label_column": "topic"})
    with pytest.raises(InputError, match=r"no column `topic`(.|\n)*text, label"):
        find_columns(Path("a.csv"), ["text", "label"], named)


def test_known_columns_are_fields_and_the_rest_is_meta() -> None:
    row = {
        "id": "7",
        "body": "hi",
        "topic": "greet",
        "group": "g",
        "time": "2026-01-01",
        "source": "mail",
        "stars": 5,
        "none": None,
    }
    example = make_example(row, Columns("body", "topic"), max_text_chars=10, source="file")
    assert example == Example(
        id=text_id("hi"), text="hi", label="greet", group="g", time="2026-01-01", source="mail", meta={"stars": 5}
    )


def test_the_file_is_the_source_of_a_row_that_names_none() -> None:
    assert make_example({"text": "hi", "label": "x"}, Columns("text", "label"), max_text_chars=10, source="file").source == "file"


def test_an_empty_cell_of_an_optional_column_is_no_value() -> None:
    row = {"text": "hi", "label": "x", "target": "", "group": "", "time": ""}  # as in a csv
    example = make_example(row, Columns("text", "label"), max_text_chars=10, source="file")
    assert (example.target, example.group or None, example.time or None) == (None, None, None)


@pytest.mark.parametrize("field", ["text", "label", "target", "group", "time", "source"])
def test_no_field_may_hold_half_of_a_surrogate_pair(field: str) -> None:
    row = {"text": "hi", "label": "x", field: "half \ud83d"}
    with pytest.raises(ValidationError):
        make_example(row, Columns("text", "label"), max_text_chars=10, source="file")


@given(st.text())
def test_ids_are_sixteen_hex_digits(text: str) -> None:
    assert len(text_id(text)) == 16
    assert int(text_id(text), 16) >= 0


def test_the_id_depends_on_the_folded_text_alone() -> None:
    assert text_id("Where is it?") == text_id("where IS it") == hashlib.sha256(b"where is it").hexdigest()[:16]
    assert text_id("where is it") != text_id("where was it")


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
