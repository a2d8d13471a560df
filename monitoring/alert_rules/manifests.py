"""The checked-in files that are rendered from params.yaml: the Operator's kinds, the dashboard, params for the cluster, and how
Grafana of compose.yaml finds Prometheus and the dashboard.

A test compares the files with this renderer. The Operator reads the same rule groups as a local Prometheus.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from monitoring.alert_rules.alert import JOBS
from monitoring.alert_rules.dashboard import render_dashboard
from monitoring.alert_rules.render import HEADER, rule_groups, to_yaml
from pipeline.errors import run_stage
from pipeline.params import Alerts, Params, load_params

COMPONENT = Path("k8s/components/monitoring")
COMPOSE = Path("compose")
DASHBOARDS = "/etc/evergreen/dashboards"  # in Grafana's container
CLUSTER_PARAMS = Path("k8s/base/params.yaml")  # kustomize reads no file from outside its folder
PORTS = {"gateway": "http", "triton": "metrics", "monitor": "http"}  # port names in the Services
POD_LABELS = "container|endpoint|pod|service"
API = "monitoring.coreos.com/v1"


def manifests(params: Params, params_text: str) -> dict[Path, str]:
    """Return file contents by path relative to the repository; `params_text` is the content of params.yaml."""
    return {
        COMPONENT / "prometheus-rule.yaml": to_yaml(prometheus_rule(params)),
        COMPONENT / "service-monitors.yaml": HEADER + yaml.safe_dump_all(service_monitors(params.alerts), sort_keys=False),
        COMPONENT / "dashboard.json": render_dashboard(params),
        CLUSTER_PARAMS: params_text,
        COMPOSE / "datasources.yaml": to_yaml(datasources(params.alerts)),
        COMPOSE / "dashboards.yaml": to_yaml(dashboard_provider()),
    }


def prometheus_rule(params: Params) -> dict[str, Any]:
    """Return all rule groups in one object."""
    return {**_object("PrometheusRule", "evergreen"), "spec": {"groups": rule_groups(params)}}


def service_monitors(alerts: Alerts) -> Iterator[dict[str, Any]]:
    """Yield one ServiceMonitor per Service, with the job name that the rules use."""
    for name, port in PORTS.items():
        endpoint = {
            "port": port,
            "path": "/metrics",
            "interval": f"{alerts.scrape_s}s",
            "scrapeTimeout": f"{min(10, alerts.scrape_s)}s",
        }
        selector = {"matchLabels": {"app.kubernetes.io/name": name, "app.kubernetes.io/part-of": "evergreen"}}
        yield {
            **_object("ServiceMonitor", name),
            "spec": {"selector": selector, "endpoints": [endpoint | {"relabelings": relabelings(name)}]},
        }


def relabelings(name: str) -> list[dict[str, str]]:
    """Set the job; keep the monitor's labels when its pod changes, so that new values continue the old series."""
    rules = [{"action": "replace", "targetLabel": "job", "replacement": JOBS[name]}]
    if name == "monitor":
        rules.append({"action": "replace", "targetLabel": "instance", "replacement": name})
        rules.append({"action": "labeldrop", "regex": POD_LABELS})
    return rules


def datasources(alerts: Alerts) -> dict[str, Any]:
    """Return Prometheus for Grafana's provisioning; it is the default, so the dashboard's variable chooses it."""
    source = {
        "name": "Prometheus",
        "uid": "prometheus",
        "type": "prometheus",
        "access": "proxy",
        "url": f"http://prometheus:{alerts.prometheus_port}",
        "isDefault": True,
        "editable": False,
        "jsonData": {"timeInterval": f"{alerts.scrape_s}s"},
    }
    return {"apiVersion": 1, "datasources": [source]}


def dashboard_provider() -> dict[str, Any]:
    """Return the folder of dashboards for Grafana's provisioning."""
    provider = {"name": "evergreen", "type": "file", "allowUiUpdates": False, "options": {"path": DASHBOARDS}}
    return {"apiVersion": 1, "providers": [provider]}


def _object(kind: str, name: str) -> dict[str, Any]:
    return {"apiVersion": API, "kind": kind, "metadata": {"name": name, "labels": {"app.kubernetes.io/name": name}}}


def main() -> None:
    """Rewrite the files that have changed: `python -m monitoring.alert_rules.manifests`, in the repository's root."""
    params_file = Path("params.yaml")
    for path, text in manifests(load_params(params_file), params_file.read_text(encoding="utf-8")).items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            sys.stdout.write(f"· {path}\n")


if __name__ == "__main__":
    run_stage(main)
