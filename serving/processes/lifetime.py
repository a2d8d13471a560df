"""What a process of ours asks of its machine: a port that is free, and to end with whoever started it."""

import ctypes
import signal
import socket

from pipeline.errors import ToolError

PR_SET_PDEATHSIG = 1


def end_with_parent(told: int = signal.SIGTERM) -> None:
    """In the child: be told to stop when the parent dies, by kill -9 too (Linux)."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, told)


def require_free(host: str, port: int) -> None:
    """Raise `ToolError` when nothing more can listen on this port."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ToolError(
                f"{host}:{port}",
                f"the port cannot be used: {error.strerror}",
                "stop what listens there (another `make serve` or `make watch`?), or choose another port in params.yaml",
            ) from None
