"""Text from outside, made safe to show: in a terminal, a log line or a header.

Nothing here changes what is stored: labels and texts stay as they were given, and only what people see is escaped.
"""

import json
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any, TextIO

# What a reader cannot see, and what changes the text around it. Joined emoji, Persian and Indic scripts need their joiners, and
# the flags of England, Scotland and Wales their tags: there they stay.
_VISIBLE = "[^\x00-\x9f\u2000-\u206f]"
_KEPT = f"(?<={_VISIBLE})[\u200c\u200d](?={_VISIBLE})|(?<=\U0001f3f4)[\U000e0030-\U000e007a]{{1,6}}\U000e007f"
_HIDDEN = (
    "[\x00-\x1f\x7f-\x9f"  # C0, DEL, C1: ESC and CSI start what a terminal obeys
    "\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f"  # soft hyphen, joiners, fillers
    "\u200b-\u200f\u2028-\u202e\u2060-\u206f"  # zero width, line and paragraph separators, bidi marks, overrides and isolates
    "\u3164\ufeff\uffa0\ufff0-\ufffb\ufffe\uffff"
    "\ud800-\udfff\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"  # lone surrogates, tags
)
_TOKEN = re.compile(f"({_KEPT})|{_HIDDEN}")
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def printable(text: str) -> str:
    r"""Return the text on one line, with everything that cannot be seen as an escape, such as `\x1b` or `\u202e`.

    Every letter and every emoji of any language stays.
    """
    return text if text.isascii() and text.isprintable() else _TOKEN.sub(_escape, text)


def printable_lines(text: str) -> str:
    """Return the text as `printable` does, but keep its line ends and tabs."""
    return "\n".join("\t".join(printable(part) for part in line.split("\t")) for line in text.split("\n"))


def indented(text: str) -> str:
    """Return text of several lines with all but the first indented, so that a quoted line cannot pass for a line of ours."""
    return text.replace("\n", "\n    ")


def join_names(names: Sequence[str], most: int = 5, quote: str = "`") -> str:
    """Return the first names as one text, and the number of the others."""
    shown = ", ".join(f"{quote}{name}{quote}" for name in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")


def plain_json(value: Any, indent: int | None = None, default: Callable[[Any], Any] | None = None) -> str:
    """Return JSON in visible ASCII, which any terminal can show and any program can read."""
    return json.dumps(value, indent=indent, default=default).replace("\x7f", "\\u007f")


def print_line(text: str, file: TextIO | None = None) -> None:
    """Print one line of plain text at once: line ends inside it are escaped."""
    _write(printable(text), file)


def print_lines(text: str, file: TextIO | None = None) -> None:
    """Print several lines of plain text at once."""
    _write(printable_lines(text), file)


def _write(text: str, file: TextIO | None) -> None:
    stream = file or sys.stdout
    encoding = getattr(stream, "encoding", None) or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding), file=stream, flush=True)


def _escape(match: re.Match[str]) -> str:
    character = match[0]
    if match[1]:
        return character
    if character in _SHORT:
        return _SHORT[character]
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
