"""Readers of csv, tsv, jsonl and parquet: they agree, know their lines, stay within budgets, and name what is wrong."""

import bz2
import codecs
import csv
import gzip
import json
import lzma
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.data.columns import Columns, Row
from pipeline.data.records import make_example
from pipeline.data.row_files import MAX_NESTING, read_rows, scan_names
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


def read(path: Path, content: str | bytes, data: Data) -> Rows:
    """Return the fields of the rows of a file with this content."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return [row.fields or {"fault": row.fault} for row in read_rows(path, data)]


TWO = [{"text": "money back", "label": "refund"}, {"text": "where is it", "label": "track"}]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "text,label\nmoney back,refund\nwhere is it,track\n".encode("utf-16")),
        ("a.csv", codecs.BOM_UTF16_BE + "text,label\r\nmoney back,refund\r\nwhere is it,track".encode("utf-16-be")),
        ("a.csv", "text,label\nmoney back,refund\nwhere is it,track\n".encode("utf-32")),
        ("a.csv", "text;label\nmoney back;refund\nwhere is it;track\n"),
        ("a.csv", "sep=;\r\ntext;label\r\nmoney back;refund\r\nwhere is it;track\r\n"),
        ("a.csv", "text\tlabel\nmoney back\trefund\nwhere is it\ttrack\n"),
        ("a.csv", "text,label\rmoney back,refund\rwhere is it,track\r"),
        ("a.CSV", "text,label\nmoney back,refund\nwhere is it,track\n"),
        ("a.csv", "text,label,,\nmoney back,refund,,\n,,,\nwhere is it,track\n,,,\n"),
        ("a.csv", "text, label ,\nmoney back,refund,,,,\nwhere is it,track,\n"),
        ("a.csv.gz", gzip.compress(b"text,label\nmoney back,refund\nwhere is it,track\n", mtime=0)),
        ("a.csv.bz2", bz2.compress(b"text,label\nmoney back,refund\nwhere is it,track\n")),
        ("a.tsv.xz", lzma.compress(b"text\tlabel\nmoney back\trefund\nwhere is it\ttrack\n")),
        ("a.jsonl.zst", pa.compress("".join(json.dumps(row) + "\n" for row in TWO).encode(), codec="zstd", asbytes=True)),
    ],
    ids=repr,
)
def test_a_table_is_read_however_it_was_saved(tmp_path: Path, params: Params, name: str, content: str | bytes) -> None:
    assert read(tmp_path / name, content, params.data) == TWO


def test_a_column_without_a_name_counts_where_it_holds_something(tmp_path: Path, params: Params) -> None:
    assert read(tmp_path / "a.csv", ",text,label\n0,money back,refund\n,where is it,track\n", params.data) == [
        {"column 1": "0", **TWO[0]},
        TWO[1],
    ]


@pytest.mark.parametrize(
    ("lines", "texts"),
    [
        (['"soon" they said\ttrack', 'a 5" screen\trefund'], ['"soon" they said', 'a 5" screen']),
        (['"soon they said\ttrack', 'later he left"\trefund'], ['"soon they said', 'later he left"']),
        (['"quoted, as csv does: ""yes"""\ttrack', "plain\trefund"], ['quoted, as csv does: "yes"', "plain"]),
        (['"two', 'lines"\ttrack', "plain\trefund"], ["two\nlines", "plain"]),
    ],
)
def test_a_tsv_file_is_read_with_or_without_quoting_and_no_row_is_lost(
    tmp_path: Path, params: Params, lines: list[str], texts: list[str]
) -> None:
    rows = read(tmp_path / "a.tsv", "\n".join(["text\tlabel", *lines]) + "\n", params.data)
    assert [(row["text"], row["label"]) for row in rows] == list(zip(texts, ["track", "refund"], strict=True))


@pytest.mark.parametrize(
    ("name", "content", "what", "do"),
    [
        ("a.csv", 'text,label\n"she said \\"no\\" twice",refund\n', "escaped with a backslash", 'sed \'s/\\\\"/""/g\''),
        ("a.csv", 'text,label\n"soon" they said,track\n', "begins with a quote", "double the quotes"),
        ("a.csv", "version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 4711\n", "git-LFS", "git lfs pull"),
        ("a.parquet", "version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 4711\n", "git-LFS", "git lfs pull"),
        ("a.csv", "text,label\nmoney,refund\n".encode("utf-16-le"), "looks like UTF-16LE", "iconv -f UTF-16LE"),
        ("a.csv", "text,label\nmoney,refund\n".encode("utf-16-be"), "looks like UTF-16BE", "iconv -f UTF-16BE"),
        ("a.csv", codecs.BOM_UTF16_LE + b"t\0e\0x", "begins as utf-16", "UTF-8"),
        ("a.csv", gzip.compress(b"text,label\n", mtime=0), "compressed with gzip", "a.csv.gz"),
        ("a.csv", b"PK\x03\x04 and so on", "zip file or a spreadsheet", "csv"),
        ("a.csv", "<!DOCTYPE html>\n<html>", "a web page", "fetch"),
        ("a.csv.gz", gzip.compress(b"text,label\n" * 1000, mtime=0)[:-20], "cannot be read to its end", "again"),
        ("a.csv.gz", b"text,label\n", "cannot be read to its end", "again"),
        ("a.json", "[]", "not supported", "jq -c"),
        ("a.csv.dvc", "outs: []", "not supported", "dvc pull"),
        ("a.jsonl", '[{"text": "a", "label": "b"}, {"text": "c", "label": "d"}]', "one JSON array", "jq -c"),
        ("a.jsonl", '[\n{"text": "a", "label": "b"}\n]', "one JSON array", "jq -c"),
    ],
    ids=lambda value: value if isinstance(value, str) and len(value) < 20 else "",
)
def test_a_file_that_is_something_else_is_refused_with_its_cause_and_a_remedy(
    tmp_path: Path, params: Params, name: str, content: str | bytes, what: str, do: str
) -> None:
    error = refused(tmp_path / name, content if isinstance(content, bytes) else content.encode(), params.data)
    assert what in error.what
    assert do in error.do


def test_a_folder_is_refused_with_the_files_in_it(tmp_path: Path, params: Params) -> None:
    (tmp_path / "train.csv").touch()
    with pytest.raises(InputError, match=r"this is a folder(.|\n)*train\.csv"):
        list(read_rows(tmp_path, params.data))


def test_a_file_that_dvc_tracks_is_missing_until_it_is_pulled(tmp_path: Path, params: Params) -> None:
    (tmp_path / "a.csv.dvc").touch()
    with pytest.raises(InputError, match="dvc pull"):
        list(read_rows(tmp_path / "a.csv", params.data))


def test_json_nested_too_deep_to_be_written_again_is_a_fault(tmp_path: Path, params: Params) -> None:
    deep = [f'{{"text": "a", "more": {depth * "["}{depth * "]"}}}' for depth in (MAX_NESTING - 1, MAX_NESTING + 1, 900)]
    rows = read(tmp_path / "a.jsonl", "\n".join(deep), params.data)
    assert ["fault" in row for row in rows] == [False, True, True]


SMALL = {"max_file_bytes": 100_000, "max_rows": 1000}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", b"text,label\n" + 10_000 * b"hello there,track\n"),
        ("a.csv.gz", gzip.compress(b"text,label\n" + 10_000 * b"hello there,track\n", mtime=0)),
        ("a.jsonl.xz", lzma.compress(10_000 * b'{"text": "hello"}\n')),
        ("a.csv.bz2", bz2.compress(b'text,label\n"' + 1_000_000 * b"x")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_file_over_the_limit_of_bytes_is_refused_with_size_and_key(
    tmp_path: Path, params: Params, name: str, content: bytes
) -> None:
    small = params.data.model_copy(update={**SMALL, "max_rows": 10**6})
    error = refused(tmp_path / name, content, small)
    assert str(len(content)) in error.what
    assert "data.max_file_bytes is 100000" in error.what
    assert "data.max_file_bytes" in error.do


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.parquet"])
def test_a_file_of_too_many_rows_is_refused_with_their_number(tmp_path: Path, params: Params, name: str) -> None:
    WRITERS[name](tmp_path / name, [{"text": "a", "label": "b"} for _ in range(2000)])
    with pytest.raises(InputError, match=r"it has (2000|2001|4000) (rows|lines), data.max_rows is 1000"):
        scan_names(tmp_path / name, params.data.model_copy(update=SMALL))


def repeated(value: str, rows: int) -> pa.Array:
    """Return a column that holds a value once and refers to it in every row, as parquet stores it."""
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array([value]))


def test_a_parquet_file_that_unpacks_to_gigabytes_is_refused_within_its_budget(tmp_path: Path, params: Params) -> None:
    """A thousand bytes hold 16 GiB: 16,384 references to one text of a mebibyte."""
    table = pa.table({"text": repeated(2**20 * "x", 2**14), "label": repeated("a", 2**14)})
    pq.write_table(table, tmp_path / "a.parquet", compression="zstd")
    del table
    assert (tmp_path / "a.parquet").stat().st_size < 1000
    tracemalloc.start()
    before = pa.total_allocated_bytes()
    with pytest.raises(InputError, match=r"unpack to at least \d{10}, data.max_file_bytes is") as caught:
        list(read_rows(tmp_path / "a.parquet", params.data))
    assert "data.max_file_bytes" in caught.value.do
    assert tracemalloc.get_traced_memory()[1] < 16 * 2**20
    assert pa.total_allocated_bytes() - before < 16 * 2**20
    tracemalloc.stop()


def test_a_nested_parquet_column_is_measured_before_it_unpacks(tmp_path: Path, params: Params) -> None:
    tags = pa.ListArray.from_arrays(pa.array([0, 10_000], pa.int32()), repeated(1000 * "z", 10_000))
    pq.write_table(pa.table({"text": ["a"], "tags": tags}), tmp_path / "a.parquet", compression="zstd")
    small = params.data.model_copy(update={"max_file_bytes": 1_000_000})
    with pytest.raises(InputError, match="unpack to at least"):
        list(read_rows(tmp_path / "a.parquet", small))


def test_a_parquet_file_of_large_pages_is_refused_by_its_own_sizes(tmp_path: Path, params: Params) -> None:
    table = pa.table({"text": [10_000 * "y" for _ in range(50)]})
    pq.write_table(table, tmp_path / "a.parquet", compression="zstd", use_dictionary=False)
    small = params.data.model_copy(update={"max_file_bytes": 100_000})
    with pytest.raises(InputError, match="unpack to at least"):
        list(read_rows(tmp_path / "a.parquet", small))


@pytest.mark.parametrize("header", ["Message ;Category;;", "sep=;\nNachricht;Kategorie", "Nachricht|Kategorie", "Text;Label"])
def test_a_delimiter_is_found_without_a_known_column(tmp_path: Path, params: Params, header: str) -> None:
    """A header of Excel was one column named `Message ;Category;;`, and quotes in later cells were refused."""
    delimiter = "|" if "|" in header else ";"
    path = tmp_path / "mine.csv"
    path.write_text(f'{header}\r\n"one, and{delimiter} ""two"""{delimiter}a\r\n', encoding="utf-8")
    (row,) = list_of(path, params.data)
    assert row.fields
    assert list(row.fields.values()) == [f'one, and{delimiter} "two"', "a"]
