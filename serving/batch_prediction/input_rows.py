"""The rows to predict: each with its text, or the reason why it has none. A bad row never stops the others."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO, NamedTuple

from pydantic import ValidationError

from pipeline.data.columns import Columns, cell
from pipeline.data.records import describe_fault, make_example
from pipeline.data.row_files import read_rows, scan
from pipeline.data.unlabelled import text_column
from pipeline.errors import InputError
from pipeline.params import Data

AS_EXAMPLE = Columns("text", "label")


class InputRow(NamedTuple):
    """A row of a file; `fields` are all its columns, none where the row cannot be parsed."""

    line: int
    fields: dict[str, Any]
    text: str | None  # cleaned, as the model reads it
    fault: str  # why there is no text


class InputFile(NamedTuple):
    """A file whose size, encoding, quoting and columns are known to be readable."""

    path: Path
    names: list[str]
    rows: int
    text_column: str


@contextmanager
def stored_stdin(stream: BinaryIO, suffix: str) -> Iterator[Path]:
    """Yield a temporary file with the whole stream, because a table is read twice; memory stays bounded."""
    with TemporaryDirectory(prefix="evergreen-") as folder:
        path = Path(folder) / f"stdin{suffix}"
        with path.open("wb") as file:
            shutil.copyfileobj(stream, file)
        yield path


def open_input(path: Path, data: Data, column: str | None) -> InputFile:
    """Read the file once to find its columns and count its rows; raise `InputError` for a fault of the whole file.

    `column` names the text column; without it, the column is found as for unlabelled texts.
    """
    names, rows, fault = scan(path, data)
    if fault:
        raise fault
    if not rows and path.suffix != ".jsonl" and path.read_bytes()[:1] == b"{":
        raise InputError(str(path), "this is JSON, not a table", "name the file *.jsonl, or read stdin with --format jsonl")
    if column is not None and rows and column not in names:
        raise InputError(str(path), f"there is no column `{column}`", f"name one of: {', '.join(names)}")
    return InputFile(path, names, rows, column or (text_column(path, names, data) if names else ""))


def read_input(file: InputFile, data: Data) -> Iterator[InputRow]:
    """Yield every row of the file in order."""
    for row in read_rows(file.path, data):
        if row.fields is None:
            yield InputRow(row.line, {}, None, row.fault)
            continue
        yield read_text(row.line, row.fields, cell(row.fields, file.text_column), data)


def read_text(line: int, fields: dict[str, Any], value: Any, data: Data) -> InputRow:
    """Return the row with the value as its cleaned text, or with the reason why it is none."""
    try:
        example = make_example({"text": value}, AS_EXAMPLE, max_text_chars=data.max_text_chars, source="caller")
    except ValidationError as error:
        return InputRow(line, fields, None, describe_fault(error))
    return InputRow(line, fields, example.text, "")
