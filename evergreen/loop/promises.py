"""Promises with a measured value and a verdict: the scorecards of `make loop` and `make drill`."""

from collections.abc import Mapping, Sequence
from math import inf, isfinite, isnan
from typing import Any, NamedTuple

from rich.table import Table

from pipeline.output.terminal import styled


class Promise(NamedTuple):
    """A measured value and the bounds that it has to keep."""

    what: str
    value: float
    unit: str
    at_most: float = inf
    at_least: float = -inf
    goal: str = ""  # row id of the goals

    @property
    def is_kept(self) -> bool:
        """Return True when the value is within its bounds; NaN, a missing value, is not."""
        return self.at_least <= self.value <= self.at_most

    @property
    def measured(self) -> str:
        """Return the value as text, with its unit."""
        return f"{shown(self.value)} {self.unit}" if isfinite(self.value) else shown(self.value)

    @property
    def bounds(self) -> str:
        """Return the bounds as text."""
        if self.at_most == self.at_least:
            return f"= {number(self.at_most)}"
        return f"≤ {number(self.at_most)}" if self.at_most < inf else f"≥ {number(self.at_least)}"


class Outcome(NamedTuple):
    """The result of a loop or drill; `figures` are JSON values, `notes` are for people."""

    name: str
    title: str
    promises: Sequence[Promise]
    notes: Sequence[str]
    figures: Mapping[str, Any]

    @property
    def is_kept(self) -> bool:
        """Return True when every promise is kept."""
        return all(promise.is_kept for promise in self.promises)

    def promises_with_verdicts(self) -> list[dict[str, Any]]:
        """Return the promises as a report lists them."""
        return [{**promise._asdict(), "kept": promise.is_kept} for promise in self.promises]


def table(outcome: Outcome) -> Table:
    """Return the scorecard for the terminal."""
    rows = Table("promise", "measured", "has to be", "", title=f"{outcome.name}: {outcome.title}", title_justify="left")
    for promise in outcome.promises:
        verdict = styled("kept", "green") if promise.is_kept else styled("broken", "bold red")
        goal = f" ({promise.goal})" if promise.goal else ""
        rows.add_row(promise.what + goal, promise.measured, promise.bounds, verdict)
    return rows


def shown(value: float) -> str:
    """Format a value: infinity is `never`, NaN is `nothing`."""
    return "never" if value == inf else "nothing" if isnan(value) else number(value)


def number(value: float) -> str:
    """Format a number with three significant digits; thousands as whole numbers."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
