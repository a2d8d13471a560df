"""Who reaches whom under the NetworkPolicies: rules add up, and a selected pod has only the connections that they allow."""

from ipaddress import ip_address, ip_network
from typing import NamedTuple

from tests.manifests.rendered import Object, find_workload, of_kind, workloads

OURS = "evergreen"  # the namespace of our pods


class Peer(NamedTuple):
    """One end of a connection: a pod with labels in a namespace, or an address outside the cluster."""

    labels: dict[str, str] | None  # None: not a pod
    namespace: str = OURS
    address: str = ""


PROMETHEUS = {"app.kubernetes.io/name": "prometheus"}
PEERS = {
    "prometheus": Peer(PROMETHEUS, "monitoring"),
    "stranger": Peer({"app": "stranger"}),
    "a pod without labels": Peer({}, "elsewhere"),
    "a false gateway elsewhere": Peer(
        {"app.kubernetes.io/name": "gateway", "app.kubernetes.io/part-of": "evergreen"}, "elsewhere"
    ),
    "dns": Peer({"k8s-app": "kube-dns"}, "kube-system"),
    "a false dns": Peer({"k8s-app": "kube-dns"}, "elsewhere"),
    "database": Peer(None, address="10.20.30.40"),
    "store": Peer(None, address="192.0.2.17"),
    "internet": Peer(None, address="93.184.216.34"),
    "cloud metadata": Peer(None, address="169.254.169.254"),
}
PORTS = (22, 53, 443, 5432, 8000, 8001, 8002, 8080, 8095)


def peers(objects: list[Object]) -> dict[str, Peer]:
    """Return our pods, and everybody else."""
    return PEERS | {workload.name: Peer(workload.labels) for workload in workloads(objects)}


def pod(objects: list[Object], name: str) -> Peer:
    return Peer(find_workload(objects, name).labels)


def reachable(objects: list[Object]) -> set[tuple[str, str, int]]:
    """Return every source, target and port between which a connection passes, where one end is a pod of ours."""
    ends = peers(objects)
    ours = {workload.name for workload in workloads(objects)}
    return {
        (source, target, port)
        for source in ends
        for target in ends
        for port in PORTS
        if source != target and ours & {source, target} and may_talk(objects, ends[source], ends[target], port)
    }


def may_talk(objects: list[Object], source: Peer, target: Peer, port: int) -> bool:
    """Return True when the policies of both ends allow the connection."""
    return passes(objects, "Egress", source, target, port) and passes(objects, "Ingress", target, source, port)


def passes(objects: list[Object], direction: str, pod: Peer, peer: Peer, port: int) -> bool:
    if pod.labels is None or pod.namespace != OURS:  # our policies select no one there
        return True
    policies = [
        policy["spec"]
        for policy in of_kind(objects, "NetworkPolicy")
        if direction in policy["spec"]["policyTypes"]
        and policy["spec"]["podSelector"]["matchLabels"].items() <= pod.labels.items()
    ]
    rules = [rule for policy in policies for rule in policy.get(direction.lower(), [])]
    ends = "to" if direction == "Egress" else "from"
    return not policies or any(
        any(allowed["port"] == port for allowed in rule["ports"])
        and (ends not in rule or any(selects(allowed, peer) for allowed in rule[ends]))
        for rule in rules
    )


def selects(allowed: Object, peer: Peer) -> bool:
    """Return True when an entry under `to` or `from` names the peer; an entry without namespaces means our own."""
    if "ipBlock" in allowed:
        return peer.labels is None and in_block(allowed["ipBlock"], peer.address)
    if peer.labels is None:
        return False
    namespaces = allowed.get("namespaceSelector", {"matchLabels": {"kubernetes.io/metadata.name": OURS}})
    wanted = namespaces.get("matchLabels", {}).items() <= {"kubernetes.io/metadata.name": peer.namespace}.items()
    return wanted and allowed.get("podSelector", {}).get("matchLabels", {}).items() <= peer.labels.items()


def in_block(block: Object, address: str) -> bool:
    inside = ip_address(address) in ip_network(block["cidr"])
    return inside and not any(ip_address(address) in ip_network(excepted) for excepted in block.get("except", []))
