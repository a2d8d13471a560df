"""The output of `kubectl kustomize`, and functions to search it. Nothing here contacts a cluster."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

Object = dict[str, Any]

TRITON_PORTS = {"http": "http_port", "grpc": "grpc_port", "metrics": "metrics_port"}
UNITS = {"Mi": 2**20, "Gi": 2**30, "m": 0.001, "": 1}


class Workload(NamedTuple):
    """A Deployment and its pod template."""

    name: str
    namespace: str
    labels: dict[str, str]  # of the pods
    deployment: Object
    pod: Object

    @property
    def main(self) -> Object:
        return dict(self.pod["containers"][0])


@cache
def kubectl_problem() -> str:
    """Return why nothing can be rendered here, or an empty string."""
    if not shutil.which("kubectl"):
        return "kubectl is not installed"
    result = subprocess.run(
        ["kubectl", "version", "--client", "--output=json"], env=offline_environment(), capture_output=True, text=True
    )
    match = re.search(r'"gitVersion": "v(\d+)\.(\d+)', result.stdout)
    if match and tuple(map(int, match.groups())) >= (1, 27):
        return ""
    return f"kubectl is older than 1.27: {match.group(0) if match else result.stderr}"


def offline_environment() -> dict[str, str]:
    """Return an environment without a cluster."""
    return {**os.environ, "KUBECONFIG": os.devnull}


def kustomize(folder: Path) -> list[Object]:
    """Render a folder with `kubectl kustomize`; skips the test without kubectl."""
    if reason := kubectl_problem():
        pytest.skip(reason)
    result = subprocess.run(["kubectl", "kustomize", str(folder)], env=offline_environment(), capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert not result.stderr, "kustomize warns"
    return [item for item in yaml.safe_load_all(result.stdout) if item]


def of_kind(objects: list[Object], kind: str) -> list[Object]:
    return [item for item in objects if item["kind"] == kind]


def find_object(objects: list[Object], kind: str, name: str) -> Object:
    (match,) = [item for item in of_kind(objects, kind) if item["metadata"]["name"] == name]
    return match


def workloads(objects: list[Object]) -> list[Workload]:
    """Return every Deployment as a `Workload`."""
    deployments = []
    for item in of_kind(objects, "Deployment"):
        template = item["spec"]["template"]
        labels = template["metadata"]["labels"]
        deployments.append(Workload(item["metadata"]["name"], item["metadata"]["namespace"], labels, item, template["spec"]))
    return deployments


def find_workload(objects: list[Object], name: str) -> Workload:
    (match,) = [workload for workload in workloads(objects) if workload.name == name]
    return match


def containers(pod: Object) -> Iterator[Object]:
    yield from pod.get("initContainers", [])
    yield from pod["containers"]


def amount(quantity: str) -> float:
    """Convert a Kubernetes quantity, `512Mi`, `500m` or `2`, to a number."""
    digits, unit = re.fullmatch(r"(\d+)([A-Za-z]*)", str(quantity)).groups()  # type: ignore[union-attr]
    return int(digits) * UNITS[unit]


def flags(container: Object) -> dict[str, str]:
    """Parse arguments of the form --name=value, or --name."""
    split = [argument.partition("=") for argument in container["args"]]
    assert len({name for name, _, _ in split}) == len(split), "an argument is repeated"
    return {name: value for name, _, value in split}


def config_map_data(objects: list[Object], prefix: str) -> dict[str, str]:
    (data,) = [
        config_map["data"] for config_map in of_kind(objects, "ConfigMap") if config_map["metadata"]["name"].startswith(prefix)
    ]
    return dict(data)
