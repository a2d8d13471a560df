"""The local Triton: the server from the `nvidia-pytriton` wheel as a child process.

The wheel's server is 2.51, older than some security fixes: it listens on loopback and its administration needs a key.
"""

import hashlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import psutil

from pipeline.errors import ToolError
from pipeline.params import Serve
from serving.processes.lifetime import end_with_parent
from serving.processes.ports import free_ports, require_free_port
from serving.triton.client import ADMIN_HEADER, is_ready, key_file

RESTRICTED = ("model-repository", "shared-memory", "trace", "logging")
CACHE_BYTES = 64 * 2**20
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 (where POSIX keeps it on Linux)


class Server(NamedTuple):
    """A running Triton of ours."""

    process: subprocess.Popen[bytes]
    serve: Serve
    admin_key: str
    log: Path
    region: str  # how the names of its shared memory begin


@contextmanager
def running(repository: Path, models: Sequence[str], serve: Serve, home: Path) -> Iterator[Server]:
    """A server with these models loaded and ready; stopped, and waited for, when the block ends in any way."""
    server = start(repository, models, serve, home)
    try:
        wait_ready(server, models)
        yield server
    finally:
        stop(server)


def start(repository: Path, models: Sequence[str], serve: Serve, home: Path) -> Server:
    """Start the server in a process group of its own; raises `ToolError` when a port is taken."""
    for port in (serve.http_port, serve.grpc_port, serve.metrics_port):
        require_free_port(serve.host, port)
    folder = home / "triton"
    folder.mkdir(parents=True, exist_ok=True)
    _free_shared_memory(_region(home, serve))
    key = _new_key(key_file(home, serve))
    log = log_path(home, serve)
    options = _options(repository, models, serve, _backends(folder), key)
    region = f"--backend-config=python,shm-region-prefix-name={_region(home, serve)}"
    command = [str(_wheel() / "bin" / "tritonserver"), *options, region]
    if log.exists():
        log.replace(log.with_suffix(".before.log"))  # the last words of one that has died
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=_environment(),
            start_new_session=True,
            preexec_fn=end_with_parent,
        )
    return Server(process, serve, key, log, _region(home, serve))


def stop(server: Server) -> None:
    """Ask the server to finish what it has begun, then end its whole group; a second Ctrl-C ends it at once."""
    try:
        if server.process.poll() is None:
            server.process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                server.process.wait(timeout=15)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.process.pid, signal.SIGKILL)  # stubs of the Python backend included
        server.process.wait()
        _free_shared_memory(server.region)


def has_dead_model_process(server: Server) -> bool:
    """Whether a process of a model has died that Triton does not bury: it waits for its answer for ever, and for no other."""
    try:
        children = psutil.Process(server.process.pid).children()
        return any(child.status() == psutil.STATUS_ZOMBIE for child in children)
    except psutil.NoSuchProcess:
        return False


def ended(server: Server) -> ToolError:
    """What to tell when the server ended by itself."""
    return ToolError("Triton", f"the server ended by itself; its last words:\n{last_errors(server.log)}", f"read {server.log}")


def wait_ready(server: Server, models: Sequence[str]) -> None:
    """Return once every model answers; raises `ToolError` with the server's own words when it ends or takes too long."""
    deadline = time.monotonic() + server.serve.ready_timeout_s
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            break
        if is_ready(server.serve, models):
            return
        time.sleep(0.1)
    raise ToolError(
        "Triton", f"the server did not become ready; its last words:\n{last_errors(server.log)}", f"read {server.log}"
    )


def _options(repository: Path, models: Sequence[str], serve: Serve, backends: Path, key: str) -> list[str]:
    restricted = f"{','.join(RESTRICTED)}:{ADMIN_HEADER}={key}"
    return [
        f"--model-repository={repository}",
        "--model-control-mode=explicit",
        *(f"--load-model={model}" for model in models),
        f"--backend-directory={backends}",
        f"--cache-directory={_wheel() / 'caches'}",
        f"--cache-config=local,size={CACHE_BYTES}",
        "--disable-auto-complete-config",
        "--exit-timeout-secs=10",
        "--strict-readiness=false",  # else the whole server calls itself unready while a model loads or unloads
        f"--http-address={serve.host}",
        f"--http-port={serve.http_port}",
        f"--grpc-address={serve.host}",
        f"--grpc-port={serve.grpc_port}",
        f"--metrics-address={serve.host}",
        f"--metrics-port={serve.metrics_port}",
        "--allow-gpu-metrics=false",
        f"--http-restricted-api={restricted}",
        f"--grpc-restricted-protocol={restricted}",
    ]


def _region(home: Path, serve: Serve) -> str:
    """No other server's on this machine: neither of another home nor on another port."""
    return f"evergreen-{serve.http_port}-{hashlib.sha256(str(home.resolve()).encode()).hexdigest()[:8]}-"


def _free_shared_memory(region: str) -> None:
    """Take away what a server that was killed has left: 64 MiB for each process of a model."""
    for path in SHARED_MEMORY.glob(f"{region}*"):
        path.unlink(missing_ok=True)


def _new_key(path: Path) -> str:
    """A key for the administration of one server, readable by its owner alone; `publish` reads it from here."""
    path.unlink(missing_ok=True)
    key = secrets.token_hex(16)
    with os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
        file.write(key)
    return key


def _wheel() -> Path:
    """The server's folder inside the installed wheel."""
    folder = Path(sysconfig.get_path("purelib")) / "pytriton" / "tritonserver"
    if not (folder / "bin" / "tritonserver").is_file():
        raise ToolError("Triton", f"there is no server in {folder}", "install what requirements.lock names: make .venv/ready")
    return folder


def _backends(folder: Path) -> Path:
    """A backend folder in the home of state: the wheel's Python backend with the stub of this Python beside it."""
    wheel = _wheel()
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    own = f"{version('nvidia-pytriton')}-py{python}"
    target = folder / own / "python"
    if target.is_dir():
        return target.parent
    stub = wheel / "python_backend_stubs" / python / "triton_python_backend_stub"
    if not stub.is_file():
        raise ToolError("Triton", f"the wheel has no Python backend for Python {python}", "use Python 3.11")
    part = folder / f".{own}-{os.getpid()}"
    shutil.copytree(wheel / "backends" / "python", part / "python", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(stub, part / "python" / stub.name)
    with suppress(OSError):  # somebody else was first: theirs is the same
        part.rename(target.parent)
    shutil.rmtree(part, ignore_errors=True)
    return target.parent


def _environment() -> dict[str, str]:
    """Ours, with the wheel's libraries and the interpreter's on the loader path.

    The backend's stub embeds Python and takes the `python3` first on PATH for its home: with ours there it sees our packages.
    """
    site = sysconfig.get_path("purelib")
    libraries = [f"{site}/nvidia_pytriton.libs", str(sysconfig.get_config_var("LIBDIR")), os.environ.get("LD_LIBRARY_PATH", "")]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return {**os.environ, "LD_LIBRARY_PATH": os.pathsep.join(filter(None, libraries)), "PATH": path}


def with_free_ports(serve: Serve) -> Serve:
    """Return the settings with three free ports."""
    http, grpc, metrics = free_ports(serve.host, 3)
    return serve.model_copy(update={"http_port": http, "grpc_port": grpc, "metrics_port": metrics})


def log_path(home: Path, serve: Serve) -> Path:
    """Return the path of a server's log."""
    return home / "triton" / f"server-{serve.http_port}.log"


def last_errors(log: Path) -> str:
    """Return the last error lines of a log, or its last lines when it has none."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []
    errors = [line for line in lines if line.startswith("E") or "rror" in line]
    return "\n".join((errors or lines)[-8:])
