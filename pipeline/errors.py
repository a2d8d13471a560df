"""Errors that a person can act on, and the exit codes of commands that end with them."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from pipeline.lifetime import end_on_signals
from pipeline.loopback import bypass_proxies
from pipeline.output.plain_text import indented, print_lines, printable, printable_lines

EXIT_BAD_INPUT = 2
EXIT_MISSING_TOOL = 3
EXIT_REFUSED = 4
MAX_ERRORS = 20  # shown together; the rest is counted


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

    @property
    def errors(self) -> Sequence["EvergreenError"]:
        """The errors that it stands for: itself."""
        return (self,)


class InputError(EvergreenError):
    """Params or data that cannot be used as they are."""

    exit_code = EXIT_BAD_INPUT


class ToolError(EvergreenError):
    """A missing program, package or server."""

    exit_code = EXIT_MISSING_TOOL


class RefusedError(EvergreenError):
    """A refusal by a gate: parity, integrity or quality."""

    exit_code = EXIT_REFUSED


class CombinedError(InputError):
    """Several faults of params or data, each with its place, cause and remedy; exit code and place are those of the first."""

    def __init__(self, errors: Sequence[EvergreenError]) -> None:
        super().__init__(errors[0].where, errors[0].what, errors[0].do)
        self.exit_code = errors[0].exit_code
        self._errors = tuple(errors)

    @property
    def errors(self) -> Sequence[EvergreenError]:
        """The errors in the order in which they were met."""
        return self._errors

    def __str__(self) -> str:
        """Return the messages one below the other, as a command prints each after `error: `."""
        rest = len(self._errors) - MAX_ERRORS
        lines = [*map(str, self._errors[:MAX_ERRORS]), *([f"and {rest} more; correct these first"] if rest > 0 else [])]
        return "\nerror: ".join(lines)


@contextmanager
def collecting(errors: list[EvergreenError]) -> Iterator[None]:
    """Add an error of the block to `errors` instead of raising it; the block ends there."""
    try:
        yield
    except EvergreenError as error:
        errors += error.errors


def raise_all(errors: Sequence[EvergreenError]) -> None:
    """Raise the error, or all of them as one; return when there is none."""
    if errors:
        raise errors[0] if len(errors) == 1 else CombinedError(errors)


def run_stage(main: Callable[[], None]) -> None:
    """Run a stage's main; turn an `EvergreenError` into its message and exit code, and let other errors keep their traceback.

    SIGTERM and a closed terminal unwind the stack, which closes open files and runs, and exit with 143.
    """
    from pipeline.output.plain_logs import log_as_plain_text  # structlog takes 0.1 s to import, and most modules import this one

    log_as_plain_text()
    bypass_proxies()
    end_on_signals()
    try:
        main()
    except EvergreenError as error:
        print_lines(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
