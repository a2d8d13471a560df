"""Ticks of chart axes: round values, and round moments on the clock of the reader. Pure."""

import math
from collections.abc import Iterator
from datetime import datetime, timedelta, tzinfo
from typing import NamedTuple

MAX_TIMES = 8  # on an axis
MINUTE, HOUR, DAY = 60, 3600, 86_400
TIME_STEPS_S = (
    *(
        MINUTE,
        2 * MINUTE,
        5 * MINUTE,
        10 * MINUTE,
        15 * MINUTE,
        30 * MINUTE,
        HOUR,
        2 * HOUR,
        3 * HOUR,
        4 * HOUR,
        6 * HOUR,
        12 * HOUR,
    ),
    *(DAY, 2 * DAY, 7 * DAY, 14 * DAY, 28 * DAY),
)


class Tick(NamedTuple):
    """A value on an axis, or a moment in seconds of the epoch, and its text."""

    at: float
    text: str


def value_ticks(low: float, high: float, unit: str) -> list[Tick]:
    """Return three to six round values; the first is at most `low`, and the last at least `high`.

    >>> [tick.text for tick in value_ticks(0, 0.083, "s")]
    ['0 ms', '20 ms', '40 ms', '60 ms', '80 ms', '100 ms']
    """
    span = max(high - low, abs(high) * 1e-3, 1e-9)
    rough = span / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    last = max(last, first + 1)
    return [Tick(number * step, format_value(number * step, unit, step)) for number in range(first, last + 1)]


def format_value(value: float, unit: str, step: float | None = None) -> str:
    """Format a value with its unit: `s` (also as ms), `share` (as %), `per s`, or none; `step` sets the decimals."""
    if unit == "s":
        return (
            f"{_round(1000 * value, step and 1000 * step)} ms" if max(abs(value), step or 0) < 1 else f"{_round(value, step)} s"
        )
    if unit == "share":
        return f"{_round(100 * value, step and 100 * step)} %"
    if unit == "per s":
        return f"{_round(value, step)}/s"
    return _round(value, step)


def _round(value: float, step: float | None) -> str:
    """Return the value with the decimals of the step, or with three digits (and no zeros at their end)."""
    if step is None:
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    return f"{value + 0.0:,.{decimals}f}"


def time_ticks(start: float, end: float, zone: tzinfo | None = None) -> list[Tick]:
    """Return at most `MAX_TIMES` round moments from `start` to `end`, on the clock of this time zone (None: the machine's)."""
    for step_s in TIME_STEPS_S:
        if (end - start) / step_s <= MAX_TIMES - 1:
            break
    moments = [moment for moment in _round_moments(start, end, step_s, zone) if start <= moment <= end]
    return [Tick(moment, _clock(moment, step_s, zone)) for moment in moments]


def _round_moments(start: float, end: float, step_s: int, zone: tzinfo | None) -> Iterator[float]:
    """Yield increasing moments whose wall clock is a multiple of the step after a midnight."""
    first = datetime.fromtimestamp(start, zone).replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=None)
    if step_s > DAY:  # aligned to the same days, whatever the start
        first -= timedelta(days=first.toordinal() % (step_s // DAY))
    number, last = 0, -math.inf
    while True:
        moment = (first + timedelta(seconds=number * step_s)).replace(tzinfo=zone).timestamp()
        if moment > end:
            return
        if moment > last:  # an hour that the clock repeats or skips
            yield moment
            last = moment
        number += 1


def _clock(moment: float, step_s: int, zone: tzinfo | None) -> str:
    local = datetime.fromtimestamp(moment, zone)
    is_midnight = (local.hour, local.minute) == (0, 0)
    return f"{local.day} {local:%b}" if step_s >= DAY or is_midnight else f"{local:%H:%M}"


def local_time(moment: float, zone: tzinfo | None = None) -> str:
    """Format a moment for a table: `30 Nov 14:05:30`."""
    local = datetime.fromtimestamp(moment, zone)
    return f"{local.day} {local:%b %H:%M}" + (f":{local:%S}" if local.second else "")
