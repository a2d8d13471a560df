"""Errors that a person can act on, and the exit codes of commands that end with them."""

import signal
import sys
from collections.abc import Callable

from pipeline.loopback import bypass_proxies
from pipeline.output.plain_text import indented, print_lines, printable, printable_lines

EXIT_BAD_INPUT = 2
EXIT_MISSING_TOOL = 3
EXIT_REFUSED = 4


class EvergreenError(Exception):
    """An error with its place, its cause and what to do about it.

    Its message is fit for a terminal, whatever the place and the cause quote; further lines of the cause are indented, so that
    a quoted text cannot pass for a line of ours.
    """

    exit_code = 1

    def __init__(self, where: str, what: str, do: str) -> None:
        self.where, self.what, self.do = where, what, do
        cause = indented(printable_lines(what))
        super().__init__(f"{printable(where)}: {cause}\n  what to do: {printable_lines(do)}")


class InputError(EvergreenError):
    """Params or data that cannot be used as they are."""

    exit_code = EXIT_BAD_INPUT


class ToolError(EvergreenError):
    """A missing program, package or server."""

    exit_code = EXIT_MISSING_TOOL


class RefusedError(EvergreenError):
    """A refusal by a gate: parity, integrity or quality."""

    exit_code = EXIT_REFUSED


def run_stage(main: Callable[[], None]) -> None:
    """Run a stage's main; turn an `EvergreenError` into its message and exit code, and let other errors keep their traceback.

    SIGTERM unwinds the stack, which closes open files and runs, and exits with 143.
    """
    from pipeline.output.plain_logs import log_as_plain_text  # structlog takes 0.1 s to import, and most modules import this one

    log_as_plain_text()
    bypass_proxies()
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    try:
        main()
    except EvergreenError as error:
        print_lines(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
