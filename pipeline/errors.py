"""Errors that a person can act on, and the exit codes of commands that end with them."""

import signal
import sys
from collections.abc import Callable

EXIT_BAD_INPUT = 2
EXIT_MISSING_TOOL = 3
EXIT_REFUSED = 4


class EvergreenError(Exception):
    """An error with its place, its cause and what to do about it."""

    exit_code = 1

    def __init__(self, where: str, what: str, do: str) -> None:
        self.where, self.what, self.do = where, what, do
        super().__init__(f"{where}: {what}\n  what to do: {do}")


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
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    try:
        main()
    except EvergreenError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
