"""Where an HTTP service listens, and where programs on this machine reach it. Knows no ports and no paths."""

import ipaddress
import os
from typing import Literal
from urllib.parse import SplitResult, urlsplit

from pipeline.errors import InputError

Service = Literal[
    "gateway", "monitor", "console", "receiver", "controller", "flywheel", "inbox", "alertmanager", "prometheus", "mlflow"
]
VARIABLES: dict[Service, str] = {
    "gateway": "EVERGREEN_GATEWAY_HOST",
    "monitor": "EVERGREEN_MONITOR_HOST",
    "console": "EVERGREEN_CONSOLE_HOST",
    "receiver": "EVERGREEN_RECEIVER_HOST",
    "controller": "EVERGREEN_CONTROLLER_HOST",
    "flywheel": "EVERGREEN_FLYWHEEL_HOST",
    "inbox": "EVERGREEN_INBOX_HOST",
    "alertmanager": "EVERGREEN_ALERTMANAGER_HOST",
    "prometheus": "EVERGREEN_PROMETHEUS_HOST",
    "mlflow": "EVERGREEN_MLFLOW_HOST",
}
LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 (all addresses of a machine include this one)


def listen_host(service: Service, host: str) -> str:
    """Return the host of the service's environment variable, or that of params."""
    return os.environ.get(VARIABLES[service]) or host


def reach_host(service: Service, host: str) -> str:
    """Return the host at which this machine reaches the service: loopback when it listens on all addresses."""
    listening = listen_host(service, host)
    return LOOPBACK.get(listening, listening)


def shown_host(service: Service, host: str) -> str:
    """Return the host in links that people open: that of `EVERGREEN_LINKS_HOST`, or where this machine reaches the service."""
    return os.environ.get("EVERGREEN_LINKS_HOST") or reach_host(service, host)


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches a server that listens on `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def base_url(host: str, port: int) -> str:
    """Return the URL of a service; an IPv6 address is in brackets."""
    return f"http://{authority(host, port)}"


def authority(host: str, port: int) -> str:
    """Return host and port as a URL has them.

    >>> authority("::1", 8080)
    '[::1]:8080'
    """
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def split_url(url: str, *schemes: str) -> SplitResult:
    """Return the parts of an HTTP address, whose port can be read; raises `InputError` for any other."""
    try:
        parts = urlsplit(url)
        is_usable = parts.scheme in schemes and parts.hostname and (parts.port is None or parts.port > 0)
    except ValueError:  # of brackets or of the port
        is_usable = False
    if not is_usable:
        kinds = " or ".join(f"{scheme}://" for scheme in schemes)
        raise InputError(url, f"this is not an {kinds} address", "for example: http://127.0.0.1:8080")
    return parts
