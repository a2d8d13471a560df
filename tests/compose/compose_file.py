"""compose.yaml as a tree, with its anchors merged, and functions to search it. No Docker engine is asked."""

import re
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tests.conftest import ROOT

Service = dict[str, Any]
HOME = "/var/lib/evergreen"


@cache
def compose() -> dict[str, Any]:
    """Return the file without the extensions that only hold anchors."""
    tree = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
    return {key: value for key, value in tree.items() if not key.startswith("x-")}


def services() -> dict[str, Service]:
    return dict(compose()["services"])


def ours() -> dict[str, Service]:
    """Return the services of our images, but Triton, whose command is not Python."""
    return {name: service for name, service in services().items() if is_python(service)}


def is_python(service: Service) -> bool:
    return bool(re.match(r"evergreen-(?!triton)", service["image"]))


def words(service: Service) -> list[str]:
    """Return the entry point and the command."""
    return [*service.get("entrypoint", []), *service.get("command", [])]


def module(service: Service) -> str | None:
    """Return the module that `python -m` runs, also at the end of a shell script."""
    match = re.search(r"python -m ([\w.]+)", " ".join(words(service)))
    return match[1] if match else None


def environment(name: str) -> dict[str, str]:
    return dict(services()[name].get("environment", {}))


def mounts(service: Service) -> dict[str, dict[str, Any]]:
    return {mount["target"]: mount for mount in service.get("volumes", [])}


def volumes() -> list[dict[str, Any]]:
    """Return every mount of a volume."""
    every = [mount for service in services().values() for mount in service.get("volumes", [])]
    return [mount for mount in every if mount["type"] == "volume"]


def network_owner(name: str) -> str:
    """Return the service under whose name others reach this one."""
    mode: str = services()[name].get("network_mode", "")
    return mode.removeprefix("service:") if mode.startswith("service:") else name


def shell_script(service: Service) -> str:
    """Return the script of `/bin/sh -euc`, as the shell reads it: Compose turns $$ into $."""
    command = service["command"]
    assert command[:2] == ["/bin/sh", "-euc"]
    return str(command[2]).replace("$$", "$")


def source_files() -> list[Path]:
    return [
        path for folder in ("pipeline", "serving", "state", "monitoring", "evergreen") for path in (ROOT / folder).rglob("*.py")
    ]
