"""A line of `evergreen check`."""

from typing import Literal, NamedTuple

Mark = Literal["passed", "warning", "failed", "detail"]


class CheckLine(NamedTuple):
    """What a check has found, on one line; a detail belongs to the line before it."""

    mark: Mark
    text: str
