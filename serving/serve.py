"""`evergreen serve`: Triton and the gateway as children; one that dies is started again, and what it served before is loaded."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from urllib.request import urlopen

from filelock import Timeout

from pipeline.errors import ToolError
from pipeline.params import Params
from serving.processes.lifetime import end_with_parent, require_free
from serving.processes.restarts import Restarts, how_it_ended
from serving.release.manifest import model_name, repository
from serving.release.routing import read_routes
from serving.release.swap import catch_up
from serving.triton.client import is_alive
from serving.triton.server import Server, has_lost_a_model, start, stop, wait_ready
from state.database import open_state

Say = Callable[[str], None]
BURIED_WITHIN_S = 5.0  # Triton buries one that dies while it is loaded after about a second, and one that is unloaded at once


class Stack:
    """The two children. `begin` raises when one does not come up; later deaths are answered by a new start."""

    def __init__(self, params: Params, home: Path, say: Say) -> None:
        self.params, self.home, self.say = params, home, say
        self.triton: Server | None = None
        self.gateway: subprocess.Popen[bytes] | None = None
        self._restarts = {"Triton": Restarts(), "the gateway": Restarts()}
        self._crippled_since: float | None = None
        self._caught_up = True  # what Triton has loaded is what the release table says, or a swap sees to it

    def begin(self) -> None:
        """Start both, and wait until they are ready; raises `ToolError`, and `RefusedError` for golden answers that differ."""
        require_free(self.params.gateway.host, self.params.gateway.port)
        now = time.monotonic()
        self._start_triton(now)
        wait_ready(self._running(), self._models())
        catch_up(self.params, self.home, self.say, timeout_s=self.params.serve.ready_timeout_s)
        self._caught_up = True
        self._start_gateway(now)
        self._wait_gateway()

    def watch_once(self, now: float) -> None:
        """Look at both children; start again what has died, after its pause. What cannot be done now is tried again."""
        for name, look in (("Triton", self._look_at_triton), ("the gateway", self._look_at_gateway)):
            try:
                look(now)
            except Timeout:  # a swap is at work
                continue
            except Exception as error:  # a port that is still held, a database that is away: the other child goes on meanwhile
                pause_s = self._restarts[name].put_off(now)
                self.say(f"{name} is not as it should be, and is looked at again in {pause_s:g} s: {error}")

    def _look_at_triton(self, now: float) -> None:
        restarts = self._restarts["Triton"]
        self._end_a_crippled_triton(now)
        if self.triton and self.triton.process.poll() is not None:
            pause_s = restarts.put_off(now)
            self.say(f"Triton ended ({how_it_ended(self.triton.process.returncode)}); it is started again in {pause_s:g} s")
            stop(self.triton)  # its children too
            self.triton = None
        if not restarts.is_due(now):
            return
        if self.triton is None:
            self._start_triton(now)
        elif not self._caught_up and is_alive(self.params.serve):
            catch_up(self.params, self.home, self.say, timeout_s=0)
            self._caught_up = True
            self.say("Triton answers again")

    def _end_a_crippled_triton(self, now: float) -> None:
        """One that waits for a dead process of a model serves on with the others for ever: it is ended, and started anew."""
        if self.triton is None or not has_lost_a_model(self.triton):
            self._crippled_since = None
            return
        self._crippled_since = now if self._crippled_since is None else self._crippled_since
        if now - self._crippled_since >= BURIED_WITHIN_S:
            self.say("a process of a model has died, and Triton does not replace it")
            self._crippled_since = None
            self.triton.process.kill()
            self.triton.process.wait()

    def _look_at_gateway(self, now: float) -> None:
        restarts = self._restarts["the gateway"]
        if self.gateway and self.gateway.poll() is not None:
            pause_s = restarts.put_off(now)
            self.say(f"the gateway ended ({how_it_ended(self.gateway.returncode)}); it is started again in {pause_s:g} s")
            self.gateway = None
        if self.gateway is None and restarts.is_due(now):
            self._start_gateway(now)

    def end(self) -> None:
        """Stop the gateway, which writes its log out and finishes what it has begun, then Triton."""
        if self.gateway and self.gateway.poll() is None:
            self.gateway.send_signal(signal.SIGTERM)
            try:
                self.gateway.wait(timeout=40)
            except subprocess.TimeoutExpired:
                self.gateway.kill()
                self.gateway.wait()
        if self.triton:
            stop(self.triton)

    def _running(self) -> Server:
        if self.triton is None:
            raise ToolError("Triton", "it is not running", "start it: make serve")
        return self.triton

    def _models(self) -> list[str]:
        """The champion alone: Triton ends when a model of its start does not load, and a broken challenger must not do that."""
        with open_state(self.home) as engine, engine.begin() as connection:
            champion = read_routes(connection).champion
        return [model_name(champion)] if champion else []

    def _start_triton(self, now: float) -> None:
        self._restarts["Triton"].started(now)
        self._caught_up = False
        self.triton = start(repository(self.home), self._models(), self.params.serve, self.home)

    def _start_gateway(self, now: float) -> None:
        self._restarts["the gateway"].started(now)
        folder = self.home / "gateway"
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "gateway.log").open("ab") as log:
            self.gateway = subprocess.Popen(
                [sys.executable, "-m", "serving.gateway"],
                stdout=log,
                stderr=log,
                env={**os.environ, "EVERGREEN_HOME": str(self.home)},
                start_new_session=True,  # Ctrl-C is for the parent, which stops the children in order
                preexec_fn=end_with_parent,
            )

    def _wait_gateway(self) -> None:
        url = f"http://{self.params.gateway.host}:{self.params.gateway.port}/readyz"
        deadline = time.monotonic() + self.params.serve.ready_timeout_s
        while time.monotonic() < deadline and self.gateway and self.gateway.poll() is None:
            try:
                with urlopen(url, timeout=2):
                    return
            except OSError:
                time.sleep(0.1)
        log = self.home / "gateway" / "gateway.log"
        last = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-5:])
        raise ToolError("the gateway", f"it did not become ready; its last words:\n{last}", f"read {log}")


def serve(params: Params, home: Path, say: Say, ready: Callable[[Stack], None]) -> None:
    """Run until interrupted; `ready` is told once both children answer."""
    stack = Stack(params, home, say)
    try:
        stack.begin()
        ready(stack)
        while True:
            time.sleep(0.2)
            stack.watch_once(time.monotonic())
    finally:
        stack.end()
