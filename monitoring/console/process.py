"""The console's process on one machine. `make serve` and `make watch` both want one: the holder of a lock in the home runs it."""

import os
import sys
from pathlib import Path

from filelock import FileLock, Timeout

from pipeline.params import Params
from serving.processes import Announce
from serving.processes.addresses import base_url, reach_host
from serving.processes.health import find_owner, health_sign, is_listening
from serving.processes.supervisor import Child, Program

LOOK_S = 2.0


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
        if not is_free and not self._is_blocked and not self._is_ours():
            announce(f"no console: another program uses {self.url}; choose another alerts.console_port in params.yaml")
        self._is_blocked = not is_free
        return is_free

    def _is_ours(self) -> bool:
        return find_owner(self._host, self._port, health_sign("console", self._home)) == "this home"


def console_program(params: Params, home: Path) -> Program:
    """Return the program."""
    host, port = console_address(params)
    command = [sys.executable, "-m", "monitoring.console"]
    environment = {**os.environ, "EVERGREEN_HOME": str(home)}
    return Program("console", command, host, port, "/healthz", home / "console" / "console.log", environment=environment)


def console_address(params: Params) -> tuple[str, int]:
    """Return host and port at which this machine reaches the console."""
    return reach_host("console", params.alerts.host), params.alerts.console_port
