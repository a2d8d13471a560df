"""The columns of text, label and group: named in params, or the only candidates."""

import unicodedata
from pathlib import Path

import pytest

from pipeline.data.columns import Columns, cell, find_columns
from pipeline.errors import InputError
from pipeline.params import Params


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


@pytest.mark.parametrize("column", ["text", "label"])
def test_the_text_or_label_column_is_no_group(params: Params, column: str) -> None:
    with pytest.raises(InputError, match=f"data.group_column = {column}"):
        find_columns(Path("a.csv"), ["text", "label"], params.data.model_copy(update={"group_column": column}))


def test_a_group_column_that_the_source_lacks_is_refused_and_a_test_file_may_lack_it(params: Params) -> None:
    named = params.data.model_copy(update={"group_column": "customer"})
    assert find_columns(Path("a.csv"), ["text", "label"], named).group == "customer"
    with pytest.raises(InputError, match="no column `customer`"):
        find_columns(Path("a.csv"), ["text", "label"], named, must_hold_group=True)


@pytest.mark.parametrize(
    ("wanted", "present", "column"),
    [
        ("message", ["Message", "label"], "Message"),
        ("descripción", [unicodedata.normalize("NFD", "Descripción"), "label"], unicodedata.normalize("NFD", "Descripción")),
        ("title, body", ["title", "body", "label"], "title,body"),
        ("a,b", ["a,b", "label"], "a,b"),
        ("message.text", ["message", "label"], "message.text"),
    ],
)
def test_a_name_may_differ_in_case_or_name_a_key_or_several_columns(
    params: Params, wanted: str, present: list[str], column: str
) -> None:
    named = params.data.model_copy(update={"text_column": wanted})
    assert find_columns(Path("a.csv"), present, named).text == column


def test_usual_names_are_found_in_any_case(params: Params) -> None:
    assert find_columns(Path("a.csv"), ["Text", "Category"], params.data) == Columns("Text", "Category")


def test_an_error_describes_the_columns_and_the_keys_in_them(params: Params) -> None:
    described = {"id": "6 characters on average", "message.text": "61 characters on average"}
    with pytest.raises(InputError, match=r"message.text \(61 characters on average\)"):
        find_columns(Path("a.jsonl"), ["id", "message", "label"], params.data, described=described)


@pytest.mark.parametrize(
    ("column", "content"),
    [
        ("text", "hi"),
        ("message.text", "hola"),
        ("message.none", None),
        ("text.none", None),
        ("title,body", "A title\na body"),
        ("title,empty", "A title"),
        ("empty,nan,word", None),
        ("title,message.text", "A title\nhola"),
    ],
)
def test_a_cell_is_a_column_a_key_or_several_joined(column: str, content: str | None) -> None:
    fields = {
        "text": "hi", "message": {"text": "hola"}, "title": "A title", "body": "a body", "empty": None, "nan": float("nan"),
        "word": "nan",
    }  # fmt: skip
    assert cell(fields, column) == content
