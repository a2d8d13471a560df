"""Text from outside is shown on one line, whole and visible."""

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import InputError
from pipeline.output.plain_text import plain_json, print_line, print_lines, printable, printable_lines
from tests.hostile_text import CONTROLS, HOSTILE, INVISIBLE, ORDINARY, is_plain


@pytest.mark.parametrize("text", ORDINARY)
def test_text_of_any_language_stays_as_it_is(text: str) -> None:
    assert printable(text) == text


@pytest.mark.parametrize("character", CONTROLS + INVISIBLE, ids=ascii)
def test_what_cannot_be_seen_becomes_a_visible_escape(character: str) -> None:
    shown = printable(f"a{character}b")
    assert shown.isprintable()
    assert shown.startswith("a\\")
    assert shown.endswith("b")


def test_escapes_are_those_that_programmers_know() -> None:
    assert printable("a\x1b[31mb\x9b\x7f\n\r\t\u202e\U000e0041\ud83d") == r"a\x1b[31mb\x9b\x7f\n\r\t\u202e\U000e0041\ud83d"


def test_a_joiner_that_joins_nothing_is_shown() -> None:
    assert printable("pay\u200dment") == r"pay\u200dment"
    assert printable("\u200d👍\u200d") == r"\u200d👍\u200d"


@given(st.text(st.characters(categories=["C", "Z", "L", "P", "M", "S", "N"])))
def test_nothing_that_a_terminal_obeys_is_left_in_any_text(text: str) -> None:
    assert is_plain(printable(text), allowed="")
    assert is_plain(printable_lines(text), allowed="\n\t")
    assert len(printable(text)) >= len(text)


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: ascii(text[:20]))
def test_an_error_quotes_hostile_text_in_lines_of_our_own(text: str) -> None:
    shown = str(InputError(text, f"there is a label {text}", "mend the row"))
    assert is_plain(shown, allowed="\n\t")
    first, *others = shown.split("\n")
    assert first.startswith(printable(text)[:50])
    assert [line for line in others if not line.startswith("  ")] == []
    assert [line for line in others if line.startswith("  what to do:")] == ["  what to do: mend the row"]


def test_print_line_prints_one_line_and_print_lines_several() -> None:
    file = io.StringIO()
    print_line("a\nb\x1b", file)
    print_lines("c\nd\x1b", file)
    assert file.getvalue() == "a\\nb\\x1b\nc\nd\\x1b\n"


def test_a_terminal_that_knows_only_ascii_gets_escapes() -> None:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, "ascii", write_through=True)
    print_line("→ naïve", file)
    assert raw.getvalue() == b"\\u2192 na\\xefve\n"


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: ascii(text[:20]))
def test_json_for_terminals_is_visible_ascii_that_programs_read(text: str) -> None:
    shown = plain_json({"label": text})
    assert shown.isascii()
    assert is_plain(shown)
    assert json.loads(shown) == {"label": text}
