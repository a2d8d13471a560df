"""Rows that a caller holds as Python values, accepted or refused by the rules of stage `ingest`. Knows no file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.data.columns import Columns, Row, merged_labels
from pipeline.data.given_labels import label_rules
from pipeline.data.labelled_files import ROW, TEST_ROW, LabelledFile, LocatedExample, QuarantinedRow, read_row
from pipeline.errors import InputError, raise_all
from pipeline.params import Params
from pipeline.stages.ingest import IngestResult, SourceNames, merge

NAMES = SourceNames(Path("the rows"), Path("the test rows"))
NO_ROWS = LabelledFile([], [], [])


class GivenRows(NamedTuple):
    """Texts, their labels, and the groups of rows that stay on one side of the split."""

    texts: Sequence[Any]
    labels: Sequence[Any]
    groups: Sequence[Any] | None = None


def accept(given: GivenRows, test: GivenRows | None, params: Params) -> IngestResult:
    """Validate, merge and de-duplicate; raise `InputError` for every fault for which a file would be refused."""
    source = _labelled(given, ROW, params)
    tested = _labelled(test, TEST_ROW, params) if test else NO_ROWS
    accepted = merge(source, NO_ROWS, tested, NAMES, params.data, label_rules(params))
    raise_all(accepted.faults)
    return accepted


def _labelled(given: GivenRows, place: Path, params: Params) -> LabelledFile:
    _require_equal_lengths(given, place)
    if len(given.texts) > params.data.max_rows:
        what = f"there are {len(given.texts):,} rows, and data.max_rows is {params.data.max_rows:,}"
        raise InputError(str(NAMES.rows), what, "give fewer rows, or raise data.max_rows")
    group = "group" if given.groups is not None else None
    merged, is_html = tuple(merged_labels(params.data).items()), params.data.html == "decode"
    columns = Columns("text", "label", group, merged, is_html)
    groups = given.groups if given.groups is not None else [None] * len(given.texts)
    good: list[LocatedExample] = []
    bad: list[QuarantinedRow] = []
    for line, (text, label, group) in enumerate(zip(given.texts, given.labels, groups, strict=True), start=1):
        read = read_row(place, Row(line, {"text": text, "label": label, "group": group}), columns, params.data)
        if isinstance(read, LocatedExample):
            good.append(read)
        else:
            bad.append(read)
    return LabelledFile(good, bad, [])


def _require_equal_lengths(given: GivenRows, place: Path) -> None:
    rows = len(given.texts)
    if not rows:
        raise InputError(f"the {place}s", "there are none", "give texts and the label of each")
    for name, values in (("labels", given.labels), ("groups", given.groups)):
        if values is not None and len(values) != rows:
            what = f"there are {rows:,} texts and {len(values):,} {name}"
            raise InputError(f"the {place}s", what, f"give one of the {name} for each text, in the same order")
