"""A row as a file holds it, and the columns that hold its text, label and group."""

import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.errors import EvergreenError, InputError, collecting, raise_all
from pipeline.params import Data

TEXT_COLUMNS = ("text", "utterance", "query", "sentence")
LABEL_COLUMNS = ("label", "category", "intent")
NO_GROUP = "none"  # the value of data.group_column
MISSING = ("", "nan", "NaN", "None", "null")  # parts of a text that say that a column holds nothing
NO_MERGES = "none"  # the value of data.merge_labels


class Row(NamedTuple):
    """A row of a file; `line` counts from 1. A row that cannot be parsed has `fields` None and a `fault`.

    `alone` holds the rows that the lines of a csv row would be if the quotes that join them were characters like any other.
    """

    line: int
    fields: dict[str, Any] | None
    fault: str = ""
    alone: Sequence[dict[str, Any]] = ()


class Columns(NamedTuple):
    """The names of the text and label columns, and of the group column where params name one.

    `text` may be several columns separated by commas, whose texts are joined. A name such as `message.text` is the key `text` of
    the object in column `message`.
    """

    text: str
    label: str
    group: str | None = None
    merged: tuple[tuple[str, str], ...] = ()  # labels, and the label that takes the place of each
    is_html: bool = False  # entities and tags in texts stand for characters

    @property
    def names(self) -> set[str]:
        """The columns whose content becomes a field of the row."""
        return {name for name in (self.text, *self.text.split(","), self.label, self.group) if name}


def cell(fields: Mapping[str, Any], column: str) -> Any:
    """Return what a row holds in a column: in an object's key, or in several columns joined by line breaks; None for nothing."""
    if column in fields:
        return fields[column]
    if "," in column:
        parts = [cell(fields, name.strip()) for name in column.split(",")]
        texts = [text for part in parts if part is not None and (text := str(part)) not in MISSING]
        return "\n".join(texts) or None
    outer, _, inner = column.partition(".")
    value = fields.get(outer) if inner else None
    return cell(value, inner) if isinstance(value, dict) else None


def find_columns(
    path: Path, present: Collection[str], data: Data, *, must_hold_group: bool = False, described: Mapping[str, str] | None = None
) -> Columns:
    """Return the text and label columns: named in params, or the only candidate present; raises `InputError` otherwise.

    Case, and whether accents are composed, do not matter. The group column is the one that params name; a test file may lack it.
    Each column that is not there is an error of its own, which lists the columns as `described`.
    """
    names = [*present, *(name for name in described or () if name not in present)]
    text = label = ""
    errors: list[EvergreenError] = []
    with collecting(errors):
        text = _text_column(path, names, data.text_column, described or {})
    with collecting(errors):
        label = _one_column(path, names, data.label_column, LABEL_COLUMNS, "data.label_column", described or {})
    group = group_column(data)
    if group and group in (text, label):
        what = f"data.group_column = {group} is the column of the texts or labels"
        errors.append(InputError("params.yaml", what, "name another column whose rows belong together, or none"))
    elif group and must_hold_group and group not in names:
        do = f"set data.group_column in params.yaml to none, or to one of: {', '.join(names)}"
        errors.append(InputError(str(path), f"there is no column `{group}`", do))
    raise_all(errors)
    return Columns(text, label, group, tuple(merged_labels(data).items()), data.html == "decode")


def merged_labels(data: Data) -> dict[str, str]:
    """Return the label that takes the place of each label that `data.merge_labels` names."""
    pairs = [pair.partition("=") for pair in data.merge_labels.split(",")] if data.merge_labels != NO_MERGES else []
    return {label.strip(): other.strip() for label, _, other in pairs}


def group_column(data: Data) -> str | None:
    """Return the column whose rows stay on one side of the split; None when params name none."""
    return None if data.group_column == NO_GROUP else data.group_column


def present_name(name: str, present: Iterable[str]) -> str | None:
    """Return the column of this name, else the only one that differs in case or in how its accents are composed."""
    names = list(present)
    if name in names:
        return name
    alike = [other for other in names if _plain(other) == _plain(name)]
    return alike[0] if len(alike) == 1 else None


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold().strip()


def _text_column(path: Path, present: list[str], wanted: str, described: Mapping[str, str]) -> str:
    """Return the text column, or the names of several."""
    parts = [part.strip() for part in wanted.split(",")] if present_name(wanted, present) is None else [wanted]
    return ",".join(_one_column(path, present, part, TEXT_COLUMNS, "data.text_column", described) for part in parts)


def _one_column(
    path: Path, present: list[str], wanted: str, candidates: tuple[str, ...], key: str, described: Mapping[str, str]
) -> str:
    listed = ", ".join(f"{name} ({how})" for name, how in described.items()) or ", ".join(present)
    if wanted != "auto":
        if name := present_name(wanted, present):
            return name
        if not described and wanted.partition(".")[0] in present:
            return wanted  # a key of the objects in that column
        raise InputError(str(path), f"there is no column `{wanted}`", f"set {key} in params.yaml to one of: {listed}")
    matches = [name for candidate in candidates if (name := present_name(candidate, present))]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise InputError(str(path), f"several columns match: {', '.join(matches)}", f"choose one with {key} in params.yaml")
    what = f"it has none of the columns {', '.join(candidates)}"
    raise InputError(str(path), what, f"name another with -S {key}=… : it has {listed}")
