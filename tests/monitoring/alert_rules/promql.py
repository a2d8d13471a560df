"""Just enough of PromQL to say which metrics and labels an expression asks for."""

import re
from collections.abc import Iterator

WORDS = {"by", "on", "without", "ignoring", "group_left", "group_right", "and", "or", "unless", "offset", "bool", "NaN", "Inf"}
LISTS = re.compile(r"\b(?:by|on|without|ignoring|group_left|group_right)\s*\([^)]*\)")
NAME = re.compile(r"(?<![\w.$])[A-Za-z_:][\w:]*")


def selectors(expression: str) -> Iterator[tuple[str, set[str]]]:
    """(metric, labels it is chosen by) of every selector."""
    text = LISTS.sub(" ", re.sub(r"\[[^\]]*\]|offset \w+", "", expression))
    bare = re.sub(r'"[^"]*"', lambda found: '"' + "_" * (len(found[0]) - 2) + '"', text)
    hidden = re.sub(r"\{[^}]*\}", lambda found: " " * len(found[0]), re.sub(r'"[^"]*"', lambda f: " " * len(f[0]), bare))
    for found in NAME.finditer(hidden):
        after = hidden[found.end() :].lstrip()
        if found[0] in WORDS or after.startswith("("):
            continue
        braces = re.match(r"\{([^}]*)\}", bare[found.end() :])
        yield found[0], set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", braces[1])) if braces else set()
