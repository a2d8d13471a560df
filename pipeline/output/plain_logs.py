"""Log lines and tracebacks of commands, as plain text; a service writes JSON instead."""

import logging
import sys
import traceback
from collections.abc import Callable, MutableMapping
from types import TracebackType
from typing import Any

import structlog

from pipeline.output.plain_text import print_lines, printable, printable_lines


def log_as_plain_text() -> None:
    """Configure structlog and the hook for tracebacks."""
    _configure()
    sys.excepthook = print_traceback


def log_plainly() -> None:
    """Configure structlog in a process that belongs to a caller, unless the caller has done it."""
    if not structlog.is_configured():
        _configure()


def _configure() -> None:
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="%H:%M:%S"),
            structlog.processors.format_exc_info,
            plain_values,
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=lambda *_names: structlog.PrintLogger(sys.stderr),  # whatever stderr is when the line is written
    )


def plain_values(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Escape every text of a log event."""
    shown: dict[str, Callable[[str], str]] = {"exception": printable_lines}
    return {
        printable(name): shown.get(name, printable)(value) if isinstance(value, str) else value for name, value in event.items()
    }


def print_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print a traceback as Python does, with the error's text escaped."""
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    print_lines("".join(traceback.format_exception(kind, error, trace)).removesuffix("\n"), file=sys.stderr)
