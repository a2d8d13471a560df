"""What goes out to another tool and what comes back, whatever its format."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from pipeline.data.records import MAX_LABEL_CHARS

LABEL, TEXT = "label", "text"  # names of the question and of the field in both tools


class ExchangedLabel(NamedTuple):
    """A label in force, and who gave it."""

    labeller: str
    label: str


class ExchangedText(NamedTuple):
    """A text of the queue."""

    prediction_id: str
    text: str
    label: str  # the model's
    confidence: float
    version: int
    cluster: int
    given: tuple[ExchangedLabel, ...] = ()


class ReturnedLabel(NamedTuple):
    """A label that came back, and in which row of the file (from 1)."""

    row: int
    prediction_id: str
    label: str


class BadRow(NamedTuple):
    """A row that holds no usable label: where in it, and what is wrong."""

    row: int
    key: str
    what: str


class Returned(NamedTuple):
    """What a file holds."""

    labels: list[ReturnedLabel]
    bad: list[BadRow]
    unlabelled: int
    known: int  # labels that people had given before the texts were exported


class RowError(ValueError):
    """A row cannot be used: the key, and what is wrong with it."""

    def __init__(self, key: str, what: str) -> None:
        super().__init__(f"{key}: {what}")
        self.key, self.what = key, what


def part_of(row: object, key: str, kind: type[Any]) -> Any:
    """Return what a dotted key leads to, through objects and lists; raise `RowError` when it is missing or of another kind."""
    value: Any = row
    for name in key.split("."):
        is_there = isinstance(value, Mapping) and name in value
        if not is_there:
            raise RowError(key, "is missing")
        value = value[name]
    if not isinstance(value, kind):
        raise RowError(key, f"is no {NAMES.get(kind, kind.__name__)}")
    return value


def only_label(labels: Iterable[str], key: str) -> str | None:
    """Return the label that all annotations have; None without any. Raise `RowError` when they differ or cannot be stored."""
    different = list(dict.fromkeys(labels))
    if any(len(label) > MAX_LABEL_CHARS for label in different):
        raise RowError(key, f"has a label of more than {MAX_LABEL_CHARS} characters")
    if any(label.encode("utf-8", "replace").decode() != label for label in different):
        raise RowError(key, "has a label that is not valid Unicode")
    if len(different) > 1:
        shown = " and ".join(f"“{label[:40]}”" for label in different[:3])
        raise RowError(key, f"people give different labels, {shown}: export the annotations of one person")
    return different[0] if different else None


NAMES: dict[type[Any], str] = {dict: "object", list: "list", str: "text"}
