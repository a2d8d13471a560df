"""The NetworkPolicies, as a matrix: every connection that passes is named here, and no other does."""

import copy
import os
from pathlib import Path

import pytest
import yaml

from pipeline.params import Params
from tests.conftest import ROOT
from tests.manifests.reachability import PEERS, PORTS, Peer, passes, pod, reachable
from tests.manifests.rendered import TRITON_PORTS, Object, find_object, kustomize, of_kind, workloads

CALLERS = ("stranger", "a pod without labels", "a false gateway elsewhere", "dns", "a false dns", "triton", "monitor")
ANYONE = (*CALLERS, "prometheus", "database", "store", "internet", "cloud metadata")
BASE = {
    *((caller, "gateway", 8080) for caller in ANYONE),  # the public API
    ("gateway", "triton", 8000),
    ("gateway", "triton", 8001),
    ("prometheus", "triton", 8002),
    ("gateway", "database", 5432),
    ("gateway", "internet", 443),  # callbacks of jobs, and the store of the prediction log
    ("gateway", "store", 443),
    *((name, "dns", 53) for name in ("gateway", "triton", "monitor")),
}
WITH = {
    "local with an object store": {("triton", "store", 443)},
    "local with monitoring": {("prometheus", "monitor", 8095), ("monitor", "database", 5432), ("monitor", "store", 443)},
}
STORE = Peer(None, address="203.0.113.7")


def test_only_the_intended_connections_pass(rendered: dict[str, list[Object]]) -> None:
    for name, objects in rendered.items():
        there = {workload.name for workload in workloads(objects)} | set(PEERS)
        wanted = {(source, target, port) for source, target, port in BASE if {source, target} <= there}
        # egress of Triton and the monitor is denied, so they reach the gateway no more than ingress lets them
        wanted -= {(source, "gateway", 8080) for source in ("triton", "monitor")}
        assert reachable(objects) == wanted | WITH.get(name, set()), name


def test_each_rule_that_is_too_wide_would_be_noticed(rendered: dict[str, list[Object]]) -> None:
    for policy in of_kind(rendered["local with monitoring"], "NetworkPolicy"):
        for direction, ends in (("ingress", "from"), ("egress", "to")):
            for number, rule in enumerate(policy["spec"].get(direction, [])):
                if ends in rule:
                    wide = copy.deepcopy(rendered["local with monitoring"])
                    del find_object(wide, "NetworkPolicy", policy["metadata"]["name"])["spec"][direction][number][ends]
                    assert reachable(wide) > reachable(rendered["local with monitoring"]), policy["metadata"]["name"]


def test_ports_of_the_matrix_are_those_of_params(params: Params) -> None:
    ours = {getattr(params.serve, key) for key in TRITON_PORTS.values()} | {params.gateway.port, params.alerts.monitor_port}
    assert set(PORTS) == ours | {22, 53, 443, 5432}


@pytest.fixture
def with_a_store(tmp_path: Path) -> list[Object]:
    """Render an overlay with both components, and the addresses of a store as docs/kubernetes.md names them."""
    folder = tmp_path.resolve()
    page = (ROOT / "docs/kubernetes.md").read_text(encoding="utf-8")
    (text,) = [block for block in page.split("```yaml\n") if "evergreen-store" in block.partition("```")[0]]
    overlay = yaml.safe_load(text.partition("```")[0])
    relative = os.path.relpath(ROOT / "k8s", folder)
    overlay["resources"] = [f"{relative}/overlays/local"]
    overlay["components"] = [f"{relative}/components/{name}" for name in ("object-store", "monitoring")]
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
    return kustomize(folder)


def test_an_overlay_names_the_store_in_one_place(with_a_store: list[Object]) -> None:
    for name in ("triton", "monitor"):
        source = pod(with_a_store, name)
        assert passes(with_a_store, "Egress", source, STORE, 443)
        assert not passes(with_a_store, "Egress", source, PEERS["store"], 443)
        assert not passes(with_a_store, "Egress", source, PEERS["internet"], 443)
    (store,) = [item for item in of_kind(with_a_store, "ConfigMap") if item["metadata"]["name"].startswith("evergreen-store")]
    assert store["data"]["url"].startswith("https://")


def test_all_traffic_of_our_pods_is_denied_by_default(objects: list[Object]) -> None:
    deny = find_object(objects, "NetworkPolicy", "evergreen-default-deny")["spec"]
    assert set(deny) == {"podSelector", "policyTypes"}
    assert set(deny["policyTypes"]) == {"Ingress", "Egress"}
    for workload in workloads(objects):
        assert deny["podSelector"]["matchLabels"].items() <= workload.labels.items()
        allowing = [
            policy
            for policy in of_kind(objects, "NetworkPolicy")
            if policy["spec"]["podSelector"]["matchLabels"].get("app.kubernetes.io/name") == workload.name
        ]
        assert allowing, "no policy allows any traffic of this pod"
