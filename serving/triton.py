"""The Triton door: the server from the `nvidia-pytriton` wheel as a child process, and the client that asks it.

The wheel's server is 2.51, older than some security fixes: it listens on loopback and its administration needs a key.
"""

import ctypes
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from numpy.typing import NDArray

from pipeline.errors import ToolError
from pipeline.params import Serve

ADMIN_HEADER = "evergreen-admin"
RESTRICTED = ("model-repository", "shared-memory", "trace", "logging")
PR_SET_PDEATHSIG = 1
OUTPUTS = ("label", "probabilities", "sketch", "pieces", "pieces_per_word")
CACHE_BYTES = 64 * 2**20


class Answers(NamedTuple):
    """What Triton said of N texts."""

    labels: list[str]
    probabilities: NDArray[np.float32]  # (N, classes)
    sketch: NDArray[np.float16]  # (N, sketch_size)
    pieces: NDArray[np.int32]  # (N,)
    pieces_per_word: NDArray[np.float32]  # (N,)


class Server(NamedTuple):
    """A running Triton of ours."""

    process: subprocess.Popen[bytes]
    serve: Serve
    admin_key: str
    log: Path


def model_name(version: int) -> str:
    """Each version is a Triton model of its own: loading a version of one model would reload its siblings."""
    return f"intent-{version}"


@contextmanager
def running(repository: Path, versions: Sequence[int], serve: Serve, home: Path) -> Iterator[Server]:
    """A server with these versions loaded and ready; stopped, and waited for, when the block ends in any way."""
    server = start(repository, versions, serve, home)
    try:
        wait_ready(server, versions)
        yield server
    finally:
        stop(server)


def start(repository: Path, versions: Sequence[int], serve: Serve, home: Path) -> Server:
    """Start the server in a process group of its own; raises `ToolError` when a port is taken."""
    for port in (serve.http_port, serve.grpc_port, serve.metrics_port):
        _require_free(serve.host, port)
    key = secrets.token_hex(16)
    folder = home / "triton"
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / f"server-{serve.http_port}.log"
    command = [str(_wheel() / "bin" / "tritonserver"), *_options(repository, versions, serve, _backends(folder), key)]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=_environment(),
            start_new_session=True,
            preexec_fn=_end_with_parent,
        )
    return Server(process, serve, key, log)


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


def ended(server: Server) -> ToolError:
    """What to tell when the server ended by itself."""
    return ToolError("Triton", f"the server ended by itself; its last words:\n{_last_errors(server.log)}", f"read {server.log}")


def wait_ready(server: Server, versions: Sequence[int]) -> None:
    """Return once every version answers; raises `ToolError` with the server's own words when it ends or takes too long."""
    deadline = time.monotonic() + server.serve.ready_timeout_s
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            break
        if is_ready(server.serve, versions):
            return
        time.sleep(0.1)
    raise ToolError(
        "Triton", f"the server did not become ready; its last words:\n{_last_errors(server.log)}", f"read {server.log}"
    )


def is_ready(serve: Serve, versions: Sequence[int]) -> bool:
    """Whether a server answers at the address of params and has these versions ready."""
    try:
        with triton_http.InferenceServerClient(f"{serve.host}:{serve.http_port}") as client:
            return bool(client.is_server_ready()) and all(client.is_model_ready(model_name(v)) for v in versions)
    except (OSError, triton_http.InferenceServerException):
        return False


def digest_served(serve: Serve, version: int) -> str | None:
    """The digest of the model that the server at the address of params has ready under this version, None when it has none."""
    if not is_ready(serve, [version]):
        return None
    with triton_http.InferenceServerClient(f"{serve.host}:{serve.http_port}") as client:
        parameters = client.get_model_config(model_name(version)).get("parameters", {})
    return str(parameters.get("model_digest", {}).get("string_value", ""))


def ask_http(serve: Serve, version: int, texts: Sequence[str]) -> Answers:
    """Ask over HTTP; raises tritonclient's `InferenceServerException` when the server refuses."""
    tensor = triton_http.InferInput("text", [len(texts), 1], "BYTES")
    tensor.set_data_from_numpy(_as_bytes(texts))
    wanted = [triton_http.InferRequestedOutput(name) for name in OUTPUTS]
    with triton_http.InferenceServerClient(f"{serve.host}:{serve.http_port}", network_timeout=60.0) as client:
        return _answers(client.infer(model_name(version), [tensor], outputs=wanted))


def ask_grpc(serve: Serve, version: int, texts: Sequence[str]) -> Answers:
    """Ask over gRPC; raises tritonclient's `InferenceServerException` when the server refuses."""
    tensor = triton_grpc.InferInput("text", [len(texts), 1], "BYTES")
    tensor.set_data_from_numpy(_as_bytes(texts))
    wanted = [triton_grpc.InferRequestedOutput(name) for name in OUTPUTS]
    with triton_grpc.InferenceServerClient(f"{serve.host}:{serve.grpc_port}") as client:
        return _answers(client.infer(model_name(version), [tensor], outputs=wanted, client_timeout=60.0))


def _as_bytes(texts: Sequence[str]) -> NDArray[np.object_]:
    return np.array([text.encode("utf-8") for text in texts], dtype=np.object_).reshape(-1, 1)


def _answers(result: Any) -> Answers:
    label, probabilities, sketch, pieces, pieces_per_word = (result.as_numpy(name) for name in OUTPUTS)
    return Answers(
        [cell.decode("utf-8") for cell in label.reshape(-1)],
        probabilities,
        sketch,
        pieces.reshape(-1),
        pieces_per_word.reshape(-1),
    )


def _options(repository: Path, versions: Sequence[int], serve: Serve, backends: Path, key: str) -> list[str]:
    restricted = f"{','.join(RESTRICTED)}:{ADMIN_HEADER}={key}"
    return [
        f"--model-repository={repository}",
        "--model-control-mode=explicit",
        *(f"--load-model={model_name(version)}" for version in versions),
        f"--backend-directory={backends}",
        f"--cache-directory={_wheel() / 'caches'}",
        f"--cache-config=local,size={CACHE_BYTES}",
        "--disable-auto-complete-config",
        "--exit-timeout-secs=10",
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


def _end_with_parent() -> None:
    """In the child: be told to stop when the parent dies, by kill -9 too (Linux)."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _environment() -> dict[str, str]:
    """Ours, with the wheel's libraries and the interpreter's on the loader path.

    The backend's stub embeds Python and takes the `python3` first on PATH for its home: with ours there it sees our packages.
    """
    site = sysconfig.get_path("purelib")
    libraries = [f"{site}/nvidia_pytriton.libs", str(sysconfig.get_config_var("LIBDIR")), os.environ.get("LD_LIBRARY_PATH", "")]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return {**os.environ, "LD_LIBRARY_PATH": os.pathsep.join(filter(None, libraries)), "PATH": path}


def _require_free(host: str, port: int) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ToolError(
                f"{host}:{port}",
                f"the port cannot be used: {error.strerror}",
                "stop what listens there (another `make serve`?), or change the ports of section serve in params.yaml",
            ) from None


def free_ports(serve: Serve) -> Serve:
    """The same settings on three free ports, for a server that lives for a moment."""
    sockets = [socket.socket() for _ in range(3)]
    try:
        for one in sockets:
            one.bind((serve.host, 0))
        http, grpc, metrics = (one.getsockname()[1] for one in sockets)
    finally:
        for one in sockets:
            one.close()
    return serve.model_copy(update={"http_port": http, "grpc_port": grpc, "metrics_port": metrics})


def _last_errors(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []
    errors = [line for line in lines if line.startswith("E") or "rror" in line]
    return "\n".join((errors or lines)[-8:])
