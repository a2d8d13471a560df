"""The console's process on one machine. `make serve` and `make watch` both want one: the holder of a lock in the home runs it."""

import json
import os
import sys
from contextlib import suppress
from hashlib import sha256
from http.client import HTTPException
from pathlib import Path
from urllib.request import urlopen

from filelock import FileLock, Timeout

from monitoring.pages.navigation import is_listening
from pipeline.params import Params
from serving.processes import Announce
from serving.processes.addresses import base_url, reach_host
from serving.processes.supervisor import Child, Program

LOOK_S, ANSWERS_WITHIN_S = 2.0, 1.0


class SharedConsole:
    """A supervised console that only one process of a home runs at a time; when that ends, another one starts it again."""

    def __init__(self, params: Params, home: Path) -> None:
        self._child, self._home = Child(console_program(params, home)), home
        self._lock = FileLock(home / "console" / "console.lock", timeout=0)
        self._host, self._port = console_address(params)
        self._due, self._is_blocked = 0.0, False

    @property
    def url(self) -> str:
        """Return the address of the pages."""
        return f"{base_url(self._host, self._port)}/"

    def look(self, now: float, announce: Announce) -> None:
        """Start the console unless another process runs it, and restart it when it has ended. Never raises, never waits."""
        if self._child.process is None and not self._may_start(now, announce):
            return
        self._child.look(now, announce)

    def end(self) -> None:
        """Stop the process if this object has started it."""
        self._child.end()
        self._lock.release(force=True)

    def _may_start(self, now: float, announce: Announce) -> bool:
        """Return whether this process holds the lock and the port is free; announce once when another program has the port."""
        if now < self._due:
            return False
        self._due = now + LOOK_S
        try:
            Path(self._lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
        except (Timeout, OSError):
            return False
        is_free = not is_listening(self._host, self._port)
        if not is_free and not self._is_blocked and not is_console(self.url, self._home):
            announce(f"no console: another program uses {self.url}; choose another alerts.console_port in params.yaml")
        self._is_blocked = not is_free
        return is_free


def console_program(params: Params, home: Path) -> Program:
    """Return the program."""
    host, port = console_address(params)
    command = [sys.executable, "-m", "monitoring.console"]
    environment = {**os.environ, "EVERGREEN_HOME": str(home)}
    return Program("console", command, host, port, "/healthz", home / "console" / "console.log", environment=environment)


def console_address(params: Params) -> tuple[str, int]:
    """Return host and port at which this machine reaches the console."""
    return reach_host("console", params.alerts.host), params.alerts.console_port


def is_console(url: str, home: Path) -> bool:
    """Return whether a console of this home answers at this URL."""
    with suppress(OSError, HTTPException, ValueError), urlopen(f"{url}healthz", timeout=ANSWERS_WITHIN_S) as answer:  # noqa: S310
        return bool(json.load(answer) == identity(home))
    return False


def identity(home: Path) -> dict[str, str]:
    """Return what `/healthz` says of a console: its home as a digest, which names no path."""
    return {"status": "alive", "service": "console", "home": sha256(str(home).encode()).hexdigest()[:16]}
