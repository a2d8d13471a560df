"""Style of YAML, Markdown and shell, as yamllint, markdownlint and shellcheck ask for it. A rule is a function over lines."""

import re
from collections.abc import Iterator

Fault = tuple[int, str]  # line, rule

AMBIGUOUS = re.compile(r"(?::|-)\s+(?:yes|no|on|off|y|n)\s*(?:\s#.*)?$", re.IGNORECASE)  # YAML 1.1 reads these as booleans
QUOTED = re.compile(r"'[^']*'|\"(?:[^\"$]|\$\([^)]*\)|\$)*\"")
BLOCK = re.compile(r"(?::|-)\s+[|>][+-]?\d?\s*(?:#.*)?$")  # a text follows, in lines that are indented further
HEADING = re.compile(r"(#{1,6})(\s*)(.*)")
FENCE = re.compile(r"\s*(`{3,}|~{3,})\s*(\S*)")


def text_faults(text: str) -> Iterator[Fault]:
    """Yield what is wrong with any text file."""
    lines = text.split("\n")
    if text and not text.endswith("\n"):
        yield len(lines), "the last line does not end"
    if text.endswith("\n\n"):
        yield len(lines), "empty lines at the end"
    for number, line in enumerate(lines, 1):
        if line != line.rstrip():
            yield number, "spaces at the end of a line"
        if "\t" in line:
            yield number, "a tab"


def yaml_faults(text: str) -> Iterator[Fault]:
    """Yield what is wrong with a YAML file, besides what its parser refuses."""
    yield from text_faults(text)
    block: int | None = None  # indentation of the key that a block scalar belongs to
    for number, line in enumerate(text.split("\n"), 1):
        indentation = len(line) - len(line.lstrip(" "))
        if block is not None and (not line.strip() or indentation > block):
            continue
        block = indentation if BLOCK.search(line) else None
        if indentation % 2 and not line.lstrip().startswith("#"):
            yield number, "indented by an odd number of spaces"
        if re.search(r"(?:^|\s)#[^\s!#]", QUOTED.sub("", line)):
            yield number, "no space after #"
        if AMBIGUOUS.search(line):
            yield number, "a word that old parsers read as a boolean"


def markdown_faults(text: str) -> Iterator[Fault]:
    """Yield what is wrong with a page."""
    yield from text_faults(text)
    level, titles, fence, before = 0, 0, "", ""
    lines = text.split("\n")
    for number, line in enumerate(lines, 1):
        opened = FENCE.match(line)
        if fence:
            fence = "" if opened and opened[1].startswith(fence) and not opened[2] else fence
        elif opened:
            fence = opened[1]
            if not opened[2]:
                yield number, "a code block without a language"
        elif heading := HEADING.fullmatch(line):
            depth, titles = len(heading[1]), titles + (heading[1] == "#")
            if heading[2] != " " or not heading[3] or heading[3].endswith((".", ":", "#")):
                yield number, "a heading that is not `# words`"
            if depth > level + 1:
                yield number, "a heading that skips a level"
            if before.strip():
                yield number, "no empty line above a heading"
            level = depth
        elif not line and not before:
            yield number, "two empty lines"
        before = line
    if fence:
        yield len(lines), "a code block without an end"
    if titles != 1:
        yield 1, f"{titles} titles"


def shell_faults(text: str) -> Iterator[Fault]:
    """Yield what is wrong with a Bash script."""
    yield from text_faults(text)
    lines = text.split("\n")
    if not lines[0].startswith("#!/usr/bin/env bash"):
        yield 1, "no line `#!/usr/bin/env bash`"
    code = [(number, line) for number, line in enumerate(lines, 1) if line.strip() and not line.startswith("#")]
    if not code or code[0][1] != "set -euo pipefail":
        yield 1, "the first command is not `set -euo pipefail`"
    for number, line in code:
        if "`" in line:
            yield number, "backticks: write $(…)"
        if re.search(r"\$[\w({@*]", QUOTED.sub("", line)):
            yield number, "an unquoted expansion"
