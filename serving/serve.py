"""`evergreen serve`: Triton and the gateway as supervised children."""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Protocol

from filelock import Timeout

from pipeline.lifetime import ChildProcess
from pipeline.params import Params
from serving.gateway.docs_page import FRONT_PAGE
from serving.processes import Announce
from serving.processes.addresses import listen_host, reach_host
from serving.processes.ports import require_free_port
from serving.processes.supervisor import Child, Program
from serving.release.live.catch_up import catch_up, unload_when_due
from serving.release.live.folders import verified
from serving.release.manifest import repository
from serving.release.routing import read_routes
from serving.triton.client import is_alive
from serving.triton.server import DeadModelWatch, Server, last_errors, log_path, start_server, stop_server
from state.database import open_state

LOOK_S = 0.2


class Triton:
    """The server with the champion loaded. It is ready once it serves what the release table says."""

    name = "Triton"

    def __init__(self, params: Params, home: Path, announce: Announce) -> None:
        self.server: Server | None = None
        self._params, self._home, self._announce = params, home, announce
        self._watch = DeadModelWatch()

    @property
    def log(self) -> Path:
        """Return the path of the server's log."""
        return log_path(self._home, self._params.serve)

    def start(self) -> ChildProcess:
        """Start with the champion alone: Triton ends when a model of its start does not load, and a challenger may be broken."""
        with open_state(self._home) as engine, engine.begin() as connection:
            champion = read_routes(connection).champion
        models = [verified(self._home, champion).name] if champion else []
        self.server = start_server(repository(self._home), models, self._params.serve, self._home)
        return self.server.process

    def is_ready(self) -> bool:
        """Load and check what the release table says; False while Triton starts or a swap runs. Raises as `catch_up` does."""
        self.kill_if_crippled(time.monotonic())
        if not is_alive(self._params.serve):
            return False
        try:
            catch_up(self._params, self._home, self._announce, timeout_s=0)
        except Timeout:
            return False
        return True

    def stop(self, process: ChildProcess) -> None:
        """Stop the server and the processes of its models."""
        if self.server:
            stop_server(self.server)
        self.server = None

    def last_output(self) -> str:
        """Return the last errors of the server's log."""
        return last_errors(self.log)

    def kill_if_crippled(self, now: float) -> None:
        """Kill a server that waits forever for a dead process of one model; its supervisor restarts it."""
        if self.server and self._watch.is_crippled(self.server, now):
            self._watch = DeadModelWatch()
            self._announce(f"a model's process has died, and Triton does not replace it; the last output:\n{self.last_output()}")
            self.server.process.kill()
            self.server.process.wait()


class Companion(Protocol):
    """A program that runs beside serving, which never waits for it. `look` starts and restarts it, and never raises."""

    def look(self, now: float, announce: Announce) -> None: ...
    def end(self) -> None: ...


def gateway_program(params: Params, home: Path, front_page: str = "") -> Program:
    """Return the gateway, which writes its log out and finishes what it has begun before it ends."""
    return Program(
        "gateway",
        [sys.executable, "-m", "serving.gateway"],
        reach_host("gateway", params.gateway.host),
        params.gateway.port,
        "/readyz",
        home / "gateway" / "gateway.log",
        environment={**os.environ, "EVERGREEN_HOME": str(home), FRONT_PAGE: front_page},
        ends_within_s=40,
    )


@contextmanager
def unloading(params: Params, home: Path, announce: Announce) -> Iterator[None]:
    """Unload a previous champion once it is no longer held, in a thread: to wait for its last requests takes a while."""
    stop = threading.Event()
    thread = threading.Thread(target=unload_when_due, args=(params, home, announce, stop), name="unloading", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()


def serve(
    params: Params,
    home: Path,
    announce: Announce,
    ready: Callable[[list[Path]], None],
    *,
    companions: Sequence[Companion] = (),
    front_page: str = "",
) -> None:
    """Run both and their companions until interrupted; `ready` gets the logs of both once they answer.

    `front_page` is the address to which the gateway's own `/` leads; the page of the API when empty.

    Raises `ToolError` when one does not come up, and `RefusedError` for golden answers that differ. Later ends are restarted.
    """
    require_free_port(listen_host("gateway", params.gateway.host), params.gateway.port)
    triton = Triton(params, home, announce)
    children = [Child(triton), Child(gateway_program(params, home, front_page))]
    with ExitStack() as stack:
        stack.enter_context(unloading(params, home, announce))
        for companion in companions:
            stack.callback(companion.end)
            companion.look(time.monotonic(), announce)
        for child in children:
            stack.callback(child.end)  # the gateway ends first
            child.start()
            child.wait_ready(params.serve.ready_timeout_s)
        ready([child.program.log for child in children])
        while True:
            time.sleep(LOOK_S)
            now = time.monotonic()
            triton.kill_if_crippled(now)
            for child in children:
                child.look(now, announce)
            for companion in companions:
                companion.look(now, announce)
