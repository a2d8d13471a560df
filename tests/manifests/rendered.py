"""What `kubectl kustomize` makes of k8s/, and words to speak of it. Nothing here asks a cluster."""

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
    """A Deployment and what its pods are."""

    name: str
    namespace: str
    labels: dict[str, str]  # of the pods
    deployment: Object
    pod: Object

    @property
    def main(self) -> Object:
        return dict(self.pod["containers"][0])


@cache
def without_kubectl() -> str:
    """Why nothing can be rendered here; empty where it can."""
    if not shutil.which("kubectl"):
        return "kubectl is not installed"
    said = subprocess.run(["kubectl", "version", "--client", "--output=json"], env=offline(), capture_output=True, text=True)
    found = re.search(r'"gitVersion": "v(\d+)\.(\d+)', said.stdout)
    if found and tuple(map(int, found.groups())) >= (1, 27):
        return ""
    return f"kubectl is older than 1.27: {found.group(0) if found else said.stderr}"


def offline() -> dict[str, str]:
    """No cluster is known to what we call."""
    return {**os.environ, "KUBECONFIG": os.devnull}


def kustomize(folder: Path) -> list[Object]:
    """What `kubectl kustomize` makes of a folder; skips where it is absent."""
    if reason := without_kubectl():
        pytest.skip(reason)
    done = subprocess.run(["kubectl", "kustomize", str(folder)], env=offline(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not done.stderr, "kustomize warns"
    return [one for one in yaml.safe_load_all(done.stdout) if one]


def of(objects: list[Object], kind: str) -> list[Object]:
    return [one for one in objects if one["kind"] == kind]


def named(objects: list[Object], kind: str, name: str) -> Object:
    (found,) = [one for one in of(objects, kind) if one["metadata"]["name"] == name]
    return found


def workloads(objects: list[Object]) -> list[Workload]:
    """Gateway and Triton."""
    found = []
    for one in of(objects, "Deployment"):
        template = one["spec"]["template"]
        labels = template["metadata"]["labels"]
        found.append(Workload(one["metadata"]["name"], one["metadata"]["namespace"], labels, one, template["spec"]))
    return found


def workload(objects: list[Object], name: str) -> Workload:
    (found,) = [one for one in workloads(objects) if one.name == name]
    return found


def containers(pod: Object) -> Iterator[Object]:
    yield from pod.get("initContainers", [])
    yield from pod["containers"]


def amount(quantity: str) -> float:
    """Kubernetes' `512Mi`, `500m`, `2` as a number."""
    digits, unit = re.fullmatch(r"(\d+)([A-Za-z]*)", str(quantity)).groups()  # type: ignore[union-attr]
    return int(digits) * UNITS[unit]


def flags(container: Object) -> dict[str, str]:
    """Arguments of the form --name=value, or --name."""
    split = [argument.partition("=") for argument in container["args"]]
    assert len({name for name, _, _ in split}) == len(split), "an argument stands twice"
    return {name: value for name, _, value in split}


def config_of(objects: list[Object], prefix: str) -> dict[str, str]:
    (found,) = [one["data"] for one in of(objects, "ConfigMap") if one["metadata"]["name"].startswith(prefix)]
    return dict(found)
