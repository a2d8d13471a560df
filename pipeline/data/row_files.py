"""Reads the rows of csv, tsv, jsonl and parquet files in bounded memory; what a row means is not known here."""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.data.columns import Row
from pipeline.data.parquet_rows import read_parquet, too_many_rows
from pipeline.data.table_rows import DELIMITERS, read_table
from pipeline.data.text_lines import COMPRESSIONS, count_lines, text_lines
from pipeline.errors import EvergreenError, InputError
from pipeline.params import Data

FORMATS = (".csv", ".tsv", ".jsonl", ".parquet")
MAX_NESTING = 50  # of JSON: deeper values cannot be written again
ROWS_DESCRIBED = 1000  # the first of a file
FILES_SHOWN = 5
CONVERSIONS = {  # suffix → what makes a readable file of it
    ".json": "make it jsonl, one object a line: jq -c '.[]' '{path}' > '{stem}.jsonl'",
    ".ndjson": "rename it to '{stem}.jsonl'",
    ".txt": "rename it to '{stem}.csv' or '{stem}.tsv' if it is a table",
    ".dvc": "name the file itself, '{stem}', and fetch it: .venv/bin/dvc pull '{path}'",
    ".zip": "unpack it: unzip '{path}'",
    ".xlsx": "save it as csv",
    ".xls": "save it as csv",
    ".ods": "save it as csv",
}


def read_rows(path: Path, data: Data) -> Iterator[Row]:
    """Yield the rows of a file; raises `InputError` for a fault of the whole file (missing, wrong encoding, oversized row)."""
    suffix = _suffix(path)
    if suffix == ".parquet":
        yield from read_parquet(path, data)
    elif suffix == ".jsonl":
        yield from _read_jsonl(path, data)
    else:
        yield from read_table(path, suffix, data)


class Scan(NamedTuple):
    """The names of all columns in the order in which rows name them, the number of rows, and the fault that ends the file."""

    names: list[str]
    rows: int
    fault: EvergreenError | None


def scan(path: Path, data: Data) -> Scan:
    """Read a file to its end, or to its fault: one that `read_rows` raises, or more than `data.max_rows` rows."""
    names: dict[str, None] = {}
    rows = 0
    try:
        for row in read_rows(path, data):
            if rows == data.max_rows:
                raise too_many_rows(path, f"{count_lines(path, data)} lines", data)
            rows += 1
            if row.fields and not row.fields.keys() <= names.keys():
                names.update(dict.fromkeys(row.fields))
    except EvergreenError as fault:
        return Scan(list(names), rows, fault)
    return Scan(list(names), rows, None)


def describe_columns(path: Path, rows: int, data: Data) -> dict[str, str]:
    """Describe the content of each column, and of each key of the objects in it, by the first of so many readable rows."""
    values: dict[str, list[str]] = defaultdict(list)
    for row in islice(read_rows(path, data), min(rows, ROWS_DESCRIBED)):
        for name, value in _leaves(row.fields or {}):
            values[name].append(str(value))
    return {name: _describe(texts) for name, texts in values.items()}


def _leaves(fields: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each value that is no object, with the keys that lead to it."""
    for name, value in fields.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _describe(texts: list[str]) -> str:
    filled = [text for text in texts if text not in ("", "None")]
    if not filled:
        return "empty"
    kinds = len(set(filled))
    if kinds <= len(filled) / 2:
        return f"{kinds} different values"
    return f"{sum(map(len, filled)) / len(filled):.0f} characters on average"


def scan_names(path: Path, data: Data) -> list[str]:
    """Return the names of all columns of a file; raise its fault as `InputError`."""
    scanned = scan(path, data)
    if scanned.fault:
        raise scanned.fault
    return scanned.names


def is_row_file(path: Path) -> bool:
    """Return whether the suffix is one of `FORMATS`, perhaps compressed."""
    return _format(path) in FORMATS


def _suffix(path: Path) -> str:
    """Return the file's suffix in lower case, without that of its compression; raise `InputError` when it is no such file."""
    if path.is_dir():
        files = sorted(file.name for file in path.iterdir() if is_row_file(file))
        named = f", such as {', '.join(files[:FILES_SHOWN])}" if files else ""
        raise InputError(str(path), "this is a folder", f"name one file of {', '.join(FORMATS)} in it{named}")
    if not path.is_file():
        do = "fix data.source, data.test or data.unlabelled in params.yaml, or fetch it first"
        tracked = Path(f"{path}.dvc")
        raise InputError(
            str(path), "there is no such file", f"fetch it: .venv/bin/dvc pull '{tracked}'" if tracked.is_file() else do
        )
    if path.stat().st_size == 0:
        raise InputError(str(path), "the file is empty (0 bytes)", "add rows, or only a header line if it should have none")
    suffix = _format(path)
    if suffix not in FORMATS:
        convert = CONVERSIONS.get(suffix, "").format(path=path, stem=path.with_suffix(""))
        do = f"use one of {', '.join(FORMATS)}; {convert}".rstrip("; ")
        raise InputError(str(path), f"files ending in `{path.suffix}` are not supported", do)
    return suffix


def _format(path: Path) -> str:
    """Return the last suffix in lower case, or the one before it when it is that of a compressed text file."""
    last = path.suffix.lower()
    inner = Path(path.stem).suffix.lower()
    return inner if last in COMPRESSIONS and inner in (*DELIMITERS, ".jsonl") else last


def _read_jsonl(path: Path, data: Data) -> Iterator[Row]:
    for number, line in enumerate(text_lines(path, data), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            if number == 1 and line.strip() == "[":
                raise _json_array(path) from None
            yield Row(number, None, f"not valid JSON: {error}")
            continue
        if number == 1 and isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
            raise _json_array(path)
        if not isinstance(value, dict):
            yield Row(number, None, "not a JSON object")
        elif line.count("[") + line.count("{") > MAX_NESTING and _is_nested_deeper(value, MAX_NESTING):
            yield Row(number, None, f"nested deeper than {MAX_NESTING} levels")
        else:
            yield Row(number, value)


def _json_array(path: Path) -> InputError:
    do = CONVERSIONS[".json"].format(path=path, stem=path.with_suffix(""))
    return InputError(str(path), "this is one JSON array, and jsonl holds one object a line", do)


def _is_nested_deeper(value: Any, levels: int) -> bool:
    """Return whether objects and lists are nested deeper than this; walks level by level, because recursion has a limit too."""
    layer = [value]
    for _ in range(levels):
        layer = [child for item in layer for child in _children(item)]
    return any(isinstance(item, dict | list) for item in layer)


def _children(item: Any) -> list[Any]:
    return list(item.values()) if isinstance(item, dict) else item if isinstance(item, list) else []
