"""Who reaches whom, by what the NetworkPolicies say."""

from pipeline.params import Params
from tests.manifests.rendered import TRITON_PORTS, Object, config_of, named, of, workload, workloads

PROMETHEUS = {"app.kubernetes.io/name": "prometheus"}
DNS = {"k8s-app": "kube-dns"}


def may_talk(objects: list[Object], source: dict[str, str], target: dict[str, str], port: int) -> bool:
    """Whether pods with these labels get through, by what NetworkPolicies say: either end may forbid it."""
    return passes(objects, "Egress", source, target, port) and passes(objects, "Ingress", target, source, port)


def passes(objects: list[Object], way: str, own: dict[str, str], other: dict[str, str], port: int) -> bool:
    policies = [
        one["spec"]
        for one in of(objects, "NetworkPolicy")
        if way in one["spec"]["policyTypes"] and one["spec"]["podSelector"]["matchLabels"].items() <= own.items()
    ]
    rules = [rule for policy in policies for rule in policy.get(way.lower(), [])]
    peers = "to" if way == "Egress" else "from"
    return not policies or any(
        any(allowed["port"] == port for allowed in rule["ports"])
        and (peers not in rule or any(selects(peer, other) for peer in rule[peers]))
        for rule in rules
    )


def selects(peer: Object, labels: dict[str, str]) -> bool:
    return "podSelector" in peer and peer["podSelector"]["matchLabels"].items() <= labels.items()


def test_only_who_has_business_there_gets_through(objects: list[Object], params: Params) -> None:
    gateway, triton = (workload(objects, name).labels for name in ("gateway", "triton"))
    callers = {"gateway": gateway, "triton": triton, "prometheus": PROMETHEUS, "stranger": {"app": "stranger"}, "none": {}}
    ports = {name: getattr(params.serve, key) for name, key in TRITON_PORTS.items()}
    reached = {
        (who, name) for who, labels in callers.items() for name, port in ports.items() if may_talk(objects, labels, triton, port)
    }
    assert reached == {("gateway", "http"), ("gateway", "grpc"), ("prometheus", "metrics")}
    clients = {name for name, labels in callers.items() if may_talk(objects, labels, gateway, params.gateway.port)}
    assert clients == {"prometheus", "stranger", "none"}
    for one in (gateway, triton):
        assert may_talk(objects, one, DNS, 53)
    assert not passes(objects, "Egress", triton, {"app": "database"}, 5432)
    assert passes(objects, "Egress", gateway, {"app": "database"}, 5432)
    with_store = config_of(objects, "evergreen-store")["url"].startswith("https:")
    assert passes(objects, "Egress", triton, {}, 443) == with_store


def test_everything_of_ours_is_denied_first_both_ways(objects: list[Object]) -> None:
    deny = named(objects, "NetworkPolicy", "evergreen-default-deny")["spec"]
    assert set(deny) == {"podSelector", "policyTypes"}
    assert set(deny["policyTypes"]) == {"Ingress", "Egress"}
    for one in workloads(objects):
        assert deny["podSelector"]["matchLabels"].items() <= one.labels.items()
        own = [
            p
            for p in of(objects, "NetworkPolicy")
            if p["spec"]["podSelector"]["matchLabels"].get("app.kubernetes.io/name") == one.name
        ]
        assert own, "no policy lets anything through to this pod"


def test_policies_know_no_other_ports_than_ours_and_those_of_dns_postgres_and_https(objects: list[Object]) -> None:
    ours = {port["containerPort"] for one in workloads(objects) for port in one.main["ports"]}
    used = {
        port["port"]
        for policy in of(objects, "NetworkPolicy")
        for way in ("ingress", "egress")
        for rule in policy["spec"].get(way, [])
        for port in rule["ports"]
    }
    assert used == ours | {53, 443, 5432}


def test_the_outside_never_means_a_private_address_or_the_clouds_metadata(objects: list[Object]) -> None:
    blocks = [
        peer["ipBlock"]
        for policy in of(objects, "NetworkPolicy")
        for rule in policy["spec"].get("egress", [])
        for peer in rule.get("to", [])
        if "ipBlock" in peer
    ]
    assert blocks
    for block in blocks:
        assert {"10.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16"} <= set(block["except"])
