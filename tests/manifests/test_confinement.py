"""A pod has no more than it needs; each thing too much would be noticed."""

import copy
import json
import re
from collections.abc import Callable
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.conftest import ROOT
from tests.manifests.rendered import Object, Workload, containers, of, workload, workloads


def weaknesses(workload: Workload) -> set[str]:
    """What somebody who broke into a pod, or a careless one, could make use of."""
    pod, found = workload.pod, set()
    found |= {f"{key} is shared with the node" for key in ("hostNetwork", "hostPID", "hostIPC") if pod.get(key)}
    found |= {"a folder of the node" for volume in pod["volumes"] if "hostPath" in volume}
    found |= {
        "an emptyDir without a size" for v in pod["volumes"] if "emptyDir" in v and "sizeLimit" not in (v["emptyDir"] or {})
    }
    found |= {"a secret that all may read" for v in pod["volumes"] if "secret" in v and v["secret"].get("defaultMode") != 0o440}
    if pod.get("automountServiceAccountToken") is not False or pod.get("serviceAccountName") != workload.name:
        found.add("a token of the cluster")
    if pod["securityContext"].get("seccompProfile") != {"type": "RuntimeDefault"}:
        found.add("any system call")
    for container in containers(pod):
        found |= container_weaknesses(container, pod["securityContext"])
    return found


def container_weaknesses(container: Object, pod_context: Object) -> set[str]:
    context, found = container["securityContext"], set()
    user = context.get("runAsUser", pod_context.get("runAsUser"))
    if context.get("runAsNonRoot") is not True or ((user or 0) < 10000 and (container["name"], user) != ("triton", 1000)):
        found.add("a user of the node")
    if context.get("privileged") is not False or context.get("allowPrivilegeEscalation") is not False:
        found.add("more privileges")
    if context.get("capabilities") != {"drop": ["ALL"]}:
        found.add("capabilities")
    if context.get("readOnlyRootFilesystem") is not True:
        found.add("a root file system to write on")
    if not {"cpu", "memory", "ephemeral-storage"} <= container["resources"]["requests"].keys():
        found.add("requests missing")
    if not {"memory", "ephemeral-storage"} <= container["resources"]["limits"].keys():
        found.add("limits missing")
    if "hostPort" in json.dumps(container.get("ports", [])):
        found.add("a port of the node")
    if "envFrom" in container or "secretKeyRef" in json.dumps(container.get("env", [])):
        found.add("a secret in the environment")
    image = re.fullmatch(r"[a-z0-9./-]+(:[A-Za-z0-9._-]+)?(@sha256:[0-9a-f]{64})?", container["image"])
    if not image or not any(image.groups()) or image.group(1) == ":latest":
        found.add("an image that changes")
    return found


def test_no_pod_has_more_than_it_needs(objects: list[Object]) -> None:
    found = {one.name: weaknesses(one) for one in workloads(objects)}
    assert {"gateway", "triton"} <= set(found) <= {"gateway", "triton", "monitor"}
    assert not any(found.values()), found


def put(*path: str | int, value: Any) -> Callable[[Object], None]:
    """Spoils a pod at one place; None takes the key away."""

    def spoil(pod: Object) -> None:
        place: Any = pod
        for key in path[:-1]:
            place = place[key]
        if value is None:
            del place[path[-1]]
        else:
            place[path[-1]] = value

    return spoil


MAIN = ("containers", 0)
CONTEXT = (*MAIN, "securityContext")


@pytest.mark.parametrize(
    ("spoil", "weakness"),
    [
        (put("hostNetwork", value=True), "hostNetwork is shared with the node"),
        (put("volumes", 0, value={"name": "x", "hostPath": {"path": "/"}}), "a folder of the node"),
        (put("volumes", 0, value={"name": "x", "emptyDir": {}}), "an emptyDir without a size"),
        (put("volumes", 0, value={"name": "x", "secret": {"secretName": "s"}}), "a secret that all may read"),
        (put("automountServiceAccountToken", value=None), "a token of the cluster"),
        (put("serviceAccountName", value="default"), "a token of the cluster"),
        (put("securityContext", "seccompProfile", value=None), "any system call"),
        (put(*CONTEXT, "runAsUser", value=999), "a user of the node"),
        (put(*CONTEXT, "runAsNonRoot", value=None), "a user of the node"),
        (put("initContainers", 0, "securityContext", "runAsUser", value=1000), "a user of the node"),
        (put(*CONTEXT, "allowPrivilegeEscalation", value=None), "more privileges"),
        (put(*CONTEXT, "privileged", value=True), "more privileges"),
        (put(*CONTEXT, "capabilities", "add", value=["NET_RAW"]), "capabilities"),
        (put(*CONTEXT, "readOnlyRootFilesystem", value=False), "a root file system to write on"),
        (put(*MAIN, "resources", "requests", "ephemeral-storage", value=None), "requests missing"),
        (put(*MAIN, "resources", "limits", "memory", value=None), "limits missing"),
        (put(*MAIN, "ports", 0, "hostPort", value=8000), "a port of the node"),
        (put(*MAIN, "envFrom", value=[]), "a secret in the environment"),
        (put(*MAIN, "env", 0, value={"name": "K", "valueFrom": {"secretKeyRef": {}}}), "a secret in the environment"),
        (put(*MAIN, "image", value="evergreen-triton"), "an image that changes"),
        (put(*MAIN, "image", value="evergreen-triton:latest"), "an image that changes"),
    ],
)
def test_each_weakness_would_be_noticed(
    spoil: Callable[[Object], None], weakness: str, rendered: dict[str, list[Object]]
) -> None:
    triton = workload(rendered["local"], "triton")
    pod = copy.deepcopy(triton.pod)
    spoil(pod)
    assert weaknesses(triton._replace(pod=pod)) == {weakness}


def test_each_pod_has_an_account_of_its_own_that_may_nothing(objects: list[Object]) -> None:
    accounts = {one["metadata"]["name"]: one["automountServiceAccountToken"] for one in of(objects, "ServiceAccount")}
    assert accounts == {one.name: False for one in workloads(objects)}
    assert not [one for one in objects if one["apiVersion"].startswith("rbac.")]


def test_the_namespace_enforces_the_restricted_standard(objects: list[Object]) -> None:
    (space,) = of(objects, "Namespace")
    labels = {key.split("/")[1]: value for key, value in space["metadata"]["labels"].items() if key.startswith("pod-security")}
    assert {labels[mode] for mode in ("enforce", "audit", "warn")} == {"restricted"}
    assert all(re.fullmatch(r"v1\.\d+", labels[f"{mode}-version"]) for mode in ("enforce", "audit", "warn"))


def test_no_secret_stands_in_a_manifest(objects: list[Object]) -> None:
    assert not of(objects, "Secret")
    assert not re.search(r"(postgres(ql)?|https?)(\+\w+)?://[^/\s\"]*:[^/\s\"]*@", json.dumps(objects))


def test_images_carry_the_projects_version(objects: list[Object]) -> None:
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.M)
    assert version
    images = {container["image"] for one in workloads(objects) for container in containers(one.pod)}
    assert images == {f"evergreen-{target}:{version.group(1)}" for target in (one.name for one in workloads(objects))}


def test_the_pod_that_writes_the_store_is_confined_too() -> None:
    pod = yaml.safe_load((ROOT / "k8s/store-writer.yaml").read_text(encoding="utf-8"))
    kubernetes_validate.validate(pod, "1.27", strict=True)
    assert weaknesses(Workload("gateway", "evergreen", pod["metadata"]["labels"], {}, pod["spec"])) == set()
