"""Just enough PromQL to find the metrics and labels that an expression selects."""

import re
from collections.abc import Iterator

KEYWORDS = {"by", "on", "without", "ignoring", "group_left", "group_right", "and", "or", "unless", "offset", "bool", "NaN", "Inf"}
LABEL_LISTS = re.compile(r"\b(?:by|on|without|ignoring|group_left|group_right)\s*\([^)]*\)")
NAME = re.compile(r"(?<![\w.$])[A-Za-z_:][\w:]*")


def selectors(expression: str) -> Iterator[tuple[str, set[str]]]:
    """Yield (metric, labels that it matches on) of every selector."""
    text = LABEL_LISTS.sub(" ", re.sub(r"\[[^\]]*\]|offset \w+", "", expression))
    no_strings = re.sub(r'"[^"]*"', lambda match: '"' + "_" * (len(match[0]) - 2) + '"', text)
    names_only = re.sub(r'\{[^}]*\}|"[^"]*"', lambda match: " " * len(match[0]), no_strings)
    for match in NAME.finditer(names_only):
        following = names_only[match.end() :].lstrip()
        if match[0] in KEYWORDS or following.startswith("("):
            continue
        braces = re.match(r"\{([^}]*)\}", no_strings[match.end() :])
        yield match[0], set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", braces[1])) if braces else set()
