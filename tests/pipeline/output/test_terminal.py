"""What a command prints is never markup and never moves the cursor, whatever is in it."""

import io
from collections.abc import Callable

import pytest
from rich.console import RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from pipeline.output.plain_text import printable
from pipeline.output.terminal import Terminal, joined, styled
from tests.hostile_text import HOSTILE, ORDINARY, is_plain


def shown(*parts: RenderableType, **options: object) -> str:
    """Return what a terminal gets."""
    file = io.StringIO()
    Terminal(file=file, width=1_000_000, **options).print(*parts)
    return file.getvalue()


def table(text: str) -> Table:
    made = Table(text, title=text)
    made.add_row(text)
    return made


def tree(text: str) -> Tree:
    made = Tree(text)
    made.add(text)
    return made


FORMS: dict[str, Callable[[str], RenderableType]] = {
    "line": str,
    "table": table,
    "tree": tree,
    "styled": lambda text: styled(text, "red"),
    "text of rich": Text,
    "panel": Panel,
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: ascii(text[:20]))
def test_hostile_text_is_shown_whole_and_obeyed_nowhere(text: str, form: str) -> None:
    output = shown(FORMS[form](text))
    assert is_plain(output)
    if form != "text of rich":  # rich itself drops some controls there
        assert printable(text) in output


@pytest.mark.parametrize("text", ["[refund]", "[/track]", "[bold]x[/bold]", ":smile:"])
def test_a_label_in_brackets_is_a_label(text: str) -> None:
    assert shown("→", styled(text, "bold green"), f"by {text}") == f"→ {text} by {text}\n"


@pytest.mark.parametrize("text", ORDINARY)
def test_text_of_any_language_stays_as_it_is(text: str) -> None:
    assert shown(text) == f"{text}\n"


def test_one_string_is_one_line_unless_several_are_asked_for() -> None:
    assert shown("a\nb") == "a\\nb\n"
    file = io.StringIO()
    Terminal(file=file).print_lines("a\nb\x1b")
    assert file.getvalue() == "a\nb\\x1b\n"


def test_styles_come_from_styled_alone() -> None:
    output = shown(
        styled("✓", "green"), "[red]x", joined(styled("a", "bold"), "[b]"), force_terminal=True, color_system="standard"
    )
    assert output == "\x1b[32m✓\x1b[0m [red]x \x1b[1ma\x1b[0m[b]\n"
