"""Columns of a caller as Python values: lists, arrays, and columns of pandas, Arrow, polars and datasets.

Knows these libraries by their methods alone and imports none of them.
"""

from collections.abc import Iterable, Iterator, Mapping, Set
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.data.columns import cell, find_columns
from pipeline.errors import InputError
from pipeline.params import Data

SLICE = 1024  # values of an Arrow column that are Python objects at a time
MISSING = ("NAType", "NaTType")  # pandas.NA and pandas.NaT


class TableColumns(NamedTuple):
    """The columns of a table that a training uses."""

    texts: list[Any]
    labels: list[Any]
    groups: list[Any] | None


def values(column: Any, name: str) -> Iterator[Any]:
    """Yield the values of a column one by one, missing ones as None; raise `InputError` for what is no column."""
    return map(_plain, _items(_single(column, name), name))


def table_columns(table: Any, data: Data) -> TableColumns:
    """Return the columns of a table, found by their names as in a file; raise `InputError` where they are not clear."""
    names = _names(table)
    if names is None:
        what = f"labels are missing, and a {type(table).__name__} is no table that could hold them"
        raise InputError("labels", what, "give texts and labels: evergreen.train(texts, labels)")
    columns = find_columns(Path("the table"), names, data, must_hold_group=True)
    texts, labels = (list(_cells(table, names, column)) for column in (columns.text, columns.label))
    groups = list(_cells(table, names, columns.group)) if columns.group else None
    return TableColumns(texts, _class_names(table, columns.label, labels), groups)


def _cells(table: Any, names: list[str], column: str) -> Iterator[Any]:
    """Yield what each row holds in a column, in several columns that are joined, or in a key of a column's objects."""
    if column in names:
        return values(table[column], column)
    parts = [part.strip() for part in column.split(",")]
    used = [name for name in names if name in parts or any(part.partition(".")[0] == name for part in parts)]
    rows = zip(*(values(table[name], name) for name in used), strict=True)
    return (cell(dict(zip(used, row, strict=True)), column) for row in rows)


def _names(table: Any) -> list[str] | None:
    """Return the column names of a table; None for anything else."""
    if isinstance(table, Mapping):
        if any(_names(value) for value in table.values()):  # of datasets: one table for each split
            splits = ", ".join(map(str, table))
            raise InputError("the table", f"this holds several tables: {splits}", f"give one: data[{next(iter(table))!r}]")
        return [str(name) for name in table]
    names = getattr(table, "column_names", None)  # Arrow, datasets
    if names is None and getattr(table, "ndim", 0) != 1:
        names = getattr(table, "columns", None)  # pandas, polars
    return None if names is None else [str(name) for name in names]


def _class_names(table: Any, column: str, labels: list[Any]) -> list[Any]:
    """Return the names of classes where a data set of the hub stores their numbers."""
    feature = (getattr(table, "features", None) or {}).get(column)
    name_of = getattr(feature, "int2str", None)
    return [None if label is None or label < 0 else name_of(label) for label in labels] if name_of else labels  # -1: no label


def _single(column: Any, name: str) -> Any:
    """Return the column; of a table or matrix with one column, that one."""
    names = None if isinstance(column, Mapping) else _names(column)
    if names is not None:
        if len(names) == 1:
            return column[names[0]]
        raise InputError(name, f"this is a table with {len(names)} columns: {', '.join(names[:8])}", "give one: table[column]")
    if getattr(column, "ndim", 1) == 2 and column.shape[1] == 1:
        return column.ravel()
    return column


def _items(column: Any, name: str) -> Iterable[Any]:
    """Return the values, as many of them Python objects at a time as the column needs."""
    if isinstance(column, str | bytes):
        raise InputError(name, "this is one text, not a list of texts", "put it in a list: [text]")
    if getattr(column, "ndim", 1) != 1:
        raise InputError(name, f"this has the shape {tuple(column.shape)}", "give one value for each row")
    if hasattr(column, "to_pylist"):
        return chain.from_iterable(column.slice(start, SLICE).to_pylist() for start in range(0, len(column), SLICE))
    if isinstance(column, Mapping | Set) or not isinstance(column, Iterable):
        raise InputError(name, f"a {type(column).__name__} is no column of values", "give a list, an array or a column")
    to_list = getattr(column, "tolist", None) or getattr(column, "to_list", None)
    return to_list() if to_list else column


def _plain(value: Any) -> Any:
    """Return a scalar of numpy as Python's, and None for every kind of missing value."""
    value = value.item() if type(value).__module__ == "numpy" and hasattr(value, "item") else value
    if type(value).__name__ in MISSING or (isinstance(value, float) and value != value):
        return None
    return str(value) if isinstance(value, str) else value
