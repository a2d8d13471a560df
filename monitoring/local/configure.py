"""Write every file that Prometheus and Alertmanager read into `alerts/` of the home; as a program, it does that alone."""

import argparse
from pathlib import Path
from typing import Any

import yaml

from monitoring.alert_rules import alertmanager
from monitoring.alert_rules.alert import JOBS
from monitoring.alert_rules.render import HEADER, rule_file
from pipeline.atomic_write import atomic_write
from pipeline.errors import run_stage
from pipeline.home import find_home
from pipeline.output.plain_text import print_line
from pipeline.params import Alerts, Params, load_params
from serving.processes.addresses import Service, authority, reach_host
from serving.triton.client import server_settings


def scrape_config(params: Params) -> dict[str, Any]:
    """Return prometheus.yml as a tree: scrape jobs, the rule file, the Alertmanager."""
    alerts, triton = params.alerts, server_settings(params.serve)
    targets = {
        "gateway": authority(reach_host("gateway", params.gateway.host), params.gateway.port),
        "triton": authority(triton.host, triton.metrics_port),
        "monitor": authority(reach_host("monitor", alerts.host), alerts.monitor_port),
        "flywheel": authority(reach_host("flywheel", alerts.host), alerts.flywheel_port),
    }
    if alerts.inbox == "here":
        targets["inbox"] = authority(reach_host("inbox", alerts.host), alerts.inbox_port)
    if alerts.console == "here":
        targets["console"] = authority(reach_host("console", alerts.host), alerts.console_port)
    if alerts.controller_url == "here":
        targets |= {name: authority(reach_host(name, alerts.host), port) for name, port in retrain_ports(alerts).items()}
    return {
        "global": {
            "scrape_interval": f"{alerts.scrape_s}s",
            "scrape_timeout": f"{min(10, alerts.scrape_s)}s",
            "evaluation_interval": f"{alerts.evaluate_s}s",
        },
        "rule_files": ["rules.yaml"],
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": [alertmanager_authority(alerts)]}]}]},
        "scrape_configs": [
            {"job_name": JOBS[name], "static_configs": [{"targets": [target]}]} for name, target in targets.items()
        ],
    }


def alertmanager_authority(alerts: Alerts) -> str:
    """Return host and port at which programs reach Alertmanager."""
    return authority(reach_host("alertmanager", alerts.host), alerts.alertmanager_port)


def retrain_ports(alerts: Alerts) -> dict[Service, int]:
    """Return the ports of the two retrain processes."""
    return {"receiver": alerts.receiver_port, "controller": alerts.controller_port}


def write_config(params: Params, folder: Path) -> None:
    """Write every file that Prometheus and Alertmanager read."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        "prometheus.yml": HEADER + yaml.safe_dump(scrape_config(params), sort_keys=False),
        "rules.yaml": rule_file(params),
        "alertmanager.yml": alertmanager.config_file(params.alerts, folder),
        alertmanager.TEMPLATES: alertmanager.message_templates(params.alerts),
    }
    for name, text in files.items():
        with atomic_write(folder / name) as part:
            part.write_text(text, encoding="utf-8")


def main() -> None:
    """Run `python -m monitoring.local.configure`."""
    argparse.ArgumentParser(prog="python -m monitoring.local.configure", description=__doc__).parse_args()
    folder = find_home() / "alerts"
    write_config(load_params(), folder)
    print_line(f"configuration of Prometheus and Alertmanager → {folder}")


if __name__ == "__main__":
    run_stage(main)
