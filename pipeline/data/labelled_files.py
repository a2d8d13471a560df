"""Reads files of labelled texts: usable rows as examples with their place, other rows with the reason why they are set aside."""

from collections import Counter, defaultdict
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from pipeline.data.columns import Columns, Row, find_columns
from pipeline.data.records import Example, describe_fault, make_example, normalise_label
from pipeline.data.row_files import describe_columns, read_rows, scan
from pipeline.data.text_lines import EncodingError
from pipeline.errors import EvergreenError, collecting
from pipeline.params import Data

ROW, TEST_ROW = Path("row"), Path("test row")  # in place of a file: rows that a caller of Python holds


class LocatedExample(NamedTuple):
    """An example with the file and line it came from."""

    example: Example
    path: Path
    line: int

    @property
    def place(self) -> str:
        """The file and the line, for people."""
        return _place(self.path, self.line)


class QuarantinedRow(NamedTuple):
    """A row set aside, and the reason."""

    path: Path
    line: int
    reason: str
    fields: dict[str, Any] | None

    @property
    def place(self) -> str:
        """The file and the line, for people."""
        return _place(self.path, self.line)

    @property
    def kind(self) -> str:
        """The reason without the details after its colon."""
        return self.reason.split(":")[0]


class LabelledFile(NamedTuple):
    """The acceptable and the bad rows of a file, and the faults of the file itself."""

    good: list[LocatedExample]
    bad: list[QuarantinedRow]
    faults: list[EvergreenError]

    @property
    def is_whole(self) -> bool:
        """Whether the file was read to its end."""
        return all(isinstance(fault, EncodingError) for fault in self.faults)


def read_labelled(path: Path, data: Data, columns: Columns | None = None, *, is_source: bool = False) -> LabelledFile:
    """Read one file up to its end or to the fault that ends it; without `columns`, look for them in the names of all rows."""
    scanned = scan(path, data)
    faults = [scanned.fault] if scanned.fault else []
    if scanned.names and columns is None:
        known_faults = len(faults)
        with collecting(faults):
            described = describe_columns(path, scanned.rows, data)
            columns = find_columns(path, scanned.names, data, must_hold_group=is_source, described=described)
        if len(faults) > known_faults:
            return LabelledFile([], [], faults)
    good: list[LocatedExample] = []
    bad: list[QuarantinedRow] = []
    joined: list[tuple[LocatedExample, Row]] = []
    for row in islice(read_rows(path, data), scanned.rows):
        read = read_row(path, row, columns, data)
        if isinstance(read, QuarantinedRow):
            bad.append(read)
            continue
        good.append(read)
        if row.alone:
            joined.append((read, row))
    if joined and columns:
        good, several = _without_joined(good, joined, columns.label)
        bad += several
    return LabelledFile(good, bad, faults)


def read_row(path: Path, row: Row, columns: Columns | None, data: Data) -> LocatedExample | QuarantinedRow:
    """Return the row as an example, or set aside with the reason."""
    if row.fields is None or columns is None:
        return QuarantinedRow(path, row.line, row.fault or "the row has no fields", row.fields)
    try:
        example = make_example(row.fields, columns, max_text_chars=data.max_text_chars, source=path.stem)
    except ValidationError as error:
        return QuarantinedRow(path, row.line, describe_fault(error), row.fields)
    if example.label is None:
        return QuarantinedRow(path, row.line, "label is missing", row.fields)
    return LocatedExample(example, path, row.line)


def _without_joined(
    good: list[LocatedExample], joined: list[tuple[LocatedExample, Row]], label_column: str
) -> tuple[list[LocatedExample], list[QuarantinedRow]]:
    """Set aside rows of several lines each of which is a whole row with a label that other rows have."""
    of_several = {row.line for _, row in joined}
    labels = {located.example.label for located in good if located.line not in of_several}
    bad = []
    for located, row in joined:
        if all(line.get(label_column) in labels for line in row.alone):
            reason = f"a quote joins {len(row.alone)} lines, each of which is a row without it"
            bad.append(QuarantinedRow(located.path, row.line, reason, row.fields))
    lines = {row.line for row in bad}
    return [located for located in good if located.line not in lines], bad


def read_feedback(folder: Path, data: Data) -> LabelledFile:
    """Read all files of labels from people as one."""
    files = [path for path in sorted(folder.glob("*.jsonl")) if path.stat().st_size]
    read = [read_labelled(path, data, Columns("text", "label")) for path in files]
    return LabelledFile(
        [row for file in read for row in file.good],
        [row for file in read for row in file.bad],
        [fault for file in read for fault in file.faults],
    )


class SpellingVariant(NamedTuple):
    """A label that is also spelt in another way: the first row and the number of rows of both spellings."""

    row: LocatedExample
    rows: int
    usual: LocatedExample  # the spelling that comes first
    usual_rows: int


def spelling_variants(located: list[LocatedExample]) -> list[SpellingVariant]:
    """Return every label that differs from an earlier one in case, `_`, `-` and white space alone."""
    counts = Counter(str(row.example.label) for row in located)
    first_rows: dict[str, LocatedExample] = {}
    for row in located:
        first_rows.setdefault(str(row.example.label), row)
    usual: dict[str, str] = {}
    variants = []
    for label, row in first_rows.items():
        first = usual.setdefault(normalise_label(label), label)
        if first != label:
            variants.append(SpellingVariant(row, counts[label], first_rows[first], counts[first]))
    return variants


def without_conflicts(located: list[LocatedExample]) -> tuple[list[LocatedExample], list[QuarantinedRow]]:
    """Set aside texts that have several labels in one file, because none of the labels is known to be right."""
    first_by_label: dict[str, dict[str, LocatedExample]] = defaultdict(dict)  # of each text
    for row in located:
        first_by_label[row.example.id].setdefault(str(row.example.label), row)
    accepted: list[LocatedExample] = []
    conflicts: list[QuarantinedRow] = []
    for row in located:
        first = first_by_label[row.example.id]
        other = next((first[label] for label in first if label != row.example.label), None)
        if other is None:
            accepted.append(row)
        else:
            conflicts.append(QuarantinedRow(row.path, row.line, _conflict(row, other, sorted(first)), row.example.model_dump()))
    return accepted, conflicts


def _conflict(row: LocatedExample, other: LocatedExample, labels: list[str]) -> str:
    """Describe a conflict, and how equal the texts are."""
    alike = "" if other.example.text == row.example.text else ", but for case and punctuation"
    where = other.place if other.path == ROW else f"line {other.line}"
    return f"the same text has several labels: {', '.join(labels)}; {where} has it too{alike}"


def _place(path: Path, line: int) -> str:
    """Return `file.csv, line 7`, or `row 6` for a row of a caller's list, which counts from 0."""
    return f"{path} {line - 1}" if path in (ROW, TEST_ROW) else f"{path}, line {line}"
