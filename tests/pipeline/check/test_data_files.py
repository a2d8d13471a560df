"""A check of data reports every error of every file, and shows the rows that are set aside."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from pipeline.check.data_files import check_data
from pipeline.errors import EvergreenError, collecting
from pipeline.params import Params

HEADER = "text,label\n"
ROWS = "".join(f"{label} text {n},{label}\n" for label in ("track", "refund") for n in range(60))


class Checked(NamedTuple):
    """The findings as lines, and the errors as lines."""

    findings: list[str]
    errors: list[str]


Check = Callable[..., Checked]


@pytest.fixture
def check(params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Check:
    """Return a function that checks these files."""
    monkeypatch.chdir(tmp_path)

    def run(
        source: str | bytes, test: str = HEADER, unlabelled: str = "text\n", outside: str = "text\n", **settings: object
    ) -> Checked:
        Path("mine.csv").write_bytes(source if isinstance(source, bytes) else source.encode())
        Path("test.csv").write_text(test)
        Path("unlabelled.csv").write_text(unlabelled)
        Path("outside.csv").write_text(outside)
        files = {"source": Path("mine.csv"), "test": Path("test.csv"), "unlabelled": Path("unlabelled.csv")}
        abstain = params.abstain.model_copy(update={"out_of_scope": Path("outside.csv")})
        checked = params.model_copy(update={"data": params.data.model_copy(update=files | settings), "abstain": abstain})
        findings: list[str] = []
        errors: list[EvergreenError] = []
        with collecting(errors):
            for finding in check_data(checked):
                findings.append(f"{finding.mark}: {finding.text}")  # noqa: PERF401 (those before an error count too)
        return Checked(findings, [f"{error.where}: {error.what}" for error in errors])

    return run


def test_good_data_is_described_and_has_no_errors(check: Check) -> None:
    checked = check(HEADER + ROWS)
    assert checked.errors == []
    assert checked.findings[0] == "passed: mine.csv: 120 rows, 2 classes of 60 to 60 rows, 0 rows set aside"
    assert checked.findings[1].startswith("passed: split: ")


def test_every_error_of_a_file_is_reported_at_once(check: Check) -> None:
    """Encoding, spelling, bad rows and a small class were four runs, one error each."""
    bad = ",track\n" * 6 + "no label,\n" * 2 + "a,b,c\n"
    source = (HEADER + ROWS + "one,Track\ntwo,Track\n" + bad + "alone,tiny\n").encode() + b"caf\xe9,track\ncr\xe8me,track\n"
    errors = check(source).errors
    assert errors == [
        "mine.csv, line 134: byte 4 (0xe9) is not UTF-8; 1 more lines are not either",
        "mine.csv, line 122: the label `Track` is also spelt `track` (mine.csv, line 2); rows: 2 and 62",
        "mine.csv, line 124: 9 of 134 rows are not usable (6 × text is empty, 2 × label is missing, "
        "1 × the header has 2 fields, this row 3); the first: text is empty",
        "the split: classes with fewer than 2 test rows, or none to train on: tiny (1 row)",
    ]


def test_rows_that_are_set_aside_are_counted_by_reason_with_examples(check: Check) -> None:
    findings = check(HEADER + ROWS + ",track\n" * 5 + "same,track\nsame,refund\n", max_quarantined_share=0.5).findings
    assert findings[:9] == [
        "passed: mine.csv: 120 rows, 2 classes of 60 to 60 rows, 7 rows set aside",
        "detail: 5 × text is empty",
        'detail:     line 122: {"text": "", "label": "track"}',
        'detail:     line 123: {"text": "", "label": "track"}',
        'detail:     line 124: {"text": "", "label": "track"}',
        "detail:     and 2 more",
        "detail: 2 × the same text has several labels",
        'detail:     line 127: refund, track; line 128 has it too: {"text": "same", "label": "track"}',
        'detail:     line 128: refund, track; line 127 has it too: {"text": "same", "label": "refund"}',
    ]


def test_a_long_row_is_shown_by_its_beginning(check: Check) -> None:
    findings = check(HEADER + ROWS + f"{'long ' * 2000},track\n").findings
    (shown,) = [line for line in findings if "line 122" in line]
    assert len(shown) < 250
    assert shown.endswith("…")


def test_both_columns_that_are_missing_are_named(check: Check) -> None:
    errors = check("message,topic\nhello,track\n").errors
    assert [error.partition("`")[0].partition(" columns")[0] for error in errors] == ["mine.csv: it has none of the"] * 2
    assert "text, utterance" in errors[0]
    assert "label, category" in errors[1]


def test_errors_of_all_files_are_reported_together(check: Check) -> None:
    errors = check(
        HEADER + ROWS.replace("refund", "track"),
        test="text,label\nhello,\nand,track\nso,other\n",
        unlabelled="words\nhello\n",
    ).errors
    assert [error.partition(":")[0] for error in errors] == ["test.csv, line 2", "mine.csv", "mine.csv", "unlabelled.csv"]
    assert "1 test rows are not usable" in errors[0]
    assert "all rows have one label: track" in errors[1]
    assert "the test file has 1 labels that no row here has: `other`" in errors[2]


def test_rows_before_a_fault_that_ends_the_file_are_examined(check: Check) -> None:
    source = HEADER + "a,track\nb,Track\n" + ",track\n" * 3 + 'x,"never closed\n' + "b,refund\n" * 3
    errors = check(source).errors
    assert [error.partition(": ")[0] for error in errors] == ["mine.csv, line 7", "mine.csv, line 3", "mine.csv, line 4"]
    assert not any("classes" in error for error in errors)  # a part of the file says nothing about them


def test_a_file_without_rows_is_one_error(check: Check) -> None:
    assert check(HEADER).errors == ["mine.csv: the file has no rows"]


def test_a_header_that_is_not_utf8_is_one_error(check: Check) -> None:
    assert check(b"t\xe9xt,label\na,b\n").errors == ["mine.csv, line 1: byte 2 (0xe9) is not UTF-8"]


def test_repeated_and_nearly_equal_texts_are_counted(check: Check) -> None:
    words = "where is the parcel that I ordered from you last week on monday or"
    findings = check(HEADER + ROWS + f"track text 1,track\n{words} tuesday,track\n{words} friday,track\n").findings
    assert "detail: 1 rows repeat a text with its label, and count once" in findings
    assert "detail: 1 pairs of texts are nearly equal: all stay (data.near_duplicates: report)" in findings


def test_out_of_scope_texts_are_counted_and_those_of_the_source_left_out(check: Check) -> None:
    findings, errors = check(HEADER + ROWS, outside="text\nwhat is the weather\ntrack text 3\nTell me a joke\n")
    assert not errors
    wanted = "outside.csv: 3 out-of-scope texts, 1 of them left out because they are rows of the source or test file"
    assert any(wanted in line for line in findings)
    assert any("outside.csv" in error for error in check(HEADER + ROWS, outside="words\nhello\n").errors)
