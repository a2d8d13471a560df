"""What a caller holds becomes values: lists, arrays, and columns of pandas, Arrow and datasets; the rest is refused in words."""

from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from evergreen.api.columns import table_columns, values
from pipeline.errors import InputError
from pipeline.params import Params

TEXTS = ["one", "two", "three"]
FRAME = pd.DataFrame({"text": TEXTS, "label": ["a", "b", "a"]})


@pytest.mark.parametrize(
    "column",
    [
        TEXTS,
        tuple(TEXTS),
        iter(TEXTS),
        np.array(TEXTS),
        np.array(TEXTS, dtype=object),
        np.array(TEXTS).reshape(-1, 1),
        pd.Series(TEXTS),
        pd.Series(TEXTS, dtype="category"),
        FRAME[["text"]],
        pa.array(TEXTS),
        pa.chunked_array([TEXTS[:2], TEXTS[2:]]),
        pa.table({"text": TEXTS}),
        datasets.Dataset.from_dict({"text": TEXTS})["text"],
    ],
    ids=lambda column: f"{type(column).__module__}.{type(column).__name__}",
)
def test_every_kind_of_column_gives_the_same_values(column: Any) -> None:
    given = list(values(column, "texts"))
    assert given == TEXTS
    assert {type(value) for value in given} == {str}


def test_missing_values_and_scalars_of_libraries_are_pythons() -> None:
    column = pd.Series([1, None, pd.NA, pd.NaT, float("nan"), np.int64(3), np.float32(0.5), "x"], dtype=object)
    assert list(values(column, "labels")) == [1, None, None, None, None, 3, 0.5, "x"]


@pytest.mark.parametrize(
    ("column", "fault"),
    [
        ("one text", r"this is one text, not a list of texts\n.*\[text\]"),
        (FRAME, r"a table with 2 columns: text, label\n.*table\[column\]"),
        (np.zeros((3, 2)), r"the shape \(3, 2\)"),
        ({"one"}, "a set is no column"),
        (None, "a NoneType is no column"),
        (7, "a int is no column"),
    ],
)
def test_what_is_no_column_is_refused_with_what_to_do(column: Any, fault: str) -> None:
    with pytest.raises(InputError, match=fault):
        list(values(column, "texts"))


@pytest.mark.parametrize(
    "table",
    [FRAME, pa.table({"text": TEXTS, "label": ["a", "b", "a"]}), FRAME.to_dict("list"), datasets.Dataset.from_pandas(FRAME)],
    ids=["pandas", "arrow", "dict", "datasets"],
)
def test_a_table_gives_the_columns_that_a_file_would(table: Any, params: Params) -> None:
    assert table_columns(table, params.data) == (TEXTS, ["a", "b", "a"], None)


@pytest.mark.parametrize(
    ("column", "texts"), [("title,body", ["a\nx", "b"]), ("mail.body", ["x", "y"]), ("title,mail.body", ["a\nx", "b\ny"])]
)
def test_joined_columns_and_keys_of_objects_are_read_as_in_a_file(column: str, texts: list[str], params: Params) -> None:
    mails = [{"body": "x"}, {"body": "y"}]
    table = pd.DataFrame({"title": ["a", "b"], "body": ["x", None], "mail": mails, "label": ["p", "q"]})
    data = params.data.model_copy(update={"text_column": column})
    assert table_columns(table, data) == (texts, ["p", "q"], None)


def test_a_row_without_a_class_in_a_data_set_has_no_label(params: Params) -> None:
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    data = datasets.Dataset.from_dict({"text": TEXTS, "label": [1, -1, None]}, features=features)
    assert table_columns(data, params.data).labels == ["yes", None, None]


def test_classes_that_a_data_set_numbers_get_their_names(params: Params) -> None:
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    data = datasets.Dataset.from_dict({"text": TEXTS, "label": [1, 0, 1]}, features=features)
    assert table_columns(data, params.data).labels == ["yes", "no", "yes"]


def test_a_table_without_clear_columns_and_several_tables_are_refused(params: Params) -> None:
    with pytest.raises(InputError, match="it has none of the columns label"):
        table_columns(FRAME[["text"]], params.data)
    with pytest.raises(InputError, match=r"several tables: train, test\n.*data\['train'\]"):
        table_columns({"train": FRAME, "test": FRAME}, params.data)
    with pytest.raises(InputError, match="labels are missing, and a list is no table"):
        table_columns(TEXTS, params.data)
