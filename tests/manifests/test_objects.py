"""The objects are valid, hang together, and are of one mind with params.yaml."""

import copy
import re
from pathlib import Path

import kubernetes_validate
import pytest
from kubernetes_validate.utils import all_versions

from pipeline.params import Params
from tests.conftest import ROOT
from tests.manifests.conftest import RENDERED
from tests.manifests.rendered import TRITON_PORTS, Object, config_of, containers, flags, kustomize, named, of, workload, workloads

VERSIONS = sorted({version.rpartition(".")[0] for version in all_versions()}, key=lambda text: int(text.partition(".")[2]))


def test_every_overlay_is_rendered_here(rendered: dict[str, list[Object]]) -> None:
    assert set(rendered) == set(RENDERED)


@pytest.mark.parametrize("version", ["1.27", *VERSIONS[-3:]])
def test_every_object_is_valid_for_old_and_new_clusters(version: str, objects: list[Object]) -> None:
    for one in objects:
        if not one["apiVersion"].startswith("monitoring.coreos.com/"):  # test_monitoring knows those kinds
            kubernetes_validate.validate(one, version, strict=True)


def test_a_misspelt_key_would_be_noticed(objects: list[Object]) -> None:
    spoilt = copy.deepcopy(named(objects, "Deployment", "triton"))
    spoilt["spec"]["template"]["spec"]["terminationGracePeriod"] = 60
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(spoilt, VERSIONS[-1], strict=True)


def test_the_base_names_no_namespace() -> None:
    assert not [one for one in kustomize(ROOT / "k8s/base") if "namespace" in one["metadata"]]


def test_params_in_the_cluster_are_those_of_the_repository(objects: list[Object]) -> None:
    shipped = (ROOT / "params.yaml").read_text(encoding="utf-8")
    assert (ROOT / "k8s/base/params.yaml").read_text(encoding="utf-8") == shipped, "copy it again: make manifests"
    assert config_of(objects, "evergreen-params-") == {"params.yaml": shipped}


def test_params_lie_where_the_gateway_looks_for_them(objects: list[Object]) -> None:
    gateway = workload(objects, "gateway")
    (mount,) = [one for one in gateway.main["volumeMounts"] if one["name"] == "params"]
    workdir = re.search(r"^WORKDIR (\S+)$", (ROOT / "Dockerfile").read_text(), re.M)
    assert workdir
    assert mount["mountPath"] == f"{workdir.group(1)}/params.yaml"
    (volume,) = [one for one in gateway.pod["volumes"] if one["name"] == "params"]
    assert named(objects, "ConfigMap", volume["configMap"]["name"])["data"].keys() == {mount["subPath"]}


def test_ports_are_those_of_params(objects: list[Object], params: Params) -> None:
    triton, gateway = workload(objects, "triton"), workload(objects, "gateway")
    wanted = {name: getattr(params.serve, key) for name, key in TRITON_PORTS.items()}
    assert {port["name"]: port["containerPort"] for port in triton.main["ports"]} == wanted
    assert {name: int(flags(triton.main)[f"--{name}-port"]) for name in TRITON_PORTS} == wanted
    assert {port["name"]: port["port"] for port in named(objects, "Service", "triton")["spec"]["ports"]} == wanted
    assert [port["containerPort"] for port in gateway.main["ports"]] == [params.gateway.port]
    assert [port["port"] for port in named(objects, "Service", "gateway")["spec"]["ports"]] == [params.gateway.port]


def test_what_prometheus_is_told_to_scrape_is_there(objects: list[Object], params: Params) -> None:
    told = {one.name: one.deployment["spec"]["template"]["metadata"]["annotations"] for one in workloads(objects)}
    assert told["triton"]["prometheus.io/port"] == str(params.serve.metrics_port)
    assert told["gateway"]["prometheus.io/port"] == str(params.gateway.port)


def test_every_service_finds_pods_and_every_named_port_exists(objects: list[Object]) -> None:
    for service in of(objects, "Service"):
        chosen = [one for one in workloads(objects) if service["spec"]["selector"].items() <= one.labels.items()]
        assert [one.name for one in chosen] == [service["metadata"]["name"]]
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= {port["name"] for port in chosen[0].main["ports"]}


def test_every_deployment_budget_and_spread_selects_its_own_pods_alone(objects: list[Object]) -> None:
    for one in workloads(objects):
        budget = named(objects, "PodDisruptionBudget", one.name)
        (spread,) = one.pod["topologySpreadConstraints"]
        for selector in (one.deployment["spec"]["selector"], budget["spec"]["selector"], spread["labelSelector"]):
            chosen = [each.name for each in workloads(objects) if selector["matchLabels"].items() <= each.labels.items()]
            assert chosen == [one.name]
        assert budget["spec"]["maxUnavailable"] == 1


def test_recommended_labels_are_on_everything(objects: list[Object]) -> None:
    for one in objects:
        assert one["metadata"]["labels"]["app.kubernetes.io/part-of"] == "evergreen"
    for one in workloads(objects):
        assert one.labels["app.kubernetes.io/name"] == one.name
        assert one.labels["app.kubernetes.io/component"]


def test_mounts_and_volumes_belong_together_and_paths_in_the_environment_are_mounted(objects: list[Object]) -> None:
    claims = {one["metadata"]["name"] for one in of(objects, "PersistentVolumeClaim")}
    for one in workloads(objects):
        mounted = {mount["name"] for container in containers(one.pod) for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in one.pod["volumes"]}
        assert {v["persistentVolumeClaim"]["claimName"] for v in one.pod["volumes"] if "persistentVolumeClaim" in v} <= claims
        places = [mount["mountPath"] for mount in one.main["volumeMounts"]]
        for variable in one.main["env"]:
            if variable.get("value", "").startswith("/"):
                assert any(Path(variable["value"]).is_relative_to(place) for place in places), variable


def test_the_gateway_listens_on_its_pods_address_and_finds_triton_by_its_service(objects: list[Object]) -> None:
    variables = {one["name"]: one["value"] for one in workload(objects, "gateway").main["env"]}
    assert variables["EVERGREEN_GATEWAY_HOST"] == "0.0.0.0"  # noqa: S104 (a NetworkPolicy says who gets there)
    assert variables["EVERGREEN_TRITON_HOST"] == named(objects, "Service", "triton")["metadata"]["name"]


def test_every_variable_of_ours_is_one_that_the_code_reads(objects: list[Object]) -> None:
    sources = "".join(
        path.read_text(encoding="utf-8") for room in ("monitoring", "serving", "pipeline") for path in (ROOT / room).rglob("*.py")
    )
    for one in workloads(objects):
        read = sources + "".join(one.main["command"])
        used = {variable["name"] for container in containers(one.pod) for variable in container["env"]}
        used -= {"HOME"} | {name for container in containers(one.pod) for name in expanded(container)}
        assert {name for name in used if name not in read} == set()


def expanded(container: Object) -> set[str]:
    """Variables that Kubernetes itself puts into the arguments."""
    return set(re.findall(r"\$\((\w+)\)", " ".join(container.get("args", []))))


def test_each_pod_has_its_own_secret_and_the_gateway_not_tritons_key(objects: list[Object]) -> None:
    secrets = {one.name: [v["secret"]["secretName"] for v in one.pod["volumes"] if "secret" in v] for one in workloads(objects)}
    assert secrets == {one.name: [f"evergreen-{one.name}"] for one in workloads(objects)}
