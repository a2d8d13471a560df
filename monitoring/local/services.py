"""The processes that `make serve` and `make watch` start on this machine: where they listen, and whether they are this home's."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from pipeline.params import Params
from serving.processes.addresses import Service, authority, reach_host
from serving.processes.health import Owner, Sign, find_owner, health_sign, server_id

WATCHING: tuple[Service, ...] = ("monitor", "prometheus", "alertmanager", "inbox", "console", "receiver", "controller")
TITLES: Mapping[str, str] = MappingProxyType({"prometheus": "Prometheus", "alertmanager": "Alertmanager"})


class LocalService(NamedTuple):
    """A process, the address at which this machine reaches it, the param of its port, and whose program listens there."""

    name: str
    address: str
    setting: str
    owner: Owner

    @property
    def is_running(self) -> bool:
        """Return whether this home's process runs. A process that answers too late to be recognised counts as running."""
        return self.owner in ("this home", "unknown")

    @property
    def doubt(self) -> str:
        """Return why this home's process does not run there for certain, "" where that is clear."""
        if self.owner == "unknown":
            return f"{self.address} does not say whose it is"
        if self.owner == "another":
            return f"{self.address} is used by another project or program: stop that, or change {self.setting} in params.yaml"
        return ""


def find_services(params: Params, home: Path) -> Sequence[LocalService]:
    """Return the processes, in the order in which a request and an alert meet them."""
    gateway = reach_host("gateway", params.gateway.host), params.gateway.port
    triton = params.serve.host, params.serve.http_port
    found = [
        LocalService("gateway", authority(*gateway), "gateway.port", find_owner(*gateway, health_sign("gateway", home))),
        LocalService("Triton", authority(*triton), "serve.http_port", find_owner(*triton, triton_sign(home))),
    ]
    for service in WATCHING:
        host, port = reach_host(service, params.alerts.host), getattr(params.alerts, f"{service}_port")
        owner = find_owner(host, port, SIGNS[service](home) if service in SIGNS else health_sign(service, home))
        found.append(LocalService(TITLES.get(service, service), authority(host, port), f"alerts.{service}_port", owner))
    return found


def triton_sign(home: Path) -> Sign:
    """Return the sign of a Triton that `make serve` has started: its id."""
    return Sign("/v2", lambda body: bool(body["name"] == server_id(home)))


def prometheus_sign(home: Path) -> Sign:
    """Return the sign of a Prometheus: the folder of its data."""
    return Sign("/api/v1/status/flags", lambda body: bool(body["data"]["storage.tsdb.path"] == str(home / "alerts/prometheus")))


def alertmanager_sign(home: Path) -> Sign:
    """Return the sign of an Alertmanager: the files that its configuration names."""

    def is_ours(body: Any) -> bool:
        import yaml  # here and below: most commands need neither

        from monitoring.alert_rules.alertmanager import TEMPLATES

        return str(home / "alerts" / TEMPLATES) in yaml.safe_load(body["config"]["original"])["templates"]

    return Sign("/api/v2/status", is_ours)


SIGNS: Mapping[str, Callable[[Path], Sign]] = MappingProxyType({"prometheus": prometheus_sign, "alertmanager": alertmanager_sign})
