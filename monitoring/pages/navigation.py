"""Links that every page shows: console, inbox, MLflow, API. In place of a link to what does not run stands its command.

What another clone runs on the same port is no link of this one.
"""

from pathlib import Path
from typing import NamedTuple

from pipeline.params import Params
from serving.processes.addresses import Service, base_url, reach_host, shown_host
from serving.processes.health import find_owner, health_sign, is_listening

MLFLOW_PORT = 5000  # of `make ui`


class Link(NamedTuple):
    """An entry of the navigation; `start` is the command that starts what does not answer, else empty."""

    name: str
    url: str
    is_current: bool = False
    start: str = ""


def service_links(params: Params, home: Path, *, current: str = "") -> list[Link]:
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
            start="" if _is_ours(service, reach_host(service, host), port, home) else start,
        )
        for name, service, host, port, path, start, is_here in services
        if is_here and name != current
    ]


def _is_ours(service: Service, host: str, port: int, home: Path) -> bool:
    """Return whether this home's service answers there. MLflow does not say whose it is."""
    if service == "mlflow":
        return is_listening(host, port)
    return find_owner(host, port, health_sign(service, home)) in ("this home", "unknown")
