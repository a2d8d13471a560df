"""Alert rules rendered from params.yaml: Prometheus' rule file, and the groups of the Operator's PrometheusRule."""

import sys
from pathlib import Path
from typing import Any

import yaml

from monitoring.alert_rules.alert import Rule, render_rule
from monitoring.alert_rules.drift_and_accuracy import drift_and_accuracy_rules
from monitoring.alert_rules.monitoring import monitoring_rules
from monitoring.alert_rules.releases import release_rules
from monitoring.alert_rules.resources import resource_rules
from monitoring.alert_rules.retraining import retraining_rules
from monitoring.alert_rules.serving import serving_rules
from pipeline.errors import run_stage
from pipeline.params import Params, load_params

HEADER = "# Rendered from params.yaml by `make manifests`; do not edit.\n"


def all_rules(params: Params) -> dict[str, list[Rule]]:
    """Return every rule, by group."""
    return {
        "evergreen-drift-and-accuracy": drift_and_accuracy_rules(params),
        "evergreen-serving": serving_rules(params),
        "evergreen-resources": resource_rules(params.alerts),
        "evergreen-retraining": retraining_rules(params.alerts),
        "evergreen-releases": release_rules(params),
        "evergreen-monitoring": monitoring_rules(params),
    }


def rule_groups(params: Params) -> list[dict[str, Any]]:
    """Return the rule groups in the form that the rule file and the PrometheusRule share."""
    return [
        {
            "name": name,
            "interval": f"{params.alerts.evaluate_s}s",
            "rules": [render_rule(rule, params.alerts) for rule in rules],
        }
        for name, rules in all_rules(params).items()
    ]


def rule_file(params: Params) -> str:
    """Render Prometheus' rule file."""
    return to_yaml({"groups": rule_groups(params)})


def to_yaml(tree: dict[str, Any]) -> str:
    """Render readable YAML: long texts as blocks, keys in the given order."""
    return HEADER + yaml.dump(tree, Dumper=_BlockDumper, sort_keys=False, allow_unicode=True, width=10_000)


class _BlockDumper(yaml.SafeDumper):
    """Writes texts of several lines as blocks."""


def _block(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_BlockDumper.add_representer(str, _block)


def main() -> None:
    """Write the rule file: `python -m monitoring.alert_rules.render rules.yaml`."""
    Path(sys.argv[1]).write_text(rule_file(load_params()), encoding="utf-8")


if __name__ == "__main__":
    run_stage(main)
