"""Progress on the terminal: a line for each event, the current state, and the share of correct answers as a curve."""

from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Group
from rich.live import Live
from rich.text import Text

from evergreen.loop.customers import CustomerMessage
from evergreen.loop.events import Event, Facts
from evergreen.loop.scorecard import curve
from pipeline.output.shares import percent
from pipeline.output.terminal import Terminal, styled

BLOCKS = " ▁▂▃▄▅▆▇█"
WIDTH, REPEATED_EVERY_S = 60, 15.0


class Display:
    """On a terminal the last lines are redrawn; elsewhere they are printed again every `REPEATED_EVERY_S`."""

    def __init__(self, console: Terminal) -> None:
        self._console = console
        self._live = Live(console=console, refresh_per_second=4, transient=True) if console.is_terminal else None
        self._printed: list[tuple[str, str]] = []
        self._repeated_s = 0.0

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._live:
            self._live.stop()

    def print_line(self, at_s: float, *parts: str | Text) -> None:
        """Print one line with its time."""
        self._console.print(styled(_clock(at_s), "dim"), "", *parts)

    def show(self, now_s: float, events: Sequence[Event], facts: Facts, messages: Sequence[CustomerMessage]) -> None:
        """Print new events and redraw the state."""
        for event in events:
            if (event.name, event.detail) not in self._printed:
                self._printed.append((event.name, event.detail))
                self.print_line(event.at_s, styled(event.name, "bold"), "", event.detail)
        state = _state(now_s, facts, messages)
        if self._live:
            self._live.update(Group("", _quality(messages), state))
        elif now_s - self._repeated_s >= REPEATED_EVERY_S:
            self._repeated_s = now_s
            self.print_line(now_s, styled(f"{state}; {_quality(messages)}", "dim"))


def _state(now_s: float, facts: Facts, messages: Sequence[CustomerMessage]) -> str:
    failed = sum(not message.version for message in messages)
    parts = [f"{len(messages)} messages sent, {failed} not answered"]
    if facts.retrain and facts.retrain["state"] == "running":
        progress = facts.retrain["progress"] if facts.retrain["step"] == "reproduce" else ""
        parts.append(f"retrain: {facts.retrain['step']} {progress}".rstrip())
    return f"{_clock(now_s)}  " + ", ".join(parts)


def _quality(messages: Sequence[CustomerMessage]) -> str:
    points = curve(messages)
    if not points:
        return "quality: not enough answers yet"
    shown = [points[round(at * (len(points) - 1) / (WIDTH - 1))][1] for at in range(min(WIDTH, len(points)))]
    blocks = "".join(BLOCKS[round(share * (len(BLOCKS) - 1))] for share in shown)
    return f"correct answers: {blocks} {percent(points[-1][1])}"


def _clock(at_s: float) -> str:
    return f"{int(at_s // 60)}:{int(at_s % 60):02d}"
