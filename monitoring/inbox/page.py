"""The inbox page: renders cards as HTML. The template engine escapes everything, invisible text too."""

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from monitoring.decisions import RETRAIN_NOW
from monitoring.inbox.incidents import Card
from monitoring.inbox.messages import Switch, overdue_s
from pipeline.output.plain_text import printable_lines
from pipeline.params import Alerts

FILES = Path(__file__).parent / "files"


def render_page(
    cards: Sequence[Card], switch: Switch | None, started_at: float, now: float, alerts: Alerts, retraining: str
) -> str:
    """Render the page as HTML; `retraining` says whether alerts start retrains."""
    late_s = overdue_s(switch, started_at, now, alerts)
    firing = sum(card.status != "over" for card in cards)
    template = _environment().get_template("inbox.html")
    return template.render(
        cards=cards, firing=firing, switch=switch, late_s=late_s, now=now, alerts=alerts,
        retraining=retraining, retrain_now=RETRAIN_NOW,
    )  # fmt: skip


def when(at: float) -> str:
    """Format a time for people."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def readable(at: str) -> str:
    """Format the time of a report for people; a text that is no time stays as it is."""
    try:
        return when(datetime.fromisoformat(at).timestamp())
    except (ValueError, OverflowError, OSError):
        return at


def iso(at: float) -> str:
    """Format a time for programs."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")


def duration(seconds: float) -> str:
    """Format a duration: `42 s`, `7 min`, `3 h`, `2 days`."""
    for least_s, unit_s, unit in ((172_800, 86_400, "days"), (7_200, 3_600, "h"), (120, 60, "min")):
        if seconds >= least_s:
            return f"{seconds / unit_s:.0f} {unit}"
    return f"{max(0, seconds):.0f} s"


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(FILES),
        autoescape=True,
        finalize=lambda value: printable_lines(value) if isinstance(value, str) else value,  # bidi overrides would reorder a line
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"when": when, "iso": iso, "duration": duration, "readable": readable}
    return environment
