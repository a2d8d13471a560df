"""End a process with its parent, and find the processes that a parent has left behind (Linux)."""

import ctypes
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

PR_SET_PDEATHSIG = 1


def end_with_parent(number: int = signal.SIGTERM) -> None:
    """Call in the child: the kernel sends it this signal when the parent dies, by kill -9 too."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)


def processes_with(variable: str, value: str) -> Iterator[int]:
    """Yield the ids of all processes that were started with this environment variable."""
    entry = f"{variable}={value}".encode()
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):  # it has ended, or is another user's
            if entry in path.read_bytes().split(b"\0"):
                yield int(path.parent.name)
