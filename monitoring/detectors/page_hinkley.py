"""Page-Hinkley test (Page 1954; Hinkley 1971) for a rise of a stream's mean, against the mean seen so far."""

from typing import NamedTuple


class PageHinkley(NamedTuple):
    """State after `rows` values; `statistic` is the drop of the cumulated deviation from its minimum."""

    rows: int
    mean: float
    total: float
    lowest: float

    @property
    def statistic(self) -> float:
        """How far the sum of (value − mean − slack) stands above its lowest."""
        return self.total - self.lowest


START = PageHinkley(0, 0.0, 0.0, 0.0)


def step(state: PageHinkley, value: float, slack: float) -> PageHinkley:
    """One value more; `slack` is the rise that is let pass, in the value's unit."""
    rows = state.rows + 1
    mean = state.mean + (value - state.mean) / rows
    total = state.total + value - mean - slack
    return PageHinkley(rows, mean, total, min(state.lowest, total))
