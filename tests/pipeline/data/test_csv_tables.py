"""A label in a csv table is a label in a spreadsheet too."""

import csv
from pathlib import Path

from pipeline.data.csv_tables import COMPUTED, write_csv
from tests.hostile_text import HOSTILE


def test_no_cell_is_a_formula_and_every_label_is_whole(tmp_path: Path) -> None:
    labels = [text for text in HOSTILE if text.isprintable()]
    write_csv(tmp_path / "classes.csv", ("label", "rows"), [(label, -1) for label in labels])
    with (tmp_path / "classes.csv").open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["label", "rows"]
    assert [label.removeprefix("'") for label, _ in rows] == [label.removeprefix("'") for label in labels]
    assert [label for label, _ in rows if label.startswith(COMPUTED)] == []
    assert {number for _, number in rows} == {"-1"}
