"""The alert rules, rendered from params.yaml: Prometheus' rule file, and the groups of the Operator's PrometheusRule."""

import sys
from pathlib import Path
from typing import Any

import yaml

from monitoring.alert_rules.alert import Rule, rendered
from monitoring.alert_rules.drift_and_accuracy import judged
from monitoring.alert_rules.monitoring import watchers
from monitoring.alert_rules.resources import machines
from monitoring.alert_rules.retraining import retraining
from monitoring.alert_rules.serving import served
from pipeline.errors import run_stage
from pipeline.params import Params, load_params

HEAD = "# Rendered from params.yaml by `make manifests`; do not change it here.\n"


def all_rules(params: Params) -> dict[str, list[Rule]]:
    """Every rule, by group."""
    return {
        "evergreen-judged": judged(params),
        "evergreen-served": served(params),
        "evergreen-machines": machines(params.alerts),
        "evergreen-retrain": retraining(params.alerts),
        "evergreen-watchers": watchers(params.alerts),
    }


def groups(params: Params) -> list[dict[str, Any]]:
    """The groups as both forms hold them."""
    return [
        {
            "name": name,
            "interval": f"{params.alerts.evaluate_s}s",
            "rules": [rendered(rule, params.alerts) for rule in rules],
        }
        for name, rules in all_rules(params).items()
    ]


def rule_file(params: Params) -> str:
    """Prometheus' plain rule file."""
    return as_yaml({"groups": groups(params)})


def as_yaml(tree: dict[str, Any]) -> str:
    """YAML for people: long texts as blocks, keys in our order."""
    return HEAD + yaml.dump(tree, Dumper=_Blocks, sort_keys=False, allow_unicode=True, width=10_000)


class _Blocks(yaml.SafeDumper):
    """Writes texts of several lines as blocks."""


def _block(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Blocks.add_representer(str, _block)


def main() -> None:
    """`python -m monitoring.alert_rules.render rules.yaml`."""
    Path(sys.argv[1]).write_text(rule_file(load_params()), encoding="utf-8")


if __name__ == "__main__":
    run_stage(main)
