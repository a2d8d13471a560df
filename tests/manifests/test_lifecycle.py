"""Pods start, answer, shut down and fit on a node."""

import json

from pipeline.params import Params
from serving.gateway.app import LOG_CLOSE_S
from serving.processes.http_service import SHUTDOWN_S
from tests.conftest import ROOT
from tests.manifests.rendered import Object, amount, config_map_data, find_workload, flags, kustomize, of_kind, workloads


def test_probes_ask_different_questions(objects: list[Object], params: Params) -> None:
    paths = {
        workload.name: {kind: workload.main[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "readiness", "liveness")}
        for workload in workloads(objects)
    }
    assert paths["triton"] == {"startup": "/v2/health/ready", "readiness": "/v2/health/ready", "liveness": "/v2/health/live"}
    assert paths["gateway"] == {"startup": "/healthz", "readiness": "/readyz", "liveness": "/healthz"}
    for workload in workloads(objects):
        assert {workload.main[f"{kind}Probe"]["httpGet"]["port"] for kind in ("startup", "readiness", "liveness")} == {"http"}
    startup = find_workload(objects, "triton").main["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] > params.serve.ready_timeout_s


def test_a_pod_has_time_to_shut_down(objects: list[Object], params: Params) -> None:
    for workload in (find_workload(objects, name) for name in ("gateway", "triton")):  # behind a Service that clients use
        waiting_s = int(workload.main["lifecycle"]["preStop"]["exec"]["command"][1])
        probe = workload.main["readinessProbe"]
        assert waiting_s > probe["periodSeconds"] * probe["failureThreshold"]
        exit_s = int(flags(workload.main)["--exit-timeout-secs"]) if workload.name == "triton" else SHUTDOWN_S + LOG_CLOSE_S
        assert workload.pod["terminationGracePeriodSeconds"] >= waiting_s + exit_s + 10
    assert int(flags(find_workload(objects, "triton").main)["--exit-timeout-secs"]) > params.gateway.deadline_ms / 1000


def test_volumes_on_disk_and_in_memory_fit_the_limits(objects: list[Object]) -> None:
    for workload in workloads(objects):
        empty = [volume["emptyDir"] for volume in workload.pod["volumes"] if "emptyDir" in volume]
        in_memory = sum(amount(volume["sizeLimit"]) for volume in empty if volume.get("medium") == "Memory")
        on_disk = sum(amount(volume["sizeLimit"]) for volume in empty if volume.get("medium") != "Memory")
        assert in_memory <= amount(workload.main["resources"]["limits"]["memory"]) / 2
        assert on_disk <= amount(workload.main["resources"]["limits"]["ephemeral-storage"])


def test_triton_requests_the_cores_that_its_sessions_use(rendered: dict[str, list[Object]], params: Params) -> None:
    for objects in (kustomize(ROOT / "k8s/base"), rendered["gpu"]):
        (triton,) = [item for item in of_kind(objects, "Deployment") if item["metadata"]["name"] == "triton"]
        cores = amount(triton["spec"]["template"]["spec"]["containers"][0]["resources"]["requests"]["cpu"])
        assert cores >= params.package.instances * params.package.intra_op_threads


def test_a_new_pod_starts_before_an_old_one_stops_unless_gpus_are_scarce(rendered: dict[str, list[Object]]) -> None:
    surges = {
        name: find_workload(objects, "triton").deployment["spec"]["strategy"]["rollingUpdate"]
        for name, objects in rendered.items()
    }
    assert surges["local"] == {"maxSurge": 1, "maxUnavailable": 0}
    assert surges["gpu"] == {"maxSurge": 0, "maxUnavailable": 1}


def test_only_the_gpu_overlay_requests_a_gpu_and_a_gpu_node(rendered: dict[str, list[Object]]) -> None:
    triton = find_workload(rendered["gpu"], "triton")
    assert triton.main["resources"]["limits"]["nvidia.com/gpu"] == triton.main["resources"]["requests"]["nvidia.com/gpu"] == "1"
    assert triton.pod["nodeSelector"] == {"nvidia.com/gpu.present": "true"}
    assert [toleration["key"] for toleration in triton.pod["tolerations"]] == ["nvidia.com/gpu"]
    assert flags(triton.main)["--allow-gpu-metrics"] == "true"
    assert "nvidia.com/gpu" not in json.dumps(rendered["local"])


def test_with_an_object_store_there_is_a_url_and_no_volume(rendered: dict[str, list[Object]]) -> None:
    url = {name: next(iter(config_map_data(objects, "evergreen-store").values())) for name, objects in rendered.items()}
    assert url["local"] == url["gpu"] == "file:///store"
    assert url["local with an object store"].startswith("https://")
    triton = find_workload(rendered["local with an object store"], "triton")
    assert not [volume for volume in triton.pod["volumes"] if "persistentVolumeClaim" in volume]
