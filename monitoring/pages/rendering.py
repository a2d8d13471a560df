"""Renders a page inside the shared layout. The template engine escapes everything, invisible text too."""

from datetime import UTC, datetime
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from pipeline.output.plain_text import printable_lines
from pipeline.output.shares import percent

FILES = Path(__file__).parent / "files"
HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "cache-control": "no-store",
    "referrer-policy": "same-origin",  # with no-referrer a browser hides the origin of our own forms
    "x-content-type-options": "nosniff",
}


def page_environment(templates: Path) -> Environment:
    """Return the environment of these templates, which extend `layout.html`."""
    environment = Environment(
        loader=FileSystemLoader([templates, FILES]),
        autoescape=True,
        finalize=lambda value: printable_lines(value) if type(value) is str else value,  # bidi overrides would reorder a line
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,  # templates belong to the code that was started
    )
    environment.filters |= {"when": when, "iso": iso, "duration": duration, "readable": readable, "percent": percent}
    return environment


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
