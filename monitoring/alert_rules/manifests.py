"""Every checked-in file that is rendered from params.yaml: the Operator's kinds, the dashboard, params for the cluster.

A test holds the files and this renderer together. The Operator reads the same groups that a local Prometheus does.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from monitoring.alert_rules.alert import JOBS
from monitoring.alert_rules.dashboard import dashboard
from monitoring.alert_rules.render import HEAD, as_yaml, groups
from pipeline.errors import run_stage
from pipeline.params import Alerts, Params, load_params

COMPONENT = Path("k8s/components/monitoring")
CLUSTER_PARAMS = Path("k8s/base/params.yaml")  # kustomize takes no file from outside of its folder
PORTS = {"gateway": "http", "triton": "metrics", "monitor": "http"}  # names in the Services
OF_THE_POD = "container|endpoint|pod|service"
API = "monitoring.coreos.com/v1"


def manifests(params: Params, shipped: str) -> dict[Path, str]:
    """Text by path, relative to the repository; `shipped` is params.yaml as it stands."""
    return {
        COMPONENT / "prometheus-rule.yaml": as_yaml(prometheus_rule(params)),
        COMPONENT / "service-monitors.yaml": HEAD + yaml.safe_dump_all(service_monitors(params.alerts), sort_keys=False),
        COMPONENT / "dashboard.json": dashboard(params),
        CLUSTER_PARAMS: shipped,
    }


def prometheus_rule(params: Params) -> dict[str, Any]:
    """All groups in one object."""
    return {**_head("PrometheusRule", "evergreen"), "spec": {"groups": groups(params)}}


def service_monitors(alerts: Alerts) -> Iterator[dict[str, Any]]:
    """One a Service; the job is named as the rules name it."""
    for name, port in PORTS.items():
        endpoint = {
            "port": port,
            "path": "/metrics",
            "interval": f"{alerts.scrape_s}s",
            "scrapeTimeout": f"{min(10, alerts.scrape_s)}s",
        }
        selector = {"matchLabels": {"app.kubernetes.io/name": name, "app.kubernetes.io/part-of": "evergreen"}}
        yield {
            **_head("ServiceMonitor", name),
            "spec": {"selector": selector, "endpoints": [endpoint | {"relabelings": relabelings(name)}]},
        }


def relabelings(name: str) -> list[dict[str, str]]:
    """The monitor's series keep their labels when its pod changes, so that the last value known is followed by the next one."""
    found = [{"action": "replace", "targetLabel": "job", "replacement": JOBS[name]}]
    if name == "monitor":
        found.append({"action": "replace", "targetLabel": "instance", "replacement": name})
        found.append({"action": "labeldrop", "regex": OF_THE_POD})
    return found


def _head(kind: str, name: str) -> dict[str, Any]:
    return {"apiVersion": API, "kind": kind, "metadata": {"name": name, "labels": {"app.kubernetes.io/name": name}}}


def main() -> None:
    """`python -m monitoring.alert_rules.manifests`, in the repository's folder."""
    shipped = Path("params.yaml")
    for path, text in manifests(load_params(shipped), shipped.read_text(encoding="utf-8")).items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            sys.stdout.write(f"· {path}\n")


if __name__ == "__main__":
    run_stage(main)
