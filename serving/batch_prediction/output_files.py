"""Writes predicted rows as csv, tsv, jsonl or parquet: the columns of the input, then those of the answer."""

import csv
import json
import math
from collections.abc import Callable, Sequence
from datetime import date, datetime
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.data.csv_tables import safe_cell
from pipeline.data.records import json_values
from pipeline.data.row_files import read_rows
from pipeline.errors import InputError
from pipeline.params import Data
from serving.batch_prediction.input_rows import InputFile
from serving.batch_prediction.predict_rows import PredictedRow, RowAnswer

TEXT_FORMATS = {".csv": ",", ".tsv": "\t", ".jsonl": ""}  # → delimiter of cells
FORMATS = (*TEXT_FORMATS, ".parquet")
GROUP_ROWS = 2048  # of a row group: many small ones would make the footer grow with the file
INT64, EXACT_IN_FLOAT64 = range(-(2**63), 2**63), range(-(2**53), 2**53 + 1)


class Layout(NamedTuple):
    """The columns of an output: those of the input, and those that are added."""

    kept: Sequence[str]
    labels: Sequence[str]  # none: probabilities are not written
    prefix: str

    @property
    def answer_names(self) -> list[str]:
        """Return the added columns but the probabilities."""
        return [f"{self.prefix}{name}" for name in ("predicted_label", "confidence", "model_version", "reason")]

    @property
    def probability_names(self) -> list[str]:
        """Return the column of each label's probability, in a table."""
        return [f"{self.prefix}probability_{label}" for label in self.labels]

    def answer_values(self, answer: RowAnswer) -> list[Any]:
        """Return the values of `answer_names`."""
        return [answer.label, _rounded(answer.confidence), answer.version, answer.reason or None]

    def probabilities(self, answer: RowAnswer) -> list[float | None]:
        """Return the values of `probability_names`, None for each of them where there is no label."""
        shares = answer.probabilities if self.labels else ()
        return [_rounded(share) for share in shares] or [None] * len(self.labels)


class TextSink(Protocol):
    """The part of a text stream that rows need."""

    def write(self, text: str, /) -> int: ...


class RowWriter(Protocol):
    """Writes predicted rows, and the end of the file."""

    def write(self, rows: Sequence[PredictedRow]) -> None: ...
    def close(self) -> None: ...


def make_layout(file: InputFile, labels: Sequence[str], prefix: str) -> Layout:
    """Return the layout; raise `InputError` where an added column has the name of a column of the input."""
    layout = Layout(file.names, labels, prefix)
    taken = sorted({*layout.answer_names, *layout.probability_names, f"{prefix}probabilities"} & set(file.names))
    if taken:
        what = f"it already has the columns {', '.join(taken[:5])}"
        raise InputError(str(file.path), what, "choose a prefix for the new ones, for example: --prefix new_")
    return layout


class _LineFeeds:
    """Ends rows in a line feed. Only where rows end in both characters does `csv` quote cells that hold a carriage return."""

    def __init__(self, stream: TextSink) -> None:
        self._stream = stream

    def write(self, row: str, /) -> int:
        """Write a row."""
        return self._stream.write(row.removesuffix("\r\n") + "\n")


class TableWriter:
    """Writes csv or tsv. With `is_for_spreadsheets`, a text that a spreadsheet would compute gets an apostrophe."""

    def __init__(self, stream: TextSink, layout: Layout, delimiter: str, *, is_for_spreadsheets: bool) -> None:
        self._layout = layout
        self._write = csv.writer(_LineFeeds(stream), delimiter=delimiter, lineterminator="\r\n").writerow
        self._cell: Callable[[str], Any] = safe_cell if is_for_spreadsheets else str
        self._write([self._cell(name) for name in (*layout.kept, *layout.answer_names, *layout.probability_names)])

    def write(self, rows: Sequence[PredictedRow]) -> None:
        """Write a line for each row."""
        for row, answer in rows:
            kept = [row.fields.get(name) for name in self._layout.kept]
            values = [*kept, *self._layout.answer_values(answer), *self._layout.probabilities(answer)]
            self._write([self._cell(cell_text(value)) for value in values])

    def close(self) -> None:
        """Do nothing: a table has no end."""


class JsonLinesWriter:
    """Writes jsonl, with the probabilities as one object."""

    def __init__(self, stream: TextSink, layout: Layout) -> None:
        self._stream, self._layout = stream, layout

    def write(self, rows: Sequence[PredictedRow]) -> None:
        """Write an object for each row."""
        layout = self._layout
        for row, answer in rows:
            added = dict(zip(layout.answer_names, layout.answer_values(answer), strict=True))
            if layout.labels:
                shares = dict(zip(layout.labels, layout.probabilities(answer), strict=True))
                added[f"{layout.prefix}probabilities"] = shares if answer.probabilities else None
            values = json_values({**row.fields, **added})
            self._stream.write(json.dumps(values, ensure_ascii=False, default=_json_text) + "\n")

    def close(self) -> None:
        """Do nothing: lines have no end."""


class ParquetRowsWriter:
    """Writes parquet; the columns of the input keep their types."""

    def __init__(self, path: Path, layout: Layout, kept: pa.Schema) -> None:
        answer = zip(layout.answer_names, (pa.string(), pa.float64(), pa.int64(), pa.string()), strict=True)
        shares = [(name, pa.float64()) for name in layout.probability_names]
        self._layout = layout
        self._schema = pa.schema([*kept, *(pa.field(*column) for column in (*answer, *shares))])
        self._texts = [field.name for field in kept if field.type == pa.string()]
        self._file = pq.ParquetWriter(path, self._schema)
        self._rows: list[dict[str, Any]] = []

    def write(self, rows: Sequence[PredictedRow]) -> None:
        """Hold the rows until they fill a row group."""
        layout = self._layout
        for row, answer in rows:
            texts = {name: _encodable(cell_text(row.fields[name])) for name in self._texts if row.fields.get(name) is not None}
            answers = zip(layout.answer_names, layout.answer_values(answer), strict=True)
            shares = zip(layout.probability_names, layout.probabilities(answer), strict=True)
            self._rows.append({**row.fields, **texts, **dict(answers), **dict(shares)})
        if len(self._rows) >= GROUP_ROWS:
            self._write_group()

    def close(self) -> None:
        """Write the last rows and the footer."""
        self._write_group()
        self._file.close()

    def _write_group(self) -> None:
        if self._rows:
            self._file.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
        self._rows = []


def column_types(file: InputFile, data: Data) -> pa.Schema:
    """Return a type for each column of the input.

    A parquet file states its types. For other files it is the narrowest type that holds every value.
    """
    if file.path.suffix.lower() == ".parquet":
        return pq.read_schema(file.path).remove_metadata()
    kinds: dict[str, set[type]] = {name: set() for name in file.names}
    for row in read_rows(file.path, data):
        for name, value in (row.fields or {}).items():
            if value is not None:
                kinds[name].add(_kind(value))
    return pa.schema([(name, _type_of(found)) for name, found in kinds.items()])


def cell_text(value: Any) -> str:
    """Return a value as the text of a cell: nothing for None, JSON for lists and objects."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, date | datetime):
        return value.isoformat()
    if isinstance(value, list | dict):
        return json.dumps(json_values(value), ensure_ascii=False, default=_json_text)
    return str(value)


class _LargeInt:
    """Stands for whole numbers that int64 holds and float64 does not."""


def _kind(value: Any) -> type:
    if not isinstance(value, int) or isinstance(value, bool) or value in EXACT_IN_FLOAT64:
        return type(value)
    return _LargeInt if value in INT64 else str


def _type_of(found: set[type]) -> pa.DataType:
    for wanted, kind in (({bool}, pa.bool_()), ({int, _LargeInt}, pa.int64()), ({int, float}, pa.float64())):
        if found and found <= wanted:
            return kind
    return pa.string()


def _encodable(text: str) -> str:
    """Return the text with lone surrogates, which UTF-8 cannot hold, as escapes."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")


def _rounded(share: float | None) -> float | None:
    return None if share is None or not math.isfinite(share) else round(share, 6)


def _json_text(value: Any) -> str:
    return value.isoformat() if isinstance(value, date | datetime) else str(value)
