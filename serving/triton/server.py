"""The local Triton: the server from the `nvidia-pytriton` wheel as a child process.

The wheel's server is 2.51, older than some security fixes: it listens on loopback only. Its admin API is closed over HTTP; over
gRPC it needs a key, which only this user can read. It has no response cache: Triton's would answer one caller with the outputs
that another has asked for (triton-inference-server/server#4362).
"""

import hashlib
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import BinaryIO, NamedTuple

import psutil

from pipeline.atomic_write import atomic_write
from pipeline.errors import ToolError
from pipeline.home import close_to_others
from pipeline.lifetime import ChildProcess, start_child
from pipeline.output.plain_text import print_line
from pipeline.params import Serve
from serving.processes.health import server_id
from serving.processes.ports import free_ports, require_free_port
from serving.triton.client import ADMIN_HEADER, is_ready, key_file
from serving.triton.hidden_argument import start_with_hidden
from serving.triton.shell_path import shell_path

RESTRICTED = ("model-repository", "shared-memory", "trace", "logging")
CLOSED = "closed\n"  # the name and the value of a header that no HTTP request can carry
LOOK_S = 1.0  # between two looks for dead processes: each reads every process of the machine
BURIED_WITHIN_S = 5.0  # Triton reaps a process that dies while loading after about a second, and one that is unloaded at once
TRITON_LINE = re.compile(r"[IWEF]\d{4} \d\d:")
NOISE = ("CudaDriverHelper has not been initialized", "pinned system memory")  # on every machine without a GPU
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 (where POSIX keeps it on Linux)


class Server(NamedTuple):
    """A running Triton that this process started."""

    process: ChildProcess
    serve: Serve
    admin_key: str
    log: Path
    home: Path


@contextmanager
def run_server(repository: Path, models: Sequence[str], serve: Serve, home: Path) -> Iterator[Server]:
    """Yield a server with these models ready; stop it, and wait for its end, when the block ends."""
    server = start_server(repository, models, serve, home)
    try:
        wait_ready(server, models)
        yield server
    finally:
        stop_server(server)


def start_server(repository: Path, models: Sequence[str], serve: Serve, home: Path) -> Server:
    """Start the server in its own process group; raise `ToolError` when a port is taken."""
    for port in (serve.http_port, serve.grpc_port, serve.metrics_port):
        require_free_port(serve.host, port)
    folder = home / "triton"
    folder.mkdir(parents=True, exist_ok=True)
    _free_shared_memory(_region(home, serve))
    key = _new_key(key_file(home, serve))
    log = log_path(home, serve)
    options = _options(shell_path(repository), models, serve, shell_path(backends_folder(folder)), home)
    environment = server_environment(shell_path(interpreter_folder(folder)) / "bin")
    region = f"--backend-config=python,shm-region-prefix-name={_region(home, serve)}"
    command = [str(wheel_folder() / "bin" / "tritonserver"), *options, region]
    if log.exists():
        log.replace(log.with_suffix(".before.log"))  # the output of a server that died
    with log.open("wb") as output:
        process = _start(command, f"--grpc-restricted-protocol={','.join(RESTRICTED)}:{ADMIN_HEADER}={key}", environment, output)
    return Server(process, serve, key, log, home)


def _start(command: Sequence[str], with_key: str, environment: Mapping[str, str], output: BinaryIO) -> ChildProcess:
    """Start the server with its key as a hidden argument; where the kernel forbids that, as an open one, and say so."""
    try:
        return start_with_hidden(command, with_key, environment=environment, output=output)
    except OSError as error:
        print_line(f"Triton's admin key is visible to every user of this machine: {error}", sys.stderr)
    return start_child([*command, with_key], stdout=output, stderr=subprocess.STDOUT, env=environment, start_new_session=True)


def stop_server(server: Server) -> None:
    """Let the server finish its requests, then end its whole process group; a second Ctrl-C ends it at once."""
    try:
        if server.process.poll() is None:
            server.process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                server.process.wait(timeout=15)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.process.pid, signal.SIGKILL)  # stubs of the Python backend included
        server.process.wait()
        _free_shared_memory(_region(server.home, server.serve))


class DeadModelWatch:
    """Notices a server that waits for ever for the answer of a model's dead process."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._due = 0.0

    def is_crippled(self, server: Server, now: float) -> bool:
        """Return True once a process has been dead for longer than Triton needs to notice. Looks at most once in `LOOK_S`."""
        if now < self._due:
            return False
        self._due = now + LOOK_S
        if not has_dead_model_process(server):
            self._since = None
            return False
        self._since = now if self._since is None else self._since
        return now - self._since >= BURIED_WITHIN_S


def has_dead_model_process(server: Server) -> bool:
    """Return whether a model's process has died unnoticed by Triton, which then waits for its answer for ever."""
    try:
        children = psutil.Process(server.process.pid).children()
        return any(child.status() == psutil.STATUS_ZOMBIE for child in children)
    except (psutil.Error, OSError):  # it has just ended, or /proc cannot be read now
        return False


def wait_ready(server: Server, models: Sequence[str]) -> None:
    """Return once every model answers; raise `ToolError` with the server's output when it, or a model's process, ends."""
    watch, deadline = DeadModelWatch(), time.monotonic() + server.serve.ready_timeout_s
    while time.monotonic() < deadline:
        if server.process.poll() is not None or watch.is_crippled(server, time.monotonic()):
            break
        if is_ready(server.serve, models):
            close_shared_memory(server.home, server.serve)
            return
        time.sleep(0.1)
    raise ToolError(
        "Triton", f"the server did not become ready; its last output:\n{last_errors(server.log)}", f"read {server.log}"
    )


def _options(repository: Path, models: Sequence[str], serve: Serve, backends: Path, home: Path) -> list[str]:
    return [
        f"--model-repository={repository}",
        f"--id={server_id(home)}",  # by which `evergreen status` recognises it
        "--model-control-mode=explicit",
        *(f"--load-model={model}" for model in models),
        f"--backend-directory={backends}",
        "--disable-auto-complete-config",
        "--exit-timeout-secs=10",
        "--strict-readiness=false",  # otherwise the whole server is unready while a model loads or unloads
        f"--http-address={serve.host}",
        f"--http-port={serve.http_port}",
        f"--grpc-address={serve.host}",
        f"--grpc-port={serve.grpc_port}",
        f"--metrics-address={serve.host}",
        f"--metrics-port={serve.metrics_port}",
        "--allow-gpu-metrics=false",
        f"--http-restricted-api={','.join(RESTRICTED)}:{CLOSED}={CLOSED}",
    ]


def _region(home: Path, serve: Serve) -> str:
    """Return a prefix that no other server on this machine has: neither one of another home nor one on another port."""
    return f"evergreen-{serve.http_port}-{hashlib.sha256(str(home.resolve()).encode()).hexdigest()[:8]}-"


def close_shared_memory(home: Path, serve: Serve) -> None:
    """Take the rights of other users to the memory through which Triton hands texts to its models; it creates it open to all."""
    for path in SHARED_MEMORY.glob(f"{_region(home, serve)}*"):
        with suppress(FileNotFoundError):  # of a model that is unloaded now
            path.chmod(0o600)


def _free_shared_memory(region: str) -> None:
    """Remove what a killed server has left behind: 64 MiB for each process of a model."""
    for path in SHARED_MEMORY.glob(f"{region}*"):
        path.unlink(missing_ok=True)


def _new_key(path: Path) -> str:
    """Create the admin key of one server, readable by its owner only; `publish` reads this file."""
    path.unlink(missing_ok=True)
    key = secrets.token_hex(16)
    with os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
        file.write(key)
    return key


def wheel_folder() -> Path:
    """Return the server's folder inside the installed wheel."""
    folder = Path(sysconfig.get_path("purelib")) / "pytriton" / "tritonserver"
    if not (folder / "bin" / "tritonserver").is_file():
        raise ToolError("Triton", f"there is no server in {folder}", "install what requirements.lock names: make .venv/ready")
    return folder


def backends_folder(folder: Path) -> Path:
    """Return a backend folder in the home of state: the wheel's Python backend together with the stub of this Python."""
    wheel = wheel_folder()
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    name = f"{version('nvidia-pytriton')}-py{python}"
    target = folder / name / "python"
    if target.is_dir():
        return target.parent
    stub = wheel / "python_backend_stubs" / python / "triton_python_backend_stub"
    if not stub.is_file():
        raise ToolError("Triton", f"the wheel has no Python backend for Python {python}", "use Python 3.11")
    part = folder / f".{name}-{os.getpid()}"
    shutil.copytree(wheel / "backends" / "python", part / "python", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(stub, part / "python" / stub.name)
    close_to_others(part)
    with suppress(OSError):  # another process was first: its copy is the same
        part.rename(target.parent)
    shutil.rmtree(part, ignore_errors=True)
    return target.parent


def interpreter_folder(folder: Path) -> Path:
    """Return a virtual environment in the home of state that is ours, except that Python neither writes nor reads bytecode files.

    A version's folder then holds what was verified, and nothing else, while it is served. The stub ignores PYTHON… variables.
    """
    ours = sysconfig.get_path("purelib")
    packages = folder / "interpreter" / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    files = {
        folder / "interpreter" / "pyvenv.cfg": f"home = {sysconfig.get_config_var('BINDIR')}\n",
        packages / "ours.pth": f"import site; site.addsitedir({ours!r})\n",
        packages / "sitecustomize.py": "import os, sys\nsys.dont_write_bytecode = True\nsys.pycache_prefix = os.devnull\n",
    }
    for path, text in files.items():
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            with atomic_write(path) as part:
                part.write_text(text, encoding="utf-8")
    python = folder / "interpreter" / "bin" / "python3"
    python.parent.mkdir(parents=True, exist_ok=True)
    base = Path(sys.executable).resolve()
    if not python.is_symlink() or python.readlink() != base:
        python.unlink(missing_ok=True)
        python.symlink_to(base)
    return folder / "interpreter"


def server_environment(interpreter: Path) -> dict[str, str]:
    """Return our environment with the wheel's libraries and the interpreter's on the loader path.

    The backend's stub embeds Python and takes the first `python3` on PATH for its home.
    """
    site = sysconfig.get_path("purelib")
    libraries = [f"{site}/nvidia_pytriton.libs", str(sysconfig.get_config_var("LIBDIR")), os.environ.get("LD_LIBRARY_PATH", "")]
    path = os.pathsep.join([str(interpreter), str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return {**os.environ, "LD_LIBRARY_PATH": os.pathsep.join(filter(None, libraries)), "PATH": path}


def with_free_ports(serve: Serve) -> Serve:
    """Return the settings with three free ports."""
    http, grpc, metrics = free_ports(serve.host, 3)
    return serve.model_copy(update={"http_port": http, "grpc_port": grpc, "metrics_port": metrics})


def log_path(home: Path, serve: Serve) -> Path:
    """Return the path of a server's log."""
    return home / "triton" / f"server-{serve.http_port}.log"


def last_errors(log: Path) -> str:
    """Return the last errors of a log, and what others than Triton have written; its last lines when there are none.

    The shell, the interpreter and the loader of a model's process say why it ended; Triton does not.
    """
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []
    errors = [line for line in lines if _is_error(line) and not any(noise in line for noise in NOISE)]
    return "\n".join(list(dict.fromkeys(errors or lines))[-8:])


def _is_error(line: str) -> bool:
    if TRITON_LINE.match(line):
        return line[0] in "EF" or "rror" in line
    return line[:1].isalnum()  # not the frames of a traceback, nor Triton's tables
