"""The monitoring component: the Operator's kinds fit a schema, and rules and scraping agree with params."""

import copy
import json
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from monitoring.alert_rules.manifests import manifests
from monitoring.alert_rules.render import all_rules
from monitoring.local.tools import find_tool
from pipeline.params import Params
from tests.conftest import ROOT
from tests.manifests.rendered import Object, find_object, find_workload, of_kind
from tests.monitoring.conftest import TOOLS, tools  # noqa: F401 (a fixture)

DURATION = {"type": "string", "pattern": r"^(\d+y)?(\d+w)?(\d+d)?(\d+h)?(\d+m)?(\d+s)?(\d+ms)?$", "minLength": 2}
STRINGS = {"type": "object", "additionalProperties": {"type": "string"}}
STRING = {"type": "string", "minLength": 1}


def object_schema(required: dict[str, Any], **optional: Any) -> dict[str, Any]:
    """Return the schema of an object with these keys and no others."""
    return {
        "type": "object",
        "properties": required | optional,
        "required": list(required),
        "additionalProperties": False,
    }


def list_schema(item: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": item, "minItems": 1}


# The keys that we use of the Operator's CRDs (0.82), with their types.
RULE = object_schema(
    {"alert": STRING, "expr": STRING, "labels": STRINGS, "annotations": STRINGS}, **{"for": DURATION, "keep_firing_for": DURATION}
)
RELABELING = object_schema(
    {"action": {"enum": ["replace", "labeldrop"]}},
    targetLabel=STRING,
    replacement=STRING,
    regex=STRING,
    sourceLabels=list_schema(STRING),
)
ENDPOINT = object_schema(
    {"port": STRING, "path": STRING, "interval": DURATION, "scrapeTimeout": DURATION, "relabelings": list_schema(RELABELING)}
)
SPECS = {
    "PrometheusRule": object_schema(
        {"groups": list_schema(object_schema({"name": STRING, "interval": DURATION, "rules": list_schema(RULE)}))}
    ),
    "ServiceMonitor": object_schema({"selector": object_schema({"matchLabels": STRINGS}), "endpoints": list_schema(ENDPOINT)}),
}


@pytest.fixture
def watched(rendered: dict[str, list[Object]]) -> list[Object]:
    return rendered["local with monitoring"]


def check_schema(item: Object) -> None:
    metadata = object_schema({"name": STRING, "namespace": STRING, "labels": STRINGS})
    schema = {
        "apiVersion": {"const": "monitoring.coreos.com/v1"},
        "kind": STRING,
        "metadata": metadata,
        "spec": SPECS[item["kind"]],
    }
    jsonschema.validate(item, object_schema(schema))


def test_the_operators_kinds_are_valid(watched: list[Object]) -> None:
    items = [item for kind in SPECS for item in of_kind(watched, kind)]
    assert len(items) == 4
    for item in items:
        check_schema(item)


@pytest.mark.parametrize(("kind", "misspelt"), [("PrometheusRule", "keepFiringFor"), ("ServiceMonitor", "scrape_timeout")])
def test_a_misspelt_key_would_be_noticed(kind: str, misspelt: str, watched: list[Object]) -> None:
    item = copy.deepcopy(of_kind(watched, kind)[0])
    entry = item["spec"]["groups"][0]["rules"][0] if kind == "PrometheusRule" else item["spec"]["endpoints"][0]
    entry[misspelt] = "10s"
    with pytest.raises(jsonschema.ValidationError):
        check_schema(item)


@pytest.mark.usefixtures("tools")
def test_promtool_accepts_the_rules_of_the_cluster(watched: list[Object], params: Params, tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(of_kind(watched, "PrometheusRule")[0]["spec"]))
    result = subprocess.run(
        [str(find_tool(TOOLS, "promtool")), "check", "rules", str(tmp_path / "rules.yaml")], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert f"{sum(map(len, all_rules(params).values()))} rules found" in result.stdout


def test_checked_in_files_are_up_to_date(params: Params) -> None:
    for path, text in manifests(params, (ROOT / "params.yaml").read_text(encoding="utf-8")).items():
        assert (ROOT / path).read_text(encoding="utf-8") == text, f"render {path} again: make manifests"


def test_each_service_is_scraped_at_an_existing_port_under_the_job_name_of_the_rules(
    watched: list[Object], params: Params
) -> None:
    jobs = set()
    for monitor in of_kind(watched, "ServiceMonitor"):
        (endpoint,) = monitor["spec"]["endpoints"]
        wanted = monitor["spec"]["selector"]["matchLabels"].items()
        (service,) = [service for service in of_kind(watched, "Service") if wanted <= service["metadata"]["labels"].items()]
        assert service["metadata"]["name"] == monitor["metadata"]["name"]
        assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
        jobs.add(endpoint["relabelings"][0]["replacement"])
    rules = "".join(rule.expr for rules in all_rules(params).values() for rule in rules)
    assert len(jobs) == 3
    assert all(job in rules for job in jobs)


def test_the_monitors_series_keep_their_labels_when_its_pod_changes(watched: list[Object]) -> None:
    (endpoint,) = find_object(watched, "ServiceMonitor", "monitor")["spec"]["endpoints"]
    fixed = {rule["targetLabel"] for rule in endpoint["relabelings"] if rule["action"] == "replace"}
    dropped = {name for rule in endpoint["relabelings"] if rule["action"] == "labeldrop" for name in rule["regex"].split("|")}
    assert {"instance", "job"} <= fixed
    assert {"pod", "container", "endpoint"} <= dropped


def test_there_is_never_more_than_one_monitor(watched: list[Object]) -> None:
    spec = find_workload(watched, "monitor").deployment["spec"]
    assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})


def test_the_monitor_listens_on_the_scraped_port_and_finds_its_references(watched: list[Object], params: Params) -> None:
    monitor = find_workload(watched, "monitor")
    assert [port["containerPort"] for port in monitor.main["ports"]] == [params.alerts.monitor_port]
    variables = {variable["name"]: variable for variable in monitor.main["env"]}
    assert variables["EVERGREEN_MONITOR_HOST"]["value"] == "0.0.0.0"  # noqa: S104 (a NetworkPolicy restricts access)
    (init,) = find_workload(watched, "triton").pod["initContainers"]
    stores = [variable["valueFrom"] for variable in init["env"] if variable["name"] == "EVERGREEN_MODEL_STORE"]
    assert stores == [variables["EVERGREEN_MODEL_STORE"]["valueFrom"]]  # the store that Triton's pods read
    mounts = {mount["mountPath"]: mount for mount in monitor.main["volumeMounts"]}
    assert mounts["/store"]["readOnly"]
    home = mounts[variables["EVERGREEN_HOME"]["value"]]  # references are written to it
    assert not home.get("readOnly")


def test_grafana_finds_the_dashboard(watched: list[Object]) -> None:
    config_map = find_object(watched, "ConfigMap", "evergreen-dashboard")
    assert config_map["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert json.loads(config_map["data"]["dashboard.json"])["uid"] == "evergreen"


def test_without_the_component_no_kind_of_the_operator_is_used(rendered: dict[str, list[Object]]) -> None:
    assert not [item for item in rendered["local"] if item["apiVersion"].startswith("monitoring.coreos.com")]
