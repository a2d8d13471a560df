"""What is seen of the loop while it turns: a line for each thing that happens, where it stands, and the quality as a curve."""

from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.text import Text

from evergreen.loop.customers import Asked
from evergreen.loop.events import Event, Facts
from evergreen.loop.scorecard import curve

BLOCKS = " ▁▂▃▄▅▆▇█"
WIDTH, TOLD_EVERY_S = 60, 15.0


class Display:
    """On a terminal the last lines change; elsewhere they are said again each quarter of a minute."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, refresh_per_second=4, transient=True) if console.is_terminal else None
        self._told: list[tuple[str, str]] = []
        self._said_s = 0.0

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._live:
            self._live.stop()

    def say(self, at_s: float, line: str) -> None:
        """One line, with the time before it."""
        self._console.print(f"[dim]{_clock(at_s)}[/]  {line}")

    def show(self, now_s: float, events: Sequence[Event], facts: Facts, asked: Sequence[Asked]) -> None:
        """What is new is said, what changes is drawn."""
        for event in events:
            if (event.name, event.detail) not in self._told:
                self._told.append((event.name, event.detail))
                self.say(event.at_s, f"[bold]{escape(event.name)}[/]  {escape(event.detail)}")
        standing = _standing(now_s, facts, asked)
        if self._live:
            self._live.update(Group(Text(""), Text(_quality(asked)), Text(standing)))
        elif now_s - self._said_s >= TOLD_EVERY_S:
            self._said_s = now_s
            self.say(now_s, f"[dim]{escape(standing)}; {escape(_quality(asked))}[/]")


def _standing(now_s: float, facts: Facts, asked: Sequence[Asked]) -> str:
    failed = sum(not one.version for one in asked)
    words = [f"{len(asked)} messages sent, {failed} not answered"]
    if facts.retrain and facts.retrain["state"] == "running":
        progress = facts.retrain["progress"] if facts.retrain["step"] == "reproduce" else ""
        words.append(f"retrain: {facts.retrain['step']} {progress}".rstrip())
    return f"{_clock(now_s)}  " + ", ".join(words)


def _quality(asked: Sequence[Asked]) -> str:
    points = curve(asked)
    if not points:
        return "quality: not enough answers yet"
    shown = [points[round(at * (len(points) - 1) / (WIDTH - 1))][1] for at in range(min(WIDTH, len(points)))]
    blocks = "".join(BLOCKS[round(share * (len(BLOCKS) - 1))] for share in shown)
    return f"right answers: {blocks} {points[-1][1]:.0%}"


def _clock(at_s: float) -> str:
    return f"{int(at_s // 60)}:{int(at_s % 60):02d}"
