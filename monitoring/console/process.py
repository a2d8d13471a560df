"""The console's process on one machine. `make serve` and `make watch` both want a console; whoever is first starts it."""

import json
import os
import sys
from contextlib import suppress
from hashlib import sha256
from http.client import HTTPException
from pathlib import Path
from urllib.request import urlopen

from monitoring.pages.navigation import is_listening
from pipeline.params import Params
from serving.processes import Announce
from serving.processes.addresses import base_url, reach_host
from serving.processes.supervisor import Child, Program

LOOK_S, ANSWERS_WITHIN_S = 2.0, 1.0


class SharedConsole:
    """A supervised console that is started only while no console of this home answers on its port."""

    def __init__(self, params: Params, home: Path) -> None:
        self._child, self._home = Child(console_program(params, home)), home
        self._host, self._port = console_address(params)
        self._due, self._blocked = 0.0, False

    @property
    def url(self) -> str:
        """Return the address of the pages."""
        return f"{base_url(self._host, self._port)}/"

    def look(self, now: float, announce: Announce) -> None:
        """Start the console when none answers, and restart it when it has ended. Never raises, never waits for it."""
        if self._child.process is None:
            if now < self._due:
                return
            self._due = now + LOOK_S
            if self._is_taken(announce):
                return
        self._child.look(now, announce)

    def end(self) -> None:
        """Stop the process if this object has started it."""
        self._child.end()

    def _is_taken(self, announce: Announce) -> bool:
        """Return whether something answers on the port; announce once when that is no console of this home."""
        if not is_listening(self._host, self._port):
            self._blocked = False
            return False
        if not self._blocked and not is_console(self.url, self._home):
            self._blocked = True
            announce(f"no console: another program uses {self.url}; choose another alerts.console_port in params.yaml")
        return True


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
