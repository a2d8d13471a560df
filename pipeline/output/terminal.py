"""The only console of every command: it prints plain text, and style comes from `styled` alone.

Rich reads `[red]` in a string as a style, which made the label `[refund]` print as nothing. Here no string is ever read: a style
is an object of its own.
"""

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from pipeline.output.plain_text import printable, printable_lines


class Terminal(Console):
    """A console whose strings are plain text: one string is one line, wherever it stands, in a table and a title too."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"highlight": False, "soft_wrap": True, "markup": False, "emoji": False, **options})

    def render_str(self, text: str, **options: Any) -> Text:
        """Return the string as text without markup; rich calls this for every string that it shows."""
        return super().render_str(printable(text), **{**options, "markup": False, "emoji": False, "highlight": False})

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render, and escape what came as an object of rich instead of a string."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=printable_lines(segment.text))

    def print_lines(self, text: str) -> None:
        """Print text of several lines, such as the end of a log."""
        self.print(*text.split("\n"), sep="\n")


def styled(text: str, style: str) -> Text:
    """Return text with a style, to be printed among plain strings."""
    return Text(printable(text), style)


def joined(*parts: str | Text) -> Text:
    """Return plain and styled parts as one piece, for a table cell, or to print them without blanks between."""
    return Text.assemble(*(part if isinstance(part, Text) else printable(part) for part in parts))
