"""Errors a person can act on, and the exit codes they end a command with."""

import signal
import sys
from collections.abc import Callable

EXIT_BAD_INPUT = 2
EXIT_MISSING_TOOL = 3
EXIT_REFUSED = 4


class EvergreenError(Exception):
    """One message for a person: what is wrong, where, and what to do about it."""

    exit_code = 1

    def __init__(self, where: str, what: str, do: str) -> None:
        self.where, self.what, self.do = where, what, do
        super().__init__(f"{where}: {what}\n  what to do: {do}")


class InputError(EvergreenError):
    """Params or data cannot be used as they are."""

    exit_code = EXIT_BAD_INPUT


class ToolError(EvergreenError):
    """A program, package or server that is needed is not there."""

    exit_code = EXIT_MISSING_TOOL


class RefusedError(EvergreenError):
    """A gate said no: parity, integrity or quality."""

    exit_code = EXIT_REFUSED


def run_stage(main: Callable[[], None]) -> None:
    """Run a stage's main; an `EvergreenError` becomes its message and its exit code, anything else keeps its traceback.

    SIGTERM unwinds the stack, so that what is open is closed, and ends with 143.
    """
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    try:
        main()
    except EvergreenError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
