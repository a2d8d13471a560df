"""Reachability between pods under the NetworkPolicies."""

from pipeline.params import Params
from tests.manifests.rendered import TRITON_PORTS, Object, config_map_data, find_object, find_workload, of_kind, workloads

PROMETHEUS = {"app.kubernetes.io/name": "prometheus"}
DNS = {"k8s-app": "kube-dns"}


def may_talk(objects: list[Object], source: dict[str, str], target: dict[str, str], port: int) -> bool:
    """Return True when the policies of both ends allow the connection."""
    return passes(objects, "Egress", source, target, port) and passes(objects, "Ingress", target, source, port)


def passes(objects: list[Object], direction: str, pod: dict[str, str], peer: dict[str, str], port: int) -> bool:
    policies = [
        policy["spec"]
        for policy in of_kind(objects, "NetworkPolicy")
        if direction in policy["spec"]["policyTypes"] and policy["spec"]["podSelector"]["matchLabels"].items() <= pod.items()
    ]
    rules = [rule for policy in policies for rule in policy.get(direction.lower(), [])]
    peers = "to" if direction == "Egress" else "from"
    return not policies or any(
        any(allowed["port"] == port for allowed in rule["ports"])
        and (peers not in rule or any(selects(allowed, peer) for allowed in rule[peers]))
        for rule in rules
    )


def selects(allowed: Object, labels: dict[str, str]) -> bool:
    return "podSelector" in allowed and allowed["podSelector"]["matchLabels"].items() <= labels.items()


def test_only_the_intended_connections_pass(objects: list[Object], params: Params) -> None:
    gateway, triton = (find_workload(objects, name).labels for name in ("gateway", "triton"))
    callers = {"gateway": gateway, "triton": triton, "prometheus": PROMETHEUS, "stranger": {"app": "stranger"}, "none": {}}
    ports = {name: getattr(params.serve, key) for name, key in TRITON_PORTS.items()}
    reached = {
        (caller, name)
        for caller, labels in callers.items()
        for name, port in ports.items()
        if may_talk(objects, labels, triton, port)
    }
    assert reached == {("gateway", "http"), ("gateway", "grpc"), ("prometheus", "metrics")}
    clients = {name for name, labels in callers.items() if may_talk(objects, labels, gateway, params.gateway.port)}
    assert clients == {"prometheus", "stranger", "none"}
    for labels in (gateway, triton):
        assert may_talk(objects, labels, DNS, 53)
    assert not passes(objects, "Egress", triton, {"app": "database"}, 5432)
    assert passes(objects, "Egress", gateway, {"app": "database"}, 5432)
    with_store = config_map_data(objects, "evergreen-store")["url"].startswith("https:")
    assert passes(objects, "Egress", triton, {}, 443) == with_store


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


def test_policies_use_only_our_ports_and_those_of_dns_postgres_and_https(objects: list[Object]) -> None:
    ours = {port["containerPort"] for workload in workloads(objects) for port in workload.main["ports"]}
    used = {
        port["port"]
        for policy in of_kind(objects, "NetworkPolicy")
        for direction in ("ingress", "egress")
        for rule in policy["spec"].get(direction, [])
        for port in rule["ports"]
    }
    assert used == ours | {53, 443, 5432}


def test_external_traffic_never_reaches_private_addresses_or_cloud_metadata(objects: list[Object]) -> None:
    blocks = [
        peer["ipBlock"]
        for policy in of_kind(objects, "NetworkPolicy")
        for rule in policy["spec"].get("egress", [])
        for peer in rule.get("to", [])
        if "ipBlock" in peer
    ]
    assert blocks
    for block in blocks:
        assert {"10.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16"} <= set(block["except"])
