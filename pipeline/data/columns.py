"""A row as a file holds it, and the columns that hold its text, label and group."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.errors import EvergreenError, InputError, collecting, raise_all
from pipeline.params import Data

TEXT_COLUMNS = ("text", "utterance", "query", "sentence")
LABEL_COLUMNS = ("label", "category", "intent")
NO_GROUP = "none"  # the value of data.group_column


class Row(NamedTuple):
    """A row of a file; `line` counts from 1. A row that cannot be parsed has `fields` None and a `fault`.

    `alone` holds the rows that the lines of a csv row would be if the quotes that join them were characters like any other.
    """

    line: int
    fields: dict[str, Any] | None
    fault: str = ""
    alone: Sequence[dict[str, Any]] = ()


class Columns(NamedTuple):
    """The names of the text and label columns, and of the group column where params name one."""

    text: str
    label: str
    group: str | None = None


def find_columns(path: Path, present: Iterable[str], data: Data, *, must_hold_group: bool = False) -> Columns:
    """Return the text and label columns: named in params, or the only candidate present; raises `InputError` otherwise.

    The group column is the one that params name; a test file may lack it. Each column that is not there is an error of its own.
    """
    names = list(present)
    text = label = ""
    errors: list[EvergreenError] = []
    with collecting(errors):
        text = _one_column(path, names, data.text_column, TEXT_COLUMNS, "data.text_column")
    with collecting(errors):
        label = _one_column(path, names, data.label_column, LABEL_COLUMNS, "data.label_column")
    group = group_column(data)
    if group and group in (text, label):
        what = f"data.group_column = {group} is the column of the texts or labels"
        errors.append(InputError("params.yaml", what, "name another column whose rows belong together, or none"))
    elif group and must_hold_group and group not in names:
        do = f"set data.group_column in params.yaml to none, or to one of: {', '.join(names)}"
        errors.append(InputError(str(path), f"there is no column `{group}`", do))
    raise_all(errors)
    return Columns(text, label, group)


def group_column(data: Data) -> str | None:
    """Return the column whose rows stay on one side of the split; None when params name none."""
    return None if data.group_column == NO_GROUP else data.group_column


def _one_column(path: Path, present: list[str], wanted: str, candidates: tuple[str, ...], key: str) -> str:
    if wanted != "auto":
        if wanted in present:
            return wanted
        raise InputError(str(path), f"there is no column `{wanted}`", f"set {key} in params.yaml to one of: {', '.join(present)}")
    matches = [name for name in candidates if name in present]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise InputError(str(path), f"several columns match: {', '.join(matches)}", f"choose one with {key} in params.yaml")
    raise InputError(
        str(path), f"it has none of the columns {', '.join(candidates)}", f"set {key} to one of: {', '.join(present)}"
    )
