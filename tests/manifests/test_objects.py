"""The objects are valid, consistent with each other and with params.yaml."""

import copy
import re
from pathlib import Path
from typing import get_args, get_type_hints

import kubernetes_validate
import pytest
from kubernetes_validate.utils import all_versions

from pipeline.params import Params
from serving.key_file import read_key
from tests.conftest import ROOT
from tests.manifests.conftest import RENDERED
from tests.manifests.rendered import (
    TRITON_PORTS,
    Object,
    config_map_data,
    containers,
    find_object,
    find_workload,
    flags,
    kustomize,
    of_kind,
    workloads,
)

VERSIONS = sorted({version.rpartition(".")[0] for version in all_versions()}, key=lambda text: int(text.partition(".")[2]))


def test_every_overlay_is_rendered(rendered: dict[str, list[Object]]) -> None:
    assert set(rendered) == set(RENDERED)


@pytest.mark.parametrize("version", ["1.27", *VERSIONS[-3:]])
def test_every_object_is_valid_for_old_and_new_clusters(version: str, objects: list[Object]) -> None:
    ours = [item for item in objects if not item["apiVersion"].startswith("monitoring.coreos.com/")]  # see test_monitoring
    assert {kubernetes_validate.validate(item, version, strict=True) for item in ours} == {version}


def test_a_misspelt_key_would_be_noticed(objects: list[Object]) -> None:
    misspelt = copy.deepcopy(find_object(objects, "Deployment", "triton"))
    misspelt["spec"]["template"]["spec"]["terminationGracePeriod"] = 60
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(misspelt, VERSIONS[-1], strict=True)


def test_the_base_names_no_namespace() -> None:
    assert not [item for item in kustomize(ROOT / "k8s/base") if "namespace" in item["metadata"]]


def test_params_in_the_cluster_equal_those_of_the_repository(objects: list[Object]) -> None:
    params_text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    assert (ROOT / "k8s/base/params.yaml").read_text(encoding="utf-8") == params_text, "copy it again: make manifests"
    assert config_map_data(objects, "evergreen-params-") == {"params.yaml": params_text}


def test_params_are_mounted_where_the_gateway_reads_them(objects: list[Object]) -> None:
    gateway = find_workload(objects, "gateway")
    (mount,) = [mount for mount in gateway.main["volumeMounts"] if mount["name"] == "params"]
    workdir = re.search(r"^WORKDIR (\S+)$", (ROOT / "Dockerfile").read_text(), re.M)
    assert workdir
    assert mount["mountPath"] == f"{workdir.group(1)}/params.yaml"
    (volume,) = [volume for volume in gateway.pod["volumes"] if volume["name"] == "params"]
    assert find_object(objects, "ConfigMap", volume["configMap"]["name"])["data"].keys() == {mount["subPath"]}


def test_ports_are_those_of_params(objects: list[Object], params: Params) -> None:
    triton, gateway = find_workload(objects, "triton"), find_workload(objects, "gateway")
    wanted = {name: getattr(params.serve, key) for name, key in TRITON_PORTS.items()}
    assert {port["name"]: port["containerPort"] for port in triton.main["ports"]} == wanted
    assert {name: int(flags(triton.main)[f"--{name}-port"]) for name in TRITON_PORTS} == wanted
    assert {port["name"]: port["port"] for port in find_object(objects, "Service", "triton")["spec"]["ports"]} == wanted
    assert [port["containerPort"] for port in gateway.main["ports"]] == [params.gateway.port]
    assert [port["port"] for port in find_object(objects, "Service", "gateway")["spec"]["ports"]] == [params.gateway.port]


def test_scrape_annotations_name_the_metrics_ports(objects: list[Object], params: Params) -> None:
    annotations = {
        workload.name: workload.deployment["spec"]["template"]["metadata"]["annotations"] for workload in workloads(objects)
    }
    assert annotations["triton"]["prometheus.io/port"] == str(params.serve.metrics_port)
    assert annotations["gateway"]["prometheus.io/port"] == str(params.gateway.port)


def test_every_service_finds_pods_and_every_named_port_exists(objects: list[Object]) -> None:
    for service in of_kind(objects, "Service"):
        selected = [workload for workload in workloads(objects) if service["spec"]["selector"].items() <= workload.labels.items()]
        assert [workload.name for workload in selected] == [service["metadata"]["name"]]
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= {port["name"] for port in selected[0].main["ports"]}


def test_every_deployment_budget_and_spread_selects_only_its_own_pods(objects: list[Object]) -> None:
    for workload in workloads(objects):
        budget = find_object(objects, "PodDisruptionBudget", workload.name)
        (spread,) = workload.pod["topologySpreadConstraints"]
        for selector in (workload.deployment["spec"]["selector"], budget["spec"]["selector"], spread["labelSelector"]):
            selected = [other.name for other in workloads(objects) if selector["matchLabels"].items() <= other.labels.items()]
            assert selected == [workload.name]
        assert budget["spec"]["maxUnavailable"] == 1


def test_recommended_labels_are_on_everything(objects: list[Object]) -> None:
    for item in objects:
        assert item["metadata"]["labels"]["app.kubernetes.io/part-of"] == "evergreen"
    for workload in workloads(objects):
        assert workload.labels["app.kubernetes.io/name"] == workload.name
        assert workload.labels["app.kubernetes.io/component"]


def test_mounts_match_volumes_and_paths_in_the_environment_are_mounted(objects: list[Object]) -> None:
    claims = {claim["metadata"]["name"] for claim in of_kind(objects, "PersistentVolumeClaim")}
    for workload in workloads(objects):
        mounted = {mount["name"] for container in containers(workload.pod) for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in workload.pod["volumes"]}
        assert {
            v["persistentVolumeClaim"]["claimName"] for v in workload.pod["volumes"] if "persistentVolumeClaim" in v
        } <= claims
        folders = [mount["mountPath"] for mount in workload.main["volumeMounts"]]
        for variable in workload.main["env"]:
            if variable.get("value", "").startswith("/"):
                assert any(Path(variable["value"]).is_relative_to(folder) for folder in folders), variable


def test_the_gateway_listens_on_its_pods_address_and_finds_triton_by_its_service(objects: list[Object]) -> None:
    variables = {variable["name"]: variable["value"] for variable in find_workload(objects, "gateway").main["env"]}
    assert variables["EVERGREEN_GATEWAY_HOST"] == "0.0.0.0"  # noqa: S104 (a NetworkPolicy restricts access)
    assert variables["EVERGREEN_TRITON_HOST"] == find_object(objects, "Service", "triton")["metadata"]["name"]


def test_the_code_reads_every_variable_that_we_set(objects: list[Object]) -> None:
    sources = "".join(
        path.read_text(encoding="utf-8")
        for package in ("monitoring", "serving", "state", "pipeline")
        for path in (ROOT / package).rglob("*.py")
    )
    for workload in workloads(objects):
        code = sources + "".join(workload.main["command"])
        used = {variable["name"] for container in containers(workload.pod) for variable in container["env"]}
        used -= {f"EVERGREEN_{purpose.upper()}_KEY_FILE" for purpose in get_args(get_type_hints(read_key)["purpose"])}
        used -= {"HOME"} | {name for container in containers(workload.pod) for name in expanded(container)}
        assert {name for name in used if name not in code} == set()


def expanded(container: Object) -> set[str]:
    """Return the variables that Kubernetes expands in the arguments."""
    return set(re.findall(r"\$\((\w+)\)", " ".join(container.get("args", []))))


def test_each_pod_mounts_only_its_own_secret(objects: list[Object]) -> None:
    secrets = {
        workload.name: [v["secret"]["secretName"] for v in workload.pod["volumes"] if "secret" in v]
        for workload in workloads(objects)
    }
    expected = {
        workload.name: [] if workload.name == "triton" else [f"evergreen-{workload.name}"] for workload in workloads(objects)
    }
    expected["gateway"].append("evergreen-gateway-tokens")
    assert secrets == expected


def test_the_tokens_are_optional_followed_while_running_and_read_only(objects: list[Object]) -> None:
    gateway = find_workload(objects, "gateway")
    (volume,) = [volume for volume in gateway.pod["volumes"] if volume["name"] == "tokens"]
    (mount,) = [mount for mount in gateway.main["volumeMounts"] if mount["name"] == "tokens"]
    (path,) = [variable["value"] for variable in gateway.main["env"] if variable["name"] == "EVERGREEN_TOKENS_FILE"]
    assert volume["secret"]["optional"]
    assert volume["secret"]["defaultMode"] & 0o022 == 0  # the gateway refuses a file that others may write
    assert mount == {"name": "tokens", "mountPath": str(Path(path).parent), "readOnly": True}  # a subPath would never change
