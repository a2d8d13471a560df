"""Positions of what the page draws, in percent of a plot's width or height. Pure."""

from collections.abc import Mapping, Sequence
from math import ceil, floor
from typing import Any, NamedTuple

STEP = 0.1  # of an axis of shares


class Axis(NamedTuple):
    """An axis of shares; its ends are whole steps."""

    low: float
    high: float

    def at(self, share: float) -> float:
        """Return the place of a share, 0 to 100."""
        return 100 * min(1.0, max(0.0, (share - self.low) / (self.high - self.low)))


class IntervalMark(NamedTuple):
    """A score with its interval on an axis; `low` and `high` equal the value where no interval is known."""

    name: str
    value: float
    low: float
    high: float
    control: float | None
    above_control: Mapping[str, float] | None
    axis: Axis

    @property
    def has_interval(self) -> bool:
        """Return whether the interval is known."""
        return self.high > self.low

    def at(self, share: float) -> float:
        """Return the place of a share."""
        return self.axis.at(share)


class CalibrationPoint(NamedTuple):
    """A bin of predictions of similar confidence."""

    confidence: float
    accuracy: float
    share: float  # of the rows

    @property
    def radius(self) -> float:
        """Return the radius of a dot whose area grows with the share of rows."""
        return 2.0 + 9.0 * float(self.share**0.5)


def axis_of(shares: Sequence[float]) -> Axis:
    """Return an axis from the step below the smallest share to 1.

    >>> axis_of([0.76, 0.69])
    Axis(low=0.6, high=1.0)
    """
    return Axis(min(1 - STEP, floor(min(shares) / STEP) * STEP), ceil(max(1.0, *shares) / STEP) * STEP)


def interval_marks(scores: Mapping[str, Any], intervals: Mapping[str, Any], names: Mapping[str, str]) -> list[IntervalMark]:
    """Return a mark for each named score of metrics.json, on one axis."""
    test, control = scores.get("test", {}), scores.get("control", {})
    known = [name for name in names if name in test]
    if not known:
        return []
    ranges = {name: intervals.get(name) or {"low": test[name], "high": test[name]} for name in known}
    axis = axis_of([*(ranges[name]["low"] for name in known), *(control[name] for name in known if name in control)])
    return [
        IntervalMark(
            names[name], test[name], ranges[name]["low"], ranges[name]["high"], control.get(name),
            intervals.get(f"{name}_above_control"), axis,
        )
        for name in known
    ]  # fmt: skip


def class_marks(classes: Mapping[str, Any]) -> list[tuple[IntervalMark, Mapping[str, Any]]]:
    """Return the F1 of each class with its scores, the weakest first."""
    ordered = sorted(classes.items(), key=lambda item: (float(item[1]["f1"]["value"]), item[0]))
    if not ordered:
        return []
    axis = Axis(0.0, 1.0)
    return [
        (IntervalMark(label, score["f1"]["value"], score["f1"]["low"], score["f1"]["high"], None, None, axis), score)
        for label, score in ordered
    ]
