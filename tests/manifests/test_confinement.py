"""Pods have minimal privileges, and each additional privilege would be noticed."""

import copy
import json
import re
from collections.abc import Callable
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.conftest import ROOT
from tests.manifests.rendered import Object, Workload, containers, find_workload, of_kind, workloads


def weaknesses(workload: Workload) -> set[str]:
    """Return the privileges of a pod that an intruder could use."""
    pod, weak = workload.pod, set()
    weak |= {f"{key} is shared with the node" for key in ("hostNetwork", "hostPID", "hostIPC") if pod.get(key)}
    weak |= {"a host folder" for volume in pod["volumes"] if "hostPath" in volume}
    weak |= {"an emptyDir without a size" for v in pod["volumes"] if "emptyDir" in v and "sizeLimit" not in (v["emptyDir"] or {})}
    weak |= {"a world-readable secret" for v in pod["volumes"] if "secret" in v and v["secret"].get("defaultMode") != 0o440}
    if pod.get("automountServiceAccountToken") is not False or pod.get("serviceAccountName") != workload.name:
        weak.add("a cluster token")
    if pod["securityContext"].get("seccompProfile") != {"type": "RuntimeDefault"}:
        weak.add("no seccomp profile")
    for container in containers(pod):
        weak |= container_weaknesses(container, pod["securityContext"])
    return weak


def container_weaknesses(container: Object, pod_context: Object) -> set[str]:
    context, weak = container["securityContext"], set()
    user = context.get("runAsUser", pod_context.get("runAsUser"))
    if context.get("runAsNonRoot") is not True or ((user or 0) < 10000 and (container["name"], user) != ("triton", 1000)):
        weak.add("a user id of the host")
    if context.get("privileged") is not False or context.get("allowPrivilegeEscalation") is not False:
        weak.add("more privileges")
    if context.get("capabilities") != {"drop": ["ALL"]}:
        weak.add("capabilities")
    if context.get("readOnlyRootFilesystem") is not True:
        weak.add("a writable root file system")
    if not {"cpu", "memory", "ephemeral-storage"} <= container["resources"]["requests"].keys():
        weak.add("requests missing")
    if not {"memory", "ephemeral-storage"} <= container["resources"]["limits"].keys():
        weak.add("limits missing")
    if "hostPort" in json.dumps(container.get("ports", [])):
        weak.add("a host port")
    if "envFrom" in container or "secretKeyRef" in json.dumps(container.get("env", [])):
        weak.add("a secret in the environment")
    image = re.fullmatch(r"[a-z0-9./-]+(:[A-Za-z0-9._-]+)?(@sha256:[0-9a-f]{64})?", container["image"])
    if not image or not any(image.groups()) or image.group(1) == ":latest":
        weak.add("a mutable image")
    return weak


def test_no_pod_has_a_weakness(objects: list[Object]) -> None:
    by_workload = {workload.name: weaknesses(workload) for workload in workloads(objects)}
    assert {"gateway", "triton"} <= set(by_workload) <= {"gateway", "triton", "monitor"}
    assert not any(by_workload.values()), by_workload


def set_key(*path: str | int, value: Any) -> Callable[[Object], None]:
    """Return a function that sets a key of a pod, or removes it if `value` is None."""

    def weaken(pod: Object) -> None:
        parent: Any = pod
        for key in path[:-1]:
            parent = parent[key]
        if value is None:
            del parent[path[-1]]
        else:
            parent[path[-1]] = value

    return weaken


MAIN = ("containers", 0)
CONTEXT = (*MAIN, "securityContext")


@pytest.mark.parametrize(
    ("weaken", "weakness"),
    [
        (set_key("hostNetwork", value=True), "hostNetwork is shared with the node"),
        (set_key("volumes", 0, value={"name": "x", "hostPath": {"path": "/"}}), "a host folder"),
        (set_key("volumes", 0, value={"name": "x", "emptyDir": {}}), "an emptyDir without a size"),
        (set_key("volumes", 0, value={"name": "x", "secret": {"secretName": "s"}}), "a world-readable secret"),
        (set_key("automountServiceAccountToken", value=None), "a cluster token"),
        (set_key("serviceAccountName", value="default"), "a cluster token"),
        (set_key("securityContext", "seccompProfile", value=None), "no seccomp profile"),
        (set_key(*CONTEXT, "runAsUser", value=999), "a user id of the host"),
        (set_key(*CONTEXT, "runAsNonRoot", value=None), "a user id of the host"),
        (set_key("initContainers", 0, "securityContext", "runAsUser", value=1000), "a user id of the host"),
        (set_key(*CONTEXT, "allowPrivilegeEscalation", value=None), "more privileges"),
        (set_key(*CONTEXT, "privileged", value=True), "more privileges"),
        (set_key(*CONTEXT, "capabilities", "add", value=["NET_RAW"]), "capabilities"),
        (set_key(*CONTEXT, "readOnlyRootFilesystem", value=False), "a writable root file system"),
        (set_key(*MAIN, "resources", "requests", "ephemeral-storage", value=None), "requests missing"),
        (set_key(*MAIN, "resources", "limits", "memory", value=None), "limits missing"),
        (set_key(*MAIN, "ports", 0, "hostPort", value=8000), "a host port"),
        (set_key(*MAIN, "envFrom", value=[]), "a secret in the environment"),
        (set_key(*MAIN, "env", 0, value={"name": "K", "valueFrom": {"secretKeyRef": {}}}), "a secret in the environment"),
        (set_key(*MAIN, "image", value="evergreen-triton"), "a mutable image"),
        (set_key(*MAIN, "image", value="evergreen-triton:latest"), "a mutable image"),
    ],
)
def test_each_weakness_would_be_noticed(
    weaken: Callable[[Object], None], weakness: str, rendered: dict[str, list[Object]]
) -> None:
    triton = find_workload(rendered["local"], "triton")
    pod = copy.deepcopy(triton.pod)
    weaken(pod)
    assert weaknesses(triton._replace(pod=pod)) == {weakness}


def test_each_pod_has_its_own_account_without_permissions(objects: list[Object]) -> None:
    accounts = {
        account["metadata"]["name"]: account["automountServiceAccountToken"] for account in of_kind(objects, "ServiceAccount")
    }
    assert accounts == {workload.name: False for workload in workloads(objects)}
    assert not [item for item in objects if item["apiVersion"].startswith("rbac.")]


def test_the_namespace_enforces_the_restricted_standard(objects: list[Object]) -> None:
    (namespace,) = of_kind(objects, "Namespace")
    labels = {
        key.split("/")[1]: value for key, value in namespace["metadata"]["labels"].items() if key.startswith("pod-security")
    }
    assert {labels[mode] for mode in ("enforce", "audit", "warn")} == {"restricted"}
    assert all(re.fullmatch(r"v1\.\d+", labels[f"{mode}-version"]) for mode in ("enforce", "audit", "warn"))


def test_no_manifest_contains_a_secret(objects: list[Object]) -> None:
    assert not of_kind(objects, "Secret")
    assert not re.search(r"(postgres(ql)?|https?)(\+\w+)?://[^/\s\"]*:[^/\s\"]*@", json.dumps(objects))


def test_images_carry_the_projects_version(objects: list[Object]) -> None:
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.M)
    assert version
    images = {container["image"] for workload in workloads(objects) for container in containers(workload.pod)}
    assert images == {f"evergreen-{target}:{version.group(1)}" for target in (workload.name for workload in workloads(objects))}


def test_the_pod_that_writes_the_store_is_confined_too() -> None:
    pod = yaml.safe_load((ROOT / "k8s/store-writer.yaml").read_text(encoding="utf-8"))
    kubernetes_validate.validate(pod, "1.27", strict=True)
    assert weaknesses(Workload("gateway", "evergreen", pod["metadata"]["labels"], {}, pod["spec"])) == set()
