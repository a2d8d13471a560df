"""The `Example` row: its fields and validation, and readers and writers for csv, tsv, jsonl and parquet."""

import csv
import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from pipeline.atomic_write import atomic_write
from pipeline.errors import InputError
from pipeline.params import Data
from pipeline.runtime.text import JOINERS, clean, fold

TEXT_COLUMNS = ("text", "utterance", "query", "sentence")
LABEL_COLUMNS = ("label", "category", "intent")
MAX_LABEL_CHARS = 200
OPTIONAL_COLUMNS = ("group", "time", "source", "target")
FORMATS = (".csv", ".tsv", ".jsonl", ".parquet")


class Example(BaseModel):
    """A labelled text. `id` depends only on the text, folded for case and punctuation; other columns are kept in `meta`."""

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
        if any(0xD800 <= ord(c) <= 0xDFFF for c in value):
            raise ValueError("contains half of a surrogate pair")
        if any(unicodedata.category(c) == "Cc" and not c.isspace() for c in value):
            raise ValueError("contains a control character")
        cleaned = clean(value)
        if not cleaned.strip(JOINERS + " "):
            raise ValueError("is empty")
        longest = MAX_LABEL_CHARS if info.field_name == "label" else (info.context or {}).get("max_text_chars")
        if longest and len(cleaned) > longest:
            limit = "the limit" if info.field_name == "label" else "data.max_text_chars"
            raise ValueError(f"is too long: {len(cleaned)} characters, {limit} = {longest}")
        return cleaned


class Row(NamedTuple):
    """A row of a file; `line` counts from 1. A row that cannot be parsed has `fields` None and a `fault`."""

    line: int
    fields: dict[str, Any] | None
    fault: str = ""


class Columns(NamedTuple):
    """The names of the text and label columns."""

    text: str
    label: str


def text_id(text: str) -> str:
    """Return 16 hex digits of the SHA-256 of the folded text."""
    return hashlib.sha256(fold(text).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def normalise_label(label: str) -> str:
    """Return the label in lower case with `_`, `-` and white space between words as one space; `A-` and `A` stay different."""
    return re.sub(r"(?<=[^\W_])[\s_-]+(?=[^\W_])", " ", label.casefold())


def make_example(fields: dict[str, Any], columns: Columns, *, max_text_chars: int, source: str) -> Example:
    """Return a validated example; raises pydantic's `ValidationError` for an invalid row."""
    named = {key: fields[key] for key in OPTIONAL_COLUMNS if fields.get(key) not in (None, "")}
    rest = {k: v for k, v in fields.items() if k not in {"id", *columns, *OPTIONAL_COLUMNS} and v is not None}
    text = fields.get(columns.text)
    values = {
        "source": source,
        **named,
        "id": text_id(text) if isinstance(text, str) else "",
        "text": text,
        "label": None if fields.get(columns.label) == "" else fields.get(columns.label),
        "meta": rest,
    }
    return Example.model_validate(values, context={"max_text_chars": max_text_chars})


def describe_fault(error: ValidationError) -> str:
    """Describe in a few words why a row is invalid."""
    first = error.errors()[0]
    field = str(first["loc"][0])
    if first["input"] is None:
        return f"{field} is missing"
    return f"{field} {first['msg'].removeprefix('Value error, ')}".replace("Input should be a valid string", "is not a text")


def read_rows(path: Path, data: Data) -> Iterator[Row]:
    """Yield the rows of a file; raises `InputError` for a fault of the whole file (missing, wrong encoding, oversized row)."""
    if not path.is_file():
        raise InputError(
            str(path), "there is no such file", "fix data.source, data.test or data.unlabelled in params.yaml, or fetch it first"
        )
    if path.stat().st_size == 0:
        raise InputError(str(path), "the file is empty (0 bytes)", "add rows, or only a header line if it should have none")
    if path.suffix == ".parquet":
        yield from _read_parquet(path)
        return
    if path.suffix not in FORMATS:
        raise InputError(str(path), f"files ending in `{path.suffix}` are not supported", f"use one of {', '.join(FORMATS)}")
    _check_bytes(path, data.max_row_bytes)
    yield from _read_jsonl(path) if path.suffix == ".jsonl" else _read_table(path, data.max_row_bytes)


def find_columns(path: Path, present: Iterable[str], data: Data) -> Columns:
    """Return the text and label columns: named in params, or the only candidate present; raises `InputError` otherwise."""
    names = list(present)
    return Columns(
        _one_column(path, names, data.text_column, TEXT_COLUMNS, "data.text_column"),
        _one_column(path, names, data.label_column, LABEL_COLUMNS, "data.label_column"),
    )


def write_examples(path: Path, examples: list[Example]) -> None:
    """Write examples as parquet, with `meta` as JSON text."""
    rows = [{**e.model_dump(), "meta": json.dumps(e.meta, sort_keys=True, default=str)} for e in examples]
    with atomic_write(path) as part:
        pq.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA), part)


def read_examples(path: Path) -> list[Example]:
    """Read the examples that `write_examples` wrote."""
    rows = pq.read_table(path).to_pylist()
    return [Example.model_construct(**{**row, "meta": json.loads(row["meta"])}) for row in rows]


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
_SCHEMA = pa.schema([(name, pa.string()) for name in _TEXTS])


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


def _check_bytes(path: Path, max_row_bytes: int) -> None:
    with path.open("rb") as file:
        number = 0
        while line := file.readline(max_row_bytes + 1):
            number += 1
            if len(line) > max_row_bytes:
                raise InputError(
                    f"{path}, line {number}",
                    f"the row is longer than {max_row_bytes} bytes",
                    "cut it (an unclosed quote or a binary file looks like this), or raise data.max_row_bytes",
                )
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                raise InputError(
                    f"{path}, line {number}",
                    f"byte {error.start + 1} (0x{line[error.start]:02x}) is not UTF-8",
                    f"convert the file, for example: iconv -f WINDOWS-1252 -t UTF-8 {path}",
                ) from None


def _read_jsonl(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                value = json.loads(line)
            except (ValueError, RecursionError) as error:
                yield Row(number, None, f"not valid JSON: {error}")
                continue
            if isinstance(value, dict):
                yield Row(number, value)
            else:
                yield Row(number, None, "not a JSON object")


def _read_table(path: Path, max_row_bytes: int) -> Iterator[Row]:
    csv.field_size_limit(max_row_bytes)
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, delimiter="\t" if path.suffix == ".tsv" else ",", strict=True)
        line = 1
        try:
            header = next(reader, [])
            if len(set(header)) < len(header):
                raise InputError(f"{path}, line 1", "two columns have the same name", "rename one of them")
            line = reader.line_num + 1
            for cells in reader:
                if len(cells) == len(header):
                    yield Row(line, dict(zip(header, cells, strict=True)))
                elif cells:
                    yield Row(line, None, f"the header has {len(header)} fields, this row {len(cells)}")
                line = reader.line_num + 1
        except csv.Error as error:
            do = "close the quote that opens on that line, or raise data.max_row_bytes"
            raise InputError(f"{path}, line {line}", str(error), do) from None


def _read_parquet(path: Path) -> Iterator[Row]:
    number = 0
    try:
        for batch in pq.ParquetFile(path).iter_batches(batch_size=4096):
            for fields in batch.to_pylist():
                number += 1
                yield Row(number, fields)
    except (pa.ArrowException, OSError) as error:
        raise InputError(str(path), f"not a readable parquet file: {error}", "write it again") from None
