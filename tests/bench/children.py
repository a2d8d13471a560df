"""The processes of the serving bench: each one is ended with the block that started it, and by the kernel if the bench dies."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.request import urlopen

import psutil
import yaml

import serving
from pipeline.errors import ToolError
from pipeline.params import Params, Serve
from serving.processes.lifetime import end_with_parent
from serving.processes.ports import free_port
from serving.release.manifest import repository
from serving.triton.server import Server, run_server, with_free_ports

ROOT = Path(serving.__file__).parents[1]
HOST = "127.0.0.1"
PATIENCE_S = 90.0


class Stack(NamedTuple):
    """A gateway before a Triton, on a home of their own; `folder` holds their params.yaml."""

    home: Path
    folder: Path
    params: Params
    triton: Server
    gateway: psutil.Process
    processes: tuple[psutil.Process, ...]  # whose CPU time is that of the stack

    @property
    def triton_url(self) -> str:
        return f"http://{HOST}:{self.params.serve.http_port}"

    @property
    def gateway_url(self) -> str:
        return f"http://{HOST}:{self.params.gateway.port}"


class Child(NamedTuple):
    """A process that answers JSON lines."""

    name: str
    process: subprocess.Popen[str]
    log: Path

    def ask(self, **asked: Any) -> dict[str, Any]:
        """One answer to one question; raises `ToolError` with the child's last words when it has ended."""
        assert self.process.stdin is not None and self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(asked) + "\n")
            self.process.stdin.flush()
        except OSError:
            raise _ended(self.name, self.log) from None
        return self.listen()

    def listen(self) -> dict[str, Any]:
        """The next line."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise _ended(self.name, self.log)
        said: dict[str, Any] = json.loads(line)
        return said


@contextmanager
def stack(home: Path, params: Params, *, models: Sequence[str], cache_bytes: int) -> Iterator[Stack]:
    """Triton with these models and a gateway in front, on free ports, with the settings of params but for the gateway's cache."""
    params = _on_free_ports(params, cache_bytes)
    folder = home / "bench"
    folder.mkdir(exist_ok=True)
    (folder / "params.yaml").write_text(yaml.safe_dump(json.loads(params.model_dump_json())), encoding="utf-8")
    with run_server(repository(home), models, params.serve, home) as triton, _gateway(home, folder, params) as gateway:
        yield Stack(home, folder, params, triton, gateway, (psutil.Process(triton.process.pid), gateway))


@contextmanager
def server(arguments: Sequence[str], url: str, log: Path) -> Iterator[psutil.Process]:
    """A Python program of ours, once it answers a GET at this address in any way."""
    with _program(arguments, Path.cwd(), None, log, stdin=None) as process:
        _wait(process, url, log)
        yield psutil.Process(process.pid)


@contextmanager
def child(arguments: Sequence[str], folder: Path, home: Path | None, log: Path) -> Iterator[Child]:
    """A Python program of ours that answers JSON lines, once it has said its first one."""
    with _program(arguments, folder, home, log, stdin=subprocess.PIPE) as process:
        made = Child(arguments[1], process, log)
        made.listen()
        yield made


def forget_settings() -> None:
    """Take what leads to somebody's state or collector out of our environment, and so out of every child's."""
    for name in [name for name in os.environ if name.startswith(("EVERGREEN_", "MLFLOW_", "OTEL_"))]:
        del os.environ[name]


def cpu_s(processes: Sequence[psutil.Process]) -> float:
    """CPU seconds so far of these processes and their children that live."""
    total = 0.0
    for one in processes:
        for process in (one, *one.children(recursive=True)):
            times = process.cpu_times()
            total += times.user + times.system
    return total


@contextmanager
def _gateway(home: Path, folder: Path, params: Params) -> Iterator[psutil.Process]:
    log = home / "gateway.log"
    with _program(["-m", "serving.gateway"], folder, home, log, stdin=None) as process:
        _wait(process, f"http://{HOST}:{params.gateway.port}/readyz", log)
        yield psutil.Process(process.pid)


@contextmanager
def _program(
    arguments: Sequence[str], folder: Path, home: Path | None, log: Path, *, stdin: int | None
) -> Iterator[subprocess.Popen[str]]:
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    environment = os.environ | {"PYTHONPATH": paths} | ({"EVERGREEN_HOME": str(home)} if home else {})
    with log.open("w", encoding="utf-8") as errors:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=folder,
            env=environment,
            stdin=stdin or subprocess.DEVNULL,
            stdout=subprocess.PIPE if stdin else errors,
            stderr=errors,
            text=True,
            start_new_session=True,  # Ctrl-C is for the bench, which ends its children in order
            preexec_fn=end_with_parent,
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe:
                pipe.close()


def _wait(process: subprocess.Popen[str], url: str, log: Path) -> None:
    """Return once there is an HTTP answer of 2xx, or 404 and 405 where a page has no GET."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urlopen(url, timeout=2):  # noqa: S310 (http)
                return
        except OSError as error:
            if getattr(error, "code", 0) in (404, 405):
                return
            time.sleep(0.1)
    raise _ended(url, log)


def _on_free_ports(params: Params, cache_bytes: int) -> Params:
    serve: Serve = with_free_ports(params.serve.model_copy(update={"host": HOST}))
    gateway = params.gateway.model_copy(update={"host": HOST, "port": free_port(), "cache_bytes": cache_bytes})
    return params.model_copy(update={"serve": serve, "gateway": gateway})


def _ended(name: str, log: Path) -> ToolError:
    words = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-8:])
    return ToolError(name, f"it does not answer; its last words:\n{words}", f"read {log}")
