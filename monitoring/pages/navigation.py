"""Links that every page shows: console, inbox, MLflow, API. In place of a link to what does not run stands its command."""

import socket
from typing import NamedTuple

from pipeline.params import Params
from serving.processes.addresses import Service, base_url, reach_host, shown_host

MLFLOW_PORT = 5000  # of `make ui`
PROBE_S = 0.2


class Link(NamedTuple):
    """An entry of the navigation; `start` is the command that starts what does not answer, else empty."""

    name: str
    url: str
    is_current: bool = False
    start: str = ""


def service_links(params: Params, *, current: str = "") -> list[Link]:
    """Return the links to the services of this machine that people open in a browser, without the current page's service."""
    alerts = params.alerts
    services: list[tuple[str, Service, str, int, str, str, bool]] = [
        ("Console", "console", alerts.host, alerts.console_port, "/", "make serve", alerts.console == "here"),
        ("Inbox", "inbox", alerts.host, alerts.inbox_port, "/", "make watch", alerts.inbox == "here"),
        ("MLflow", "mlflow", "127.0.0.1", MLFLOW_PORT, "/", "make ui", True),
        ("API", "gateway", params.gateway.host, params.gateway.port, "/docs", "make serve", True),
    ]
    return [
        Link(
            name,
            f"{base_url(shown_host(service, host), port)}{path}",
            start="" if is_listening(reach_host(service, host), port) else start,
        )
        for name, service, host, port, path, start, is_here in services
        if is_here and name != current
    ]


def is_listening(host: str, port: int) -> bool:
    """Return whether anything accepts connections there."""
    try:
        with socket.create_connection((host, port), timeout=PROBE_S):
            return True
    except OSError:
        return False
