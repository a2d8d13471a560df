"""The time ranges of the page Live."""

from typing import NamedTuple

from monitoring.charts.lines import TimeAxis


class TimeRange(NamedTuple):
    """A range that a person can choose; charts have a point for each step."""

    key: str  # in the address
    name: str
    seconds: int
    step_s: int  # a multiple of 30; of 600 from a day on, of 3600 from a week on (`counts.py`)

    def axis(self, now: float) -> TimeAxis:
        """Return the time axis that ends now."""
        return TimeAxis(now - self.seconds, now, self.step_s)


RANGES = (
    TimeRange("1h", "hour", 3_600, 30),
    TimeRange("6h", "6 hours", 21_600, 180),
    TimeRange("1d", "day", 86_400, 600),
    TimeRange("7d", "7 days", 7 * 86_400, 3_600),
    TimeRange("30d", "30 days", 30 * 86_400, 14_400),
    TimeRange("90d", "90 days", 90 * 86_400, 43_200),
)


def find_range(key: str) -> TimeRange:
    """Return the range with this key, or the first."""
    return next((chosen for chosen in RANGES if chosen.key == key), RANGES[0])
