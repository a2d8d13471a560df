"""Unlabelled texts: their reader, and the choice of those that may be trained on."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from pipeline.data.columns import NO_GROUP, TEXT_COLUMNS, Columns, cell, find_columns, group_column, present_name
from pipeline.data.records import Example, describe_fault, make_example
from pipeline.data.row_files import read_rows, scan_names
from pipeline.data.split_sides import side_of
from pipeline.errors import InputError
from pipeline.params import Data, Split


class UnlabelledTexts(NamedTuple):
    """Distinct texts of a file, and its unusable rows as `line: reason`."""

    texts: list[Example]
    bad: list[str]


def read_unlabelled(path: Path, data: Data) -> UnlabelledTexts:
    """Read text and group and ignore labels; raise `InputError` as stage `ingest` does."""
    names = scan_names(path, data)
    column = text_column(path, names, data) if names else ""
    columns = Columns("text", "label", "group" if group_column(data) else None)
    texts: dict[str, Example] = {}
    bad: list[str] = []
    rows = 0
    for row in read_rows(path, data):
        rows += 1
        if row.fields is None:
            bad.append(f"{row.line}: {row.fault}")
            continue
        fields = {"text": cell(row.fields, column), "group": row.fields.get(data.group_column)}
        try:
            example = make_example(fields, columns, max_text_chars=data.max_text_chars, source=path.stem)
        except ValidationError as error:
            bad.append(f"{row.line}: {describe_fault(error)}")
        else:
            texts.setdefault(example.id, example)
    if len(bad) > data.max_quarantined_share * rows:
        line, reason = bad[0].split(": ", 1)
        what = f"{len(bad)} of {rows} rows have no usable text; the first: {reason}"
        do = "correct the rows, or raise data.max_quarantined_share to continue without them"
        raise InputError(f"{path}, line {line}", what, do)
    return UnlabelledTexts(list(texts.values()), bad)


def text_column(path: Path, names: list[str], data: Data) -> str:
    """Return `data.text_column` when the file has it, else its only column with a usual name."""
    with suppress(InputError):
        return find_columns(path, names, data.model_copy(update={"label_column": names[0], "group_column": NO_GROUP})).text
    columns = [found for name in TEXT_COLUMNS if (found := present_name(name, names))]
    if len(columns) == 1:
        return columns[0]
    several = f"several columns could hold the texts: {', '.join(columns)}"
    what = several if columns else f"no column is named {', '.join(TEXT_COLUMNS)}"
    raise InputError(str(path), what, "give the file a header line in which one column is named `text`")


def trainable(unlabelled: list[Example], sides: Sequence[list[Example]], settings: Split, test_share: float) -> list[Example]:
    """Return the texts that are in no side and no held-out group, and that would not become test rows once labelled.

    `sides` are training, validation and test rows.
    """
    known_ids = {row.id for rows in sides for row in rows}
    held_out_groups = {row.group for rows in sides[1:] for row in rows if row.group}

    def is_trainable(row: Example) -> bool:
        side = side_of(row, settings.seed, val_share=settings.val_share, test_share=test_share)
        return row.id not in known_ids and row.group not in held_out_groups and side != "test"

    return [row for row in unlabelled if is_trainable(row)]
