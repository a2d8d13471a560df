"""Start and end the processes of the benches: each ends with the block that started it, and with the bench if that dies."""

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
from pipeline.lifetime import end_with_parent
from pipeline.params import Params, Serve
from serving.processes.ports import free_port
from serving.release.manifest import repository
from serving.triton.server import Server, run_server, with_free_ports

ROOT = Path(serving.__file__).parents[1]
HOST = "127.0.0.1"
START_TIMEOUT_S = 90.0


class Stack(NamedTuple):
    """Describe a running gateway and its Triton; `folder` holds their params.yaml, `home` their state."""

    home: Path
    folder: Path
    params: Params
    triton: Server
    gateway: psutil.Process
    processes: tuple[psutil.Process, ...]  # those whose CPU time counts for the stack

    @property
    def triton_url(self) -> str:
        return f"http://{HOST}:{self.params.serve.http_port}"

    @property
    def gateway_url(self) -> str:
        return f"http://{HOST}:{self.params.gateway.port}"


class Child(NamedTuple):
    """Talk to a process that answers each JSON line with one."""

    name: str
    process: subprocess.Popen[str]
    log: Path

    def ask(self, **request: Any) -> dict[str, Any]:
        """Send a request and return its answer; raise `ToolError` with the end of the child's log when it has ended."""
        assert self.process.stdin is not None and self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
        except OSError:
            raise _ended_error(self.name, self.log) from None
        return self.read_answer()

    def read_answer(self) -> dict[str, Any]:
        """Return the next line; raise `ToolError` when there is none."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise _ended_error(self.name, self.log)
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextmanager
def stack(home: Path, params: Params, *, models: Sequence[str], cache_bytes: int) -> Iterator[Stack]:
    """Run Triton with these models and a gateway on free ports, with the settings of params but for the gateway's cache."""
    params = _on_free_ports(params, cache_bytes)
    folder = home / "bench"
    folder.mkdir(exist_ok=True)
    (folder / "params.yaml").write_text(yaml.safe_dump(json.loads(params.model_dump_json())), encoding="utf-8")
    with run_server(repository(home), models, params.serve, home) as triton, _gateway(home, folder, params) as gateway:
        yield Stack(home, folder, params, triton, gateway, (psutil.Process(triton.process.pid), gateway))


@contextmanager
def server(arguments: Sequence[str], url: str, log: Path) -> Iterator[psutil.Process]:
    """Run a Python program; yield its process when it answers a GET at this address."""
    with _program(arguments, Path.cwd(), None, log, stdin=None) as process:
        _wait_for_answer(process, url, log)
        yield psutil.Process(process.pid)


@contextmanager
def child(arguments: Sequence[str], folder: Path, home: Path | None, log: Path) -> Iterator[Child]:
    """Run a Python program that answers JSON lines; yield it when its first line has come."""
    with _program(arguments, folder, home, log, stdin=subprocess.PIPE) as process:
        started = Child(arguments[1], process, log)
        started.read_answer()
        yield started


def clear_settings() -> None:
    """Remove the settings of a user's state and collector from the environment that the children inherit."""
    for name in list(os.environ):
        if name.startswith(("EVERGREEN_", "MLFLOW_", "OTEL_")):
            del os.environ[name]


def cpu_s(processes: Sequence[psutil.Process]) -> float:
    """Return the CPU seconds used so far by these processes and their living children."""
    total = 0.0
    for root in processes:
        for member in (root, *root.children(recursive=True)):
            times = member.cpu_times()
            total += times.user + times.system
    return total


@contextmanager
def _gateway(home: Path, folder: Path, params: Params) -> Iterator[psutil.Process]:
    log = home / "gateway.log"
    with _program(["-m", "serving.gateway"], folder, home, log, stdin=None) as process:
        _wait_for_answer(process, f"http://{HOST}:{params.gateway.port}/readyz", log)
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
            start_new_session=True,  # Ctrl-C reaches the bench only, which ends its children in order
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


def _wait_for_answer(process: subprocess.Popen[str], url: str, log: Path) -> None:
    """Return when the address answers 2xx, or 404 or 405: the page exists only for other methods."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urlopen(url, timeout=2):  # noqa: S310 (http)
                return
        except OSError as error:
            if getattr(error, "code", 0) in (404, 405):
                return
            time.sleep(0.1)
    raise _ended_error(url, log)


def _on_free_ports(params: Params, cache_bytes: int) -> Params:
    serve: Serve = with_free_ports(params.serve.model_copy(update={"host": HOST}))
    gateway = params.gateway.model_copy(update={"host": HOST, "port": free_port(), "cache_bytes": cache_bytes})
    return params.model_copy(update={"serve": serve, "gateway": gateway})


def _ended_error(name: str, log: Path) -> ToolError:
    log_end = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-8:])
    return ToolError(name, f"it does not answer; its log ends with:\n{log_end}", f"read {log}")
