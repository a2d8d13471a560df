"""Data as people bring it: `evergreen check` names each mistake with its row, and what it says to do ends in data that trains."""

import json
import re
import shlex
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

from pipeline.check.check_line import CheckLine
from pipeline.check.data_files import check_data
from pipeline.errors import EvergreenError, collecting
from pipeline.params.overrides import load_overridden
from tests.conftest import ROOT

OWN = Path("tests/evergreen/own_data")
GYM, BANK, ISSUES, ISSUES_TEST = (
    OWN / name for name in ("gym_requests.csv", "banco_consultas.jsonl", "issues.parquet", "issues_test.csv")
)
BANK_COLUMNS = ("data.text_column=mensaje.texto", "data.label_column=etiqueta")
ISSUE_COLUMNS = (f"data.test={ISSUES_TEST}", 'data.text_column="title,body"', "data.label_column=labels")
SETTING = re.compile(r"-S ('[^']*'|[\w./=-]+)")
ISSUE_ERRORS = ["line 16: 10 of 159 rows are not usable (8 × the row has several labels, 2 × label is missing)"]
ISSUE_WARNINGS = [
    "6 of 200 texts are longer than model.max_pieces = 128 tokens and are cut: "
    f"they lose 68% of their tokens; the longest, {ISSUES_TEST}, line 50, has 476"
]
PERSONAL = {  # what a text holds → the word in its place
    r"ES\d\d( \d{4}){5}": "IBAN",
    r"\+34 \d{3} \d{3} \d{3}|655 201 947": "TELÉFONO",
    r"4539 1488 0343 6467": "TARJETA",
    r"12345678Z": "DNI",
    r"[\w.]+@example\.com": "CORREO",
}


class Checked(NamedTuple):
    """The warnings, the details and the errors of a check, and the settings that its remedies name."""

    warnings: list[str]
    details: list[str]
    errors: list[str]
    settings: list[str]


def check(source: Path, *overrides: str) -> Checked:
    """Check a file under the overrides of a command line."""
    params = load_overridden(Path("params.yaml"), [f"data.source={source}", *overrides])
    lines: list[CheckLine] = []
    faults: list[EvergreenError] = []
    with collecting(faults):
        lines += check_data(params)  # extends by the lines before an error too
    errors = [f"{fault.where.removeprefix(f'{source}, ')}: {fault.what}" for fault in faults]
    advice = [line.text for line in lines] + [fault.do for fault in faults]
    settings = [shlex.split(setting)[0] for text in advice for setting in SETTING.findall(text)]
    by_mark = {mark: [line.text for line in lines if line.mark == mark] for mark in ("warning", "detail")}
    return Checked(by_mark["warning"], by_mark["detail"], errors, settings)


@pytest.fixture(autouse=True)
def _in_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def test_the_gym_without_settings_names_encoding_and_columns() -> None:
    encoding, column = check(GYM).errors
    assert encoding == "line 6: byte 2 (0xfc) is not UTF-8; 20 more lines are not either"
    assert column == f"{GYM}: it has none of the columns text, utterance, query, sentence"


def test_every_mistake_of_the_gym_is_named_with_its_rows() -> None:
    found = check(GYM, "data.text_column=message")
    assert found.warnings == [
        "the label `Lost and found`, 2 rows (line 80; line 211), may be a misspelling of `Lost & found`, 20 rows",
        "the label `memberhsip`, 3 rows (line 100; line 151; line 295), may be a misspelling of `membership`, 6 rows",
        "an error value of a spreadsheet, such as #NAME?: 2 rows (line 116; line 258)",
    ]
    assert [error.partition("; the first")[0] for error in found.errors] == [
        "line 6: byte 2 (0xfc) is not UTF-8; 20 more lines are not either",
        f"line 26: the label `Membership` is also spelt `membership` ({GYM}, line 7); rows: 16 and 6",
        "line 53: 10 of 279 rows are not usable "
        "(7 × text is empty, 2 × the same text has several labels, 1 × label is missing)",
        "the split: classes with fewer than 2 test rows, or none to train on: "
        "Lost and found (2 rows), Sauna (2 rows), memberhsip (3 rows)",
    ]  # fmt: skip
    assert "7 rows repeat a text with its label, and count once" in found.details


def test_the_remedies_for_the_gym_end_in_data_that_trains(tmp_path: Path) -> None:
    converted = tmp_path / "gym.csv"
    converted.write_bytes(
        subprocess.run(["iconv", "-f", "WINDOWS-1252", "-t", "UTF-8", GYM], check=True, capture_output=True).stdout
    )
    found = check(GYM, "data.text_column=Message")
    merge = next(setting for setting in found.settings if setting.count("=") > 2)
    others = [setting for setting in found.settings if not setting.startswith("data.merge_labels")]
    assert others == ["data.max_quarantined_share=0.04", "split.small_classes=keep"]
    mended = check(converted, "data.text_column=Message", merge, *others)
    assert (mended.errors, len(mended.warnings)) == ([], 1)  # the cells that hold #NAME? are set aside


def test_the_bank_without_settings_shows_nested_keys_and_what_they_hold() -> None:
    params = load_overridden(Path("params.yaml"), [f"data.source={BANK}"])
    faults: list[EvergreenError] = []
    with collecting(faults):
        list(check_data(params))
    for fault in faults:
        assert "mensaje.texto (" in fault.do
        assert "etiqueta (11 different values)" in fault.do


def test_every_mistake_of_the_bank_is_named_with_its_rows() -> None:
    found = check(BANK, *BANK_COLUMNS)
    assert found.warnings[:-1] == [
        "the label `hipotecas`, 3 rows (line 213; line 236; line 244), may be a misspelling of `hipoteca`, 26 rows",
        "a number as label among words: 1 row (line 175)",
        "texts may hold personal data, account number (IBAN): 2 rows (line 6; line 7)",
        "texts may hold personal data, card number: 1 row (line 108)",
        "texts may hold personal data, telephone number: 2 rows (line 136; line 216)",
        "texts may hold personal data, identity number: 1 row (line 216)",
        "HTML in texts: 9 rows (line 52; line 101; line 112; line 129; line 174 and 4 more)",
    ]
    assert found.warnings[-1].startswith("these texts are hardly English")
    assert [error.partition("; the first")[0] for error in found.errors] == [
        "line 48: 11 of 268 rows are not usable (8 × the same text has several labels, 1 × label is missing, "
        "1 × text is too long, 1 × not valid JSON)",
        "the split: classes with fewer than 2 test rows, or none to train on: 7 (1 row), hipotecas (3 rows)",
    ]
    assert "4 rows repeat a text with its label, and count once" in found.details  # accents composed and decomposed
    assert any(detail.strip().startswith("line 226: 5032 characters") for detail in found.details)


def test_the_bank_without_its_personal_data_trains(tmp_path: Path) -> None:
    mended = tmp_path / "bank.jsonl"
    rows = BANK.read_text(encoding="utf-8").splitlines()[:-1]  # the last one is cut
    text = "\n".join(row for row in rows if json.loads(row)["etiqueta"] != 7)
    for pattern, word in PERSONAL.items():
        text = re.sub(pattern, word, text)
    mended.write_text(text, encoding="utf-8")
    settings = ("data.html=decode", 'data.merge_labels="hipotecas=hipoteca"', "data.max_quarantined_share=0.05")
    found = check(mended, *BANK_COLUMNS, *settings)
    assert found.errors == []
    assert [warning.partition(":")[0] for warning in found.warnings] == ["these texts are hardly English"]


def test_every_mistake_of_the_bug_reports_is_named_with_its_rows() -> None:
    found = check(ISSUES, *ISSUE_COLUMNS)
    assert [error.partition("; the first")[0] for error in found.errors] == ISSUE_ERRORS
    assert found.warnings == ISSUE_WARNINGS
    assert "9 rows are in the test file too, and are left out of training" in found.details


def test_the_bug_reports_train_with_the_settings_that_the_messages_name() -> None:
    settings = check(ISSUES, *ISSUE_COLUMNS).settings
    assert check(ISSUES, *ISSUE_COLUMNS, *settings).errors == []


def test_a_column_of_lists_alone_is_read_by_its_labels() -> None:
    """Every row was set aside: "label is not a text: a list"."""
    found = check(ISSUES, f"data.test={ISSUES_TEST}", "data.text_column=title", "data.label_column=labels")
    assert not any("is not a text" in detail for detail in found.details)
