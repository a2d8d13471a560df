"""Find free ports, and check that a port can be used."""

import socket
from contextlib import ExitStack

from pipeline.errors import ToolError


def require_free_port(host: str, port: int) -> None:
    """Raise `ToolError` when nothing can listen on this port."""
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


def free_ports(host: str, count: int) -> list[int]:
    """Return `count` different ports that nobody listens on now."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind((host, 0))
        return [probe.getsockname()[1] for probe in probes]


def free_port(host: str = "127.0.0.1") -> int:
    """Return a port that nobody listens on now."""
    return free_ports(host, 1)[0]
