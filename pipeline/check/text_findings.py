"""Findings in the texts of usable rows: personal data, HTML, error values of a spreadsheet. Each names its rows."""

import html
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from pipeline.check.check_line import CheckLine
from pipeline.check.personal_data import personal_data
from pipeline.data.labelled_files import LocatedExample
from pipeline.data.records import decode_html

MAX_LINES = 5  # named
ERROR_VALUE = re.compile(r"#(?:NAME\?|REF!|VALUE!|N/A|DIV/0!|NULL!|NUM!|NV|BEZUG!|WERT!|NOM\s?\?)")
MISSING = re.compile(r"(?i:nan|null|nat|undefined)")  # as programs write a value that is missing; `none` and `NA` can be labels
ENTITY = re.compile(r"&(?:[a-zA-Z]{2,8}|#\d{2,6}|#x[\da-fA-F]{2,5});")


def check_texts(rows: Sequence[LocatedExample], source: Path, *, is_html: bool) -> Iterator[CheckLine]:
    """Warn about texts that should not be trained on as they are."""
    yield from _personal(rows, source)
    if not is_html:
        remedy = "where clients send plain text, read it as such: -S data.html=decode"
        yield from warn("HTML in texts", [row for row in rows if _has_html(row.example.text)], source, remedy)
    remedy = "the cell began with = + - or @; format the column as text, enter it again and export it"
    yield from warn("an error value of a spreadsheet, such as #NAME?", _values(rows, ERROR_VALUE.fullmatch), source, remedy)
    remedy = "leave the cell empty where the file is written (in pandas: dropna before astype(str)), or remove the row"
    yield from warn("a word for a missing value, such as nan", _values(rows, MISSING.fullmatch), source, remedy)


def warn(what: str, rows: Sequence[LocatedExample], source: Path, remedy: str) -> Iterator[CheckLine]:
    """Yield a warning about these rows and what to do; nothing without rows."""
    if rows:
        yield CheckLine("warning", f"{what}: {places(rows, source)}")
        yield CheckLine("detail", remedy)


def places(rows: Sequence[LocatedExample], source: Path) -> str:
    """Say how many rows there are and on which lines; rows of another file than the source name that file."""
    named = [place(row, source) for row in rows[:MAX_LINES]]
    more = f" and {len(rows) - MAX_LINES} more" if len(rows) > MAX_LINES else ""
    return f"{len(rows)} {'row' if len(rows) == 1 else 'rows'} ({'; '.join(named)}{more})"


def place(row: LocatedExample, source: Path) -> str:
    """Return the line of a row, and its file where that is not the source."""
    return f"line {row.line}" if row.path == source else row.place


def _values(rows: Sequence[LocatedExample], is_match: Callable[[str], object]) -> list[LocatedExample]:
    """Return the rows whose whole text or label matches."""
    return [row for row in rows if is_match(row.example.text) or is_match(str(row.example.label))]


def _personal(rows: Sequence[LocatedExample], source: Path) -> Iterator[CheckLine]:
    by_kind: dict[str, list[LocatedExample]] = defaultdict(list)
    for row in rows:
        for kind in personal_data(row.example.text):
            by_kind[kind].append(row)
    for kind, found in by_kind.items():
        yield CheckLine("warning", f"texts may hold personal data, {kind}: {places(found, source)}")
    if by_kind:
        yield CheckLine("detail", "texts are copied to artifacts/ and to MLflow, and some travel with the model (golden answers)")
        yield CheckLine(
            "detail", "replace each by a word, such as IBAN, where the file is made; log.text says what serving stores"
        )


def _has_html(text: str) -> bool:
    """Return whether entities stand for characters, or tags for layout; code between back ticks does not count."""
    plain = re.sub(r"`[^`]*`", " ", text)
    return any(html.unescape(entity) != entity for entity in ENTITY.findall(plain)) or (
        "<" in plain and decode_html(plain) != html.unescape(plain)
    )
