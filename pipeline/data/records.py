"""The `Example` row: what a file's row becomes, its validation and identity, and how stages store it."""

import ast
import hashlib
import html
import json
import re
import unicodedata
from collections.abc import Iterable
from contextlib import suppress
from datetime import date, datetime
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from pipeline.atomic_write import atomic_write
from pipeline.data.columns import Columns, cell
from pipeline.errors import InputError
from pipeline.runtime.text import JOINERS, clean, fold, fold_to_words

if TYPE_CHECKING:
    import pyarrow as pa

MAX_LABEL_CHARS = 200
OPTIONAL_COLUMNS = ("time", "source", "target")  # used where they can be, else carried in `meta`
LIST_AS_TEXT = re.compile(r"""\[\s*(['"].*['"])?\s*\]""", re.DOTALL)
TAG = re.compile(r"</?(?:a|b|br|div|em|font|i|img|li|ol|p|span|strong|table|td|th|tr|u|ul)(?:\s[^<>]*)?/?>", re.IGNORECASE)


class Example(BaseModel):
    """A labelled text. `id` depends on the text alone, without case and punctuation; other columns are kept in `meta`."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    id: str
    text: str
    label: str | None = None
    target: str | None = None
    group: str | None = None
    time: str | None = None
    source: str | None = None
    meta: dict[str, Any] = Field(default_factory=dict)

    @field_validator("text", "label", "target", "group", "time", "source")
    @classmethod
    def _readable(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is None:
            return None
        is_label = info.field_name == "label"
        longest = MAX_LABEL_CHARS if is_label else (info.context or {}).get("max_text_chars")
        return _readable(value, longest, "the limit" if is_label else "data.max_text_chars")


def _readable(value: str, longest: int | None, limit: str) -> str:
    """Return the cleaned value; raise `ValueError` for characters that are no text, and for too few or too many."""
    if any(0xD800 <= ord(c) <= 0xDFFF for c in value):
        raise ValueError("contains half of a surrogate pair")
    if any(unicodedata.category(c) == "Cc" and not c.isspace() for c in value):
        raise ValueError("contains a control character")
    cleaned = clean(value)
    if not cleaned.strip(JOINERS + " "):
        raise ValueError("is empty")
    if longest and len(cleaned) > longest:
        raise ValueError(f"is too long: {len(cleaned)} characters, {limit} = {longest}")
    return cleaned


def text_id(text: str) -> str:
    """Return 16 hex digits of the SHA-256 of the folded text: texts that differ in symbols are different texts."""
    return _digest(fold(text))


def words_id(text: str) -> str:
    """Return the id of the text's words. It decides the side: texts that differ in symbols alone are on one side of the split."""
    return _digest(fold_to_words(text))


def _digest(folded: str) -> str:
    return hashlib.sha256(folded.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def normalise_label(label: str) -> str:
    """Return the label in lower case with `_`, `-` and white space between words as one space; `A-` and `A` stay different."""
    return re.sub(r"(?<=[^\W_])[\s_-]+(?=[^\W_])", " ", label.casefold())


def make_example(fields: dict[str, Any], columns: Columns, *, max_text_chars: int, source: str) -> Example:
    """Return a validated example; raises pydantic's `ValidationError` for an invalid row."""
    text, label = as_text(cell(fields, columns.text)), as_label(cell(fields, columns.label))
    if columns.is_html and isinstance(text, str):
        text = decode_html(text)
    optional = {key: fields.get(key) for key in OPTIONAL_COLUMNS if key not in columns.names}
    named = {key: value for key in optional if (value := usable_text(optional[key], max_text_chars))}
    fielded = {"id", *columns.names, *named}
    values = {
        "source": source,
        **named,
        "id": text_id(text) if isinstance(text, str) else "",
        "text": text,
        "label": dict(columns.merged).get(clean(label), label) if isinstance(label, str) else label,
        "group": (as_text(fields.get(columns.group)) or None) if columns.group else None,
        "meta": {key: value for key, value in fields.items() if key not in fielded and value not in (None, "")},
    }
    return Example.model_validate(values, context={"max_text_chars": max_text_chars})


def as_text(value: Any) -> Any:
    """Return whole numbers, true and false as text, and bytes decoded; other values as they are, for validation to refuse."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            return value
    return value


def as_label(value: Any) -> Any:
    """Return a label as text; of a list with one label that label, of an empty list None.

    A list may hold texts, or objects with a `name` as GitHub's do, and may be written as a text, as in `['ui']`.
    """
    if isinstance(value, str) and LIST_AS_TEXT.fullmatch(value.strip()):
        with suppress(ValueError, SyntaxError, MemoryError, RecursionError):
            value = ast.literal_eval(value.strip())
    if isinstance(value, list | tuple):
        names = [item.get("name", item) if isinstance(item, dict) else item for item in value]
        if len(names) > 1:
            return names
        value = names[0] if names else None
    return None if value == "" else as_text(value)


def decode_html(text: str) -> str:
    """Return the text without the tags of paragraphs and emphasis, and with characters for entities (`&amp;`)."""
    return html.unescape(TAG.sub(" ", text))


def usable_text(value: Any, max_text_chars: int) -> str | None:
    """Return the value of an optional column as text, or None when it is no usable text."""
    text = value.isoformat() if isinstance(value, date | datetime) else str(value) if isinstance(value, float) else as_text(value)
    try:
        return _readable(text, max_text_chars, "") if isinstance(text, str) else None
    except ValueError:
        return None


def describe_fault(error: ValidationError) -> str:
    """Describe in a few words why a row is invalid."""
    first = error.errors()[0]
    field, value = str(first["loc"][0]), first["input"]
    if value is None:
        return f"{field} is missing"
    if field == "label" and isinstance(value, list):
        return f"the row has several labels: {', '.join(map(str, value))}"
    if first["type"] == "string_type":
        return f"{field} is not a text: {_kind(value)}"
    return f"{field} {first['msg'].removeprefix('Value error, ')}"


def _kind(value: Any) -> str:
    """Name what stands in place of a text."""
    if isinstance(value, float):
        return f"the number {value}, which is not whole" if value % 1 else f"{value}, a number with a decimal point"
    names = {"list": "a list", "dict": "an object", "bytes": "bytes that are not UTF-8"}
    return names.get(type(value).__name__, f"a {type(value).__name__}")


def write_examples(path: Path, examples: list[Example]) -> None:
    """Write examples as parquet, with `meta` as JSON text."""
    import pyarrow as pa  # here, because most modules that import this one read no rows
    import pyarrow.parquet as pq

    schema = pa.schema([(name, pa.string()) for name in _TEXTS])
    rows = [{**e.model_dump(), "meta": json.dumps(e.meta, sort_keys=True, default=str)} for e in examples]
    with atomic_write(path) as part:
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), part)


def read_examples(path: "Path | pa.BufferReader") -> list[Example]:
    """Read the examples that `write_examples` wrote."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:  # `read_table` would import pandas
        rows = file.read().to_pylist()
    return [Example.model_construct(**{**row, "meta": json.loads(row["meta"])}) for row in rows]


def texts_by_id(path: Path) -> dict[str, str]:
    """Return the texts of the examples that `write_examples` wrote; none where there is no such file."""
    return {example.id: example.text for example in read_examples(path)} if path.is_file() else {}


def labels_of(examples: list[Example]) -> list[str]:
    """Return the label of each example; all must be labelled."""
    return [example.label or "" for example in examples]


def digest_examples(examples: Iterable[Example]) -> str:
    """Return the SHA-256 of the (id, label) pairs in order: equal for equal data in any file format."""
    lines = "".join(f"{e.id}\t{e.label}\n" for e in examples)
    return hashlib.sha256(lines.encode()).hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON."""
    with atomic_write(path) as part:
        part.write_text(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def read_json(path: Path, content: str) -> dict[str, Any]:
    """Return the object in a JSON file that the pipeline wrote; raise `InputError` that names the content."""
    try:
        tree: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(str(path), f"{content} cannot be read: {error}", "make it: .venv/bin/dvc repro") from None
    return tree


def json_values(value: Any) -> Any:
    """Return the value for `write_json`: named tuples become objects, NaN and infinity become null."""
    if hasattr(value, "_asdict"):
        return json_values(value._asdict())
    if isinstance(value, dict):
        return {str(key): json_values(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_values(item) for item in value]
    return None if isinstance(value, float) and not isfinite(value) else value


_TEXTS = ("id", "text", "label", "target", "group", "time", "source", "meta")
