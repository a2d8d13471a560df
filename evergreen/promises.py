"""What has to hold, with a verdict: the scorecards of `make loop` and `make drill`."""

from collections.abc import Mapping, Sequence
from math import inf, isfinite, isnan
from typing import Any, NamedTuple

from rich.markup import escape
from rich.table import Table


class Promise(NamedTuple):
    """Something that has to hold whatever happens: a number between two bounds."""

    what: str
    value: float
    unit: str
    at_most: float = inf
    at_least: float = -inf
    goal: str = ""  # row of the goals

    @property
    def is_kept(self) -> bool:
        """Whether the number is within its bounds; NaN, a number that is not there, is not."""
        return self.at_least <= self.value <= self.at_most

    @property
    def measured(self) -> str:
        """As people write it."""
        return f"{shown(self.value)} {self.unit}" if isfinite(self.value) else shown(self.value)

    @property
    def bounds(self) -> str:
        """As people write them."""
        if self.at_most == self.at_least:
            return f"= {number(self.at_most)}"
        return f"≤ {number(self.at_most)}" if self.at_most < inf else f"≥ {number(self.at_least)}"


class Outcome(NamedTuple):
    """Something that was run to its end; `figures` are values of JSON, `notes` are for people."""

    name: str
    title: str
    promises: Sequence[Promise]
    notes: Sequence[str]
    figures: Mapping[str, Any]

    @property
    def is_kept(self) -> bool:
        """Whether no promise was broken."""
        return all(promise.is_kept for promise in self.promises)


def table(outcome: Outcome) -> Table:
    """The scorecard for the terminal."""
    made = Table("promise", "measured", "has to be", "", title=f"{outcome.name}: {outcome.title}", title_justify="left")
    for one in outcome.promises:
        verdict = "[green]kept[/]" if one.is_kept else "[bold red]broken[/]"
        goal = f" ({one.goal})" if one.goal else ""
        made.add_row(escape(one.what + goal), one.measured, one.bounds, verdict)
    return made


def shown(value: float) -> str:
    """A number for people; what never came is said so."""
    return "never" if value == inf else "nothing" if isnan(value) else number(value)


def number(value: float) -> str:
    """Three significant digits, thousands whole."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
