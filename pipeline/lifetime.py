"""Ends processes with their parent, whatever ends it, and finds those that a parent has left behind (Linux).

The kernel sends SIGTERM to a process whose parent has died, by `kill -9` too. `start_child` asks for this in every child that we
start. A program of ours below `make` or DVC, which do not ask, does so itself (`end_on_signals`). "Parent" is the thread that
starts a child: start children from threads that live as long as the process.
"""

import ctypes
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

PR_SET_PDEATHSIG = 1
FOLLOWS = ("EVERGREEN_ENDS_WITH_PARENT", "DVC_STAGE")  # the Makefile sets the first, and DVC the second for a stage
SHELLS = frozenset({"sh", "dash", "bash", "zsh", "fish", "ksh"})
POLL_S = 0.05
ChildProcess = subprocess.Popen[Any]


def start_child(command: Sequence[str], *, before_exec: Callable[[], object] = lambda: None, **options: Any) -> ChildProcess:
    """Start a child that gets SIGTERM when this process dies; `before_exec` runs in it first, `options` are those of Popen."""
    return subprocess.Popen(command, preexec_fn=_following(before_exec), **options)


def run_child(command: Sequence[str], **options: Any) -> "subprocess.CompletedProcess[Any]":
    """Run a child to its end, as `subprocess.run` does; it ends with this process."""
    return subprocess.run(command, preexec_fn=_following(), check=False, **options)


def _following(before_exec: Callable[[], object] = lambda: None) -> Callable[[], None]:
    """Return what a child of this process does before its program starts."""
    parent = os.getpid()

    def follow() -> None:
        end_with_parent()
        if os.getppid() != parent:  # it died before the kernel was asked
            os._exit(128 + signal.SIGTERM)
        before_exec()

    return follow


def end_with_parent(number: int = signal.SIGTERM) -> None:
    """Ask the kernel, in the child, for this signal when the parent dies."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)


def end_on_signals(end: Callable[[int], object] = lambda number: sys.exit(128 + number)) -> None:
    """Let the first SIGTERM, or a closed terminal, unwind the stack by `end`, and follow the parent where it asks for that.

    A second SIGTERM does not interrupt what the first one began, such as closing an MLflow run: the kernel, DVC and a supervisor
    may each send one. Under `nohup` a closed terminal ends nothing.
    """

    def ended(_number: int, _frame: object) -> None:
        signal.signal(signal.SIGTERM, lambda *_: None)  # SIG_IGN would be inherited by children
        end(signal.SIGTERM)

    signal.signal(signal.SIGTERM, ended)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda _number, _frame: signal.raise_signal(signal.SIGTERM))
    if any(name in os.environ for name in FOLLOWS):
        end_with_parent()
        if _name(parent := os.getppid()) in SHELLS:  # DVC starts stages through one, which passes no signal on
            _end_with(_parent_of(parent))


def _end_with(pid: int) -> None:
    """Send this process SIGTERM when another one ends, which is not its parent."""
    with suppress(OSError):  # it has ended, or this is an old kernel
        watched = os.pidfd_open(pid)

        def watch() -> None:
            select.select([watched], [], [])
            os.kill(os.getpid(), signal.SIGTERM)

        threading.Thread(target=watch, name="lifetime", daemon=True).start()


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def _name(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="replace").strip()


def _parent_of(pid: int) -> int:
    stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    return int(stat.rpartition(")")[2].split()[1])


def kill_after(remaining: Callable[[], list[int]], within_s: float) -> None:
    """Wait until no process remains; kill those that still run after `within_s`.

    On return their files are closed and their locks are free.
    """
    deadline, ending = time.monotonic() + within_s, set[int]()
    while pids := [*remaining(), *filter(_is_alive, ending)]:  # one that is ending has no environment any more
        ending.update(pids)
        if time.monotonic() > deadline:
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        time.sleep(POLL_S)


def processes_with(variable: str, value: str) -> Iterator[int]:
    """Yield the ids of living processes that were started with this environment variable."""
    entry = f"{variable}={value}".encode()
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):  # it has ended, or is another user's
            if entry in path.read_bytes().split(b"\0"):
                yield int(path.parent.name)
