"""Writes csv tables that people open in a spreadsheet."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

from pipeline.atomic_write import atomic_write

COMPUTED = ("=", "+", "-", "@", "\t", "\r")  # first characters that make a spreadsheet compute a cell


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[str | int]]) -> None:
    """Write a table. A text that a spreadsheet would compute, such as `=cmd|…`, gets an apostrophe before it."""
    with atomic_write(path) as part, part.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *([safe_cell(cell) for cell in row] for row in rows)])


def safe_cell(cell: str | int) -> str | int:
    """Return the cell as a spreadsheet shows it and computes nothing."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(COMPUTED) else cell
