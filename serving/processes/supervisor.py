"""Supervise child processes: start them, wait until they are ready, restart them with a growing pause, end them."""

import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple, Protocol
from urllib.request import urlopen

from pipeline.errors import ToolError
from pipeline.lifetime import ChildProcess, start_child
from serving.processes import Announce
from serving.processes.addresses import authority
from serving.processes.ports import require_free_port

READY_WITHIN_S, ENDS_WITHIN_S = 60.0, 20.0  # the end: longer than the graceful shutdown of HTTP services
FIRST_PAUSE_S, LONGEST_PAUSE_S, STABLE_S = 0.5, 15.0, 60.0
LAST_LINES, TAIL_BYTES = 8, 20_000


class Backoff:
    """The pause before the next attempt: it doubles with each failure, and starts over after `STABLE_S` without one."""

    def __init__(self) -> None:
        self._pause_s, self._since, self._due = FIRST_PAUSE_S, 0.0, 0.0

    def started(self, now: float) -> None:
        """Record a start."""
        self._since = now

    def failed(self, now: float) -> float:
        """Record a failure and return the seconds until the next attempt `is_due`."""
        self._pause_s = FIRST_PAUSE_S if now - self._since >= STABLE_S else min(LONGEST_PAUSE_S, 2 * self._pause_s)
        self._since, self._due = now, now + self._pause_s
        return self._pause_s

    def is_due(self, now: float) -> bool:
        """Return True once the pause is over."""
        return now >= self._due


class Startable(Protocol):
    """A program that a `Child` runs: a command, or a server with a start and an end that differ."""

    @property
    def name(self) -> str: ...
    @property
    def log(self) -> Path: ...
    def start(self) -> ChildProcess: ...
    def is_ready(self) -> bool: ...
    def stop(self, process: ChildProcess) -> None: ...
    def last_output(self) -> str: ...


class Program(NamedTuple):
    """A command, and the page that answers once it is ready. Output is appended to `log`."""

    name: str
    command: Sequence[str]
    host: str
    port: int
    path: str  # of the page
    log: Path
    cwd: Path | None = None
    environment: Mapping[str, str] | None = None
    ends_within_s: float = ENDS_WITHIN_S

    def start(self) -> ChildProcess:
        """Start the command in a session of its own; raises `ToolError` when its port is taken."""
        require_free_port(self.host, self.port)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as output:
            return start_child(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self.cwd,
                env=self.environment,
                start_new_session=True,  # Ctrl-C goes to the parent, which ends its children in order
            )

    def is_ready(self) -> bool:
        """Return True when the page answers with a 2xx."""
        with suppress(OSError, HTTPException), urlopen(f"http://{authority(self.host, self.port)}{self.path}", timeout=2):
            return True
        return False

    def stop(self, process: ChildProcess) -> None:
        """Send SIGTERM, and SIGKILL when that is not enough."""
        process.terminate()
        try:
            process.wait(timeout=self.ends_within_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def last_output(self) -> str:
        """Return the end of the log, which may be too long to be read whole."""
        if not self.log.is_file():
            return ""
        with self.log.open("rb") as file:
            file.seek(max(0, self.log.stat().st_size - TAIL_BYTES))
            lines = file.read().decode("utf-8", "replace").splitlines()
        return "\n".join(lines[-LAST_LINES:])


class Child:
    """A program and its process, restarted whenever it ends."""

    def __init__(self, program: Startable) -> None:
        self.program = program
        self.process: ChildProcess | None = None
        self._backoff = Backoff()
        self._was_ready = True
        self._is_restart = False

    @property
    def pid(self) -> int:
        """Return the id of the running process; raises `ToolError` between two of them."""
        if self.process is None:
            raise ToolError(self.program.name, "it is not running", f"read {self.program.log}")
        return self.process.pid

    def start(self) -> None:
        """Start the program without waiting for it."""
        self._start(time.monotonic())

    def wait_ready(self, within_s: float = READY_WITHIN_S) -> None:
        """Return once it is ready; raises `ToolError` with its last output when it ends or takes too long."""
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline and self.process and self.process.poll() is None:
            if self.program.is_ready():
                self._was_ready = True
                return
            time.sleep(0.05)
        what = f"it ended or did not become ready; its last output:\n{self.program.last_output()}"
        raise ToolError(self.program.name, what, f"read {self.program.log}")

    def look(self, now: float, announce: Announce) -> None:
        """Restart the program after its pause when it has ended, and announce both. A failed attempt is repeated later."""
        try:
            self._look(now, announce)
        except Exception as error:  # a port that is still held, a database that is away: other children go on meanwhile
            self._is_restart = True
            verb = "become ready" if self.process else "be started"
            announce(f"{self.program.name} could not {verb}; next attempt in {self._backoff.failed(now):g} s: {error}")

    def _look(self, now: float, announce: Announce) -> None:
        name = self.program.name
        if self.process and (code := self.process.poll()) is not None:
            pause_s = self._backoff.failed(now)
            self._is_restart = True
            self.end()
            output = f"; its last output, from {self.program.log}:\n{self.program.last_output()}" if code > 0 else ""
            announce(f"{name} ended ({describe_exit(code)}); restarting in {pause_s:g} s{output}")
        if not self._backoff.is_due(now):
            return
        if self.process is None:
            self._start(now)
        elif not self._was_ready and self.program.is_ready():
            self._was_ready = True
            if self._is_restart:
                announce(f"{name} is back")

    def end(self) -> None:
        """Stop the process, if there is one, and wait for its end."""
        if self.process:
            try:
                self.program.stop(self.process)
            finally:
                self.process = None

    def _start(self, now: float) -> None:
        self._backoff.started(now)
        self._was_ready = False
        self.process = self.program.start()


@contextmanager
def supervised(program: Program) -> Iterator[Child]:
    """Yield the program's child, ready and with an empty log; end it when the block ends in any way."""
    program.log.unlink(missing_ok=True)
    child = Child(program)
    try:
        child.start()
        child.wait_ready()
        yield child
    finally:
        child.end()


def describe_exit(code: int) -> str:
    """Return an exit code as text: `signal 9` or `exit code 1`."""
    return f"signal {-code}" if code < 0 else f"exit code {code}"
