"""Reads csv and tsv: finds the delimiter and the quoting of a file, and never joins or loses a row in silence."""

import csv
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from pipeline.data.columns import TEXT_COLUMNS, Row, present_name
from pipeline.data.text_lines import text_lines
from pipeline.errors import InputError
from pipeline.params import Data

DELIMITERS = {".csv": ",", ".tsv": "\t"}  # by suffix
OTHER_DELIMITERS = (",", ";", "\t", "|")


class TableRecord(NamedTuple):
    """The cells of a row, the line on which it begins, and its lines as they stand in the file."""

    line: int
    cells: list[str]
    lines: list[str]


class Dialect(NamedTuple):
    """How the cells of a table are separated, and whether quotes enclose cells or are characters like any other."""

    delimiter: str
    is_quoted: bool


def read_table(path: Path, suffix: str, data: Data) -> Iterator[Row]:
    """Yield the rows of a csv or tsv file; raise `InputError` for a header or quoting that cannot be read."""
    dialect = find_dialect(path, suffix, data)
    records = read_records(path, dialect, data)
    header = next(records, TableRecord(1, [], []))
    names = _column_names(f"{path}, line {header.line}", header.cells)
    for record in records:
        if any(cell.strip() for cell in record.cells):  # spreadsheets end in rows of empty cells
            row = _row(record.line, names, record.cells)
            yield row._replace(alone=_lines_alone(record, names, dialect)) if len(record.lines) > 1 else row


def find_dialect(path: Path, suffix: str, data: Data) -> Dialect:
    """Return the dialect of a file.

    Another delimiter than the suffix's is used when the header has a text column with it alone, or when the header is a single
    cell with the suffix's and several with that delimiter alone. A tsv file is quoted when every
    line is a well-formed row with quotes, and otherwise when some line is no row without them.
    """
    header = next((line for line in text_lines(path, data) if line.strip() and not _separator_line(line)), "")
    usual = DELIMITERS[suffix]
    cells = {delimiter: _header_cells(header, delimiter) for delimiter in OTHER_DELIMITERS}
    wanted = [data.text_column, *data.text_column.split(","), *TEXT_COLUMNS]
    named = [d for d, names in cells.items() if any(present_name(name.strip(), names) for name in wanted)]
    if not named and len(cells[usual]) == 1:
        named = [d for d, names in cells.items() if len(list(filter(None, names))) > 1]
    delimiter = named[0] if len(named) == 1 else usual
    return Dialect(delimiter, is_quoted=delimiter != "\t" or _is_quoted(path, data))


def read_records(path: Path, dialect: Dialect, data: Data) -> Iterator[TableRecord]:
    """Yield each record, the header first; blank lines are skipped."""
    lines = _Lines(text_lines(path, data))
    csv.field_size_limit(data.max_row_bytes)
    if dialect.is_quoted:
        reader = csv.reader(lines, delimiter=dialect.delimiter, strict=True)
    else:
        reader = csv.reader(lines, delimiter=dialect.delimiter, quoting=csv.QUOTE_NONE)
    while True:
        begun = lines.begin()
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise _bad_quoting(f"{path}, line {begun}", path, lines.record, str(error)) from None
        if cells is None:
            return
        if cells and not (begun == 1 and _separator_line(lines.record[0])):
            yield TableRecord(begun, cells, lines.record)


class _Lines:
    """An iterator over lines that remembers those of the current record."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._lines = iter(lines)
        self._count = 0
        self.record: list[str] = []

    def begin(self) -> int:
        """Begin a record; return the number of its first line."""
        self.record = []
        return self._count + 1

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self._count += 1
        self.record.append(line)
        return line


def _separator_line(line: str) -> bool:
    """Return whether this is the line in which Excel names the delimiter, such as `sep=;`."""
    return line.startswith("sep=") and len(line.rstrip("\r\n")) == 5


def _header_cells(header: str, delimiter: str) -> list[str]:
    return [cell.strip() for cell in next(csv.reader([header], delimiter=delimiter), [])]


def _is_quoted(path: Path, data: Data) -> bool:
    """Return whether quotes enclose cells in a tsv file.

    They do when with them every line is a row. When some rows take several lines, they do if some line is no row without them.
    """
    quoted, plain = (_widths(path, Dialect("\t", is_quoted), data) for is_quoted in (True, False))
    if len(quoted) != 1:
        return False
    return len(plain) > 1 or plain.total() == quoted.total()


def _widths(path: Path, dialect: Dialect, data: Data) -> Counter[int]:
    """Count the records by their number of cells; none when the quotes do not pair up."""
    try:
        return Counter(len(record.cells) for record in read_records(path, dialect, data))
    except InputError:
        return Counter()


def _column_names(where: str, header: Sequence[str]) -> list[str]:
    """Return the name of each column, empty for one without a name."""
    names = [name.strip() for name in header]
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        raise InputError(where, f"two columns have the same name: {', '.join(twice)}", "rename one of them")
    return names


def _row(line: int, names: list[str], cells: list[str]) -> Row:
    """Return the row; a column without a name counts only where it holds something."""
    missing, extra = names[len(cells) :], cells[len(names) :]
    if any(missing) or any(cell.strip() for cell in extra):
        return Row(line, None, f"the header has {len(names)} fields, this row {len(cells)}")
    pairs = enumerate(zip(names, cells, strict=False), start=1)
    return Row(line, {name or f"column {number}": cell for number, (name, cell) in pairs if name or cell.strip()})


def _lines_alone(record: TableRecord, names: list[str], dialect: Dialect) -> list[dict[str, str]]:
    """Return what the lines of a record hold when each is read by itself, or nothing when one of them would be no row."""
    rows = list(csv.reader(record.lines, delimiter=dialect.delimiter, quoting=csv.QUOTE_NONE))
    if any(len(cells) != len(names) for cells in rows):
        return []
    return [dict(zip(names, (cell.strip('"') for cell in cells), strict=True)) for cells in rows]


def _bad_quoting(where: str, path: Path, record: list[str], error: str) -> InputError:
    """Return the error for a record whose quotes do not pair up, with the cause that its lines show."""
    if any('\\"' in line for line in record):
        what = "a quote inside a cell is escaped with a backslash; csv doubles it instead"
        return InputError(where, what, f"convert it: sed 's/\\\\\"/\"\"/g' '{path}' > '{path.with_stem(path.stem + '-doubled')}'")
    if "expected after" in error:
        what = "a cell begins with a quote and goes on after the next quote"
        do = 'quote the cell and double the quotes in it: """soon"" they said"; or close the quote; or use a tsv file'
        return InputError(where, what, do)
    return InputError(where, error, "close the quote that opens on that line, or raise data.max_row_bytes")
