"""Programs of `make watch` that are kept running: one that ends is said by name, and started again after a pause.

As `evergreen serve` keeps Triton and the gateway: whoever watches must not fall silent because one part of the watching died.
"""

import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple
from urllib.request import urlopen

from pipeline.errors import ToolError
from serving.processes.lifetime import end_with_parent, require_free
from serving.processes.restarts import Restarts, how_it_ended

READY_WITHIN_S, ENDS_WITHIN_S = 60, 10
LAST_LINES = 8
Say = Callable[[str], None]


class Program(NamedTuple):
    """What is run, and where it says that it is ready."""

    name: str
    command: Sequence[str]
    host: str
    port: int
    path: str  # of the page that answers once it is ready
    cwd: Path | None
    ends_within_s: float = ENDS_WITHIN_S


class Child:
    """A program and its process. What it says goes to `<name>.log`, anew with each `launch`."""

    def __init__(self, program: Program, folder: Path) -> None:
        self.program, self.log = program, folder / f"{program.name}.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.restarts = Restarts()
        self._answers = True

    @property
    def pid(self) -> int:
        """Of the process that runs; raises `ToolError` between two of them."""
        if self.process is None:
            raise ToolError(self.program.name, "it is not running", f"read {self.log}")
        return self.process.pid

    def launch(self) -> None:
        """Start it, with a log of its own; not waited for."""
        self.log.unlink(missing_ok=True)
        self._start(time.monotonic())

    def wait_ready(self) -> None:
        """Return once it is ready; raises `ToolError` with its own words when it ends or takes too long."""
        deadline = time.monotonic() + READY_WITHIN_S
        while time.monotonic() < deadline and self.process and self.process.poll() is None:
            if self._is_ready():
                return
            time.sleep(0.05)
        what = f"it ended or did not become ready; its last words:\n{self._last_words()}"
        raise ToolError(self.program.name, what, f"read {self.log}")

    def look(self, now: float, say: Say) -> None:
        """Start it again when it has ended, after its pause, and say so; one that cannot be started is tried again later."""
        name = self.program.name
        if self.process and (code := self.process.poll()) is not None:
            pause_s = self.restarts.put_off(now)
            words = f"; its last words, of {self.log}:\n{self._last_words()}" if code > 0 else ""
            say(f"{name} ended ({how_it_ended(code)}); it is started again in {pause_s:g} s{words}")
            self.process = None
        if self.process is None and self.restarts.is_due(now):
            try:
                self._start(now)
            except (ToolError, OSError) as error:  # its port is still held
                say(f"{name} cannot be started, and is tried again in {self.restarts.put_off(now):g} s: {error}")
        elif self.process and not self._answers and self._is_ready():
            self._answers = True
            say(f"{name} is back")

    def end(self) -> None:
        """Ask it to end, then insist."""
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(timeout=self.program.ends_within_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None

    def _start(self, now: float) -> None:
        self.restarts.started(now)
        self._answers = False
        require_free(self.program.host, self.program.port)
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                self.program.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self.program.cwd,
                start_new_session=True,  # Ctrl-C is for the parent, which ends them in order
                preexec_fn=end_with_parent,
            )

    def _is_ready(self) -> bool:
        url = f"http://{self.program.host}:{self.program.port}{self.program.path}"
        with suppress(OSError, HTTPException), urlopen(url, timeout=2):
            self._answers = True
            return True
        return False

    def _last_words(self) -> str:
        return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-LAST_LINES:])


@contextmanager
def child(program: Program, folder: Path) -> Iterator[Child]:
    """The program, ready; ended, and waited for, when the block ends in any way."""
    one = Child(program, folder)
    try:
        one.launch()
        one.wait_ready()
        yield one
    finally:
        one.end()
