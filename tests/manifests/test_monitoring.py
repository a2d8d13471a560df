"""The component of the monitor: the Operator's kinds by a schema of our keys; rules and scraping of one mind with params."""

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
from tests.manifests.rendered import Object, named, of, workload
from tests.manifests.test_network import DNS, PROMETHEUS, may_talk, passes
from tests.monitoring.conftest import TOOLS, tools  # noqa: F401 (a fixture)

DURATION = {"type": "string", "pattern": r"^(\d+y)?(\d+w)?(\d+d)?(\d+h)?(\d+m)?(\d+s)?(\d+ms)?$", "minLength": 2}
WORDS = {"type": "object", "additionalProperties": {"type": "string"}}
WORD = {"type": "string", "minLength": 1}


def exactly(required: dict[str, Any], **optional: Any) -> dict[str, Any]:
    """An object with these keys and no others."""
    return {
        "type": "object",
        "properties": required | optional,
        "required": list(required),
        "additionalProperties": False,
    }


def several(item: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": item, "minItems": 1}


# Of the Operator's CRDs (0.82): the keys that we use, in their types.
RULE = exactly(
    {"alert": WORD, "expr": WORD, "labels": WORDS, "annotations": WORDS}, **{"for": DURATION, "keep_firing_for": DURATION}
)
RELABELING = exactly(
    {"action": {"enum": ["replace", "labeldrop"]}}, targetLabel=WORD, replacement=WORD, regex=WORD, sourceLabels=several(WORD)
)
ENDPOINT = exactly(
    {"port": WORD, "path": WORD, "interval": DURATION, "scrapeTimeout": DURATION, "relabelings": several(RELABELING)}
)
SPECS = {
    "PrometheusRule": exactly({"groups": several(exactly({"name": WORD, "interval": DURATION, "rules": several(RULE)}))}),
    "ServiceMonitor": exactly({"selector": exactly({"matchLabels": WORDS}), "endpoints": several(ENDPOINT)}),
}


@pytest.fixture
def watched(rendered: dict[str, list[Object]]) -> list[Object]:
    return rendered["local with monitoring"]


def valid(one: Object) -> None:
    metadata = exactly({"name": WORD, "namespace": WORD, "labels": WORDS})
    whole = {"apiVersion": {"const": "monitoring.coreos.com/v1"}, "kind": WORD, "metadata": metadata, "spec": SPECS[one["kind"]]}
    jsonschema.validate(one, exactly(whole))


def test_the_operators_kinds_are_valid(watched: list[Object]) -> None:
    found = [one for kind in SPECS for one in of(watched, kind)]
    assert len(found) == 4
    for one in found:
        valid(one)


@pytest.mark.parametrize(("kind", "spoilt"), [("PrometheusRule", "keepFiringFor"), ("ServiceMonitor", "scrape_timeout")])
def test_a_misspelt_key_of_theirs_would_be_noticed(kind: str, spoilt: str, watched: list[Object]) -> None:
    one = copy.deepcopy(of(watched, kind)[0])
    place = one["spec"]["groups"][0]["rules"][0] if kind == "PrometheusRule" else one["spec"]["endpoints"][0]
    place[spoilt] = "10s"
    with pytest.raises(jsonschema.ValidationError):
        valid(one)


@pytest.mark.usefixtures("tools")
def test_promtool_takes_the_rules_of_the_cluster(watched: list[Object], params: Params, tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(of(watched, "PrometheusRule")[0]["spec"]))
    done = subprocess.run(
        [str(find_tool(TOOLS, "promtool")), "check", "rules", str(tmp_path / "rules.yaml")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert f"{sum(map(len, all_rules(params).values()))} rules found" in done.stdout


def test_files_are_as_they_are_rendered(params: Params) -> None:
    for path, text in manifests(params, (ROOT / "params.yaml").read_text(encoding="utf-8")).items():
        assert (ROOT / path).read_text(encoding="utf-8") == text, f"render {path} again: make manifests"


def test_each_service_is_scraped_at_a_port_it_has_under_the_name_that_rules_use(watched: list[Object], params: Params) -> None:
    jobs = set()
    for one in of(watched, "ServiceMonitor"):
        (endpoint,) = one["spec"]["endpoints"]
        wanted = one["spec"]["selector"]["matchLabels"].items()
        (service,) = [service for service in of(watched, "Service") if wanted <= service["metadata"]["labels"].items()]
        assert service["metadata"]["name"] == one["metadata"]["name"]
        assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
        jobs.add(endpoint["relabelings"][0]["replacement"])
    rules = "".join(rule.expr for rules in all_rules(params).values() for rule in rules)
    assert len(jobs) == 3
    assert all(job in rules for job in jobs)


def test_the_monitors_series_do_not_change_their_labels_with_its_pod(watched: list[Object]) -> None:
    (endpoint,) = named(watched, "ServiceMonitor", "monitor")["spec"]["endpoints"]
    fixed = {one["targetLabel"] for one in endpoint["relabelings"] if one["action"] == "replace"}
    dropped = {name for one in endpoint["relabelings"] if one["action"] == "labeldrop" for name in one["regex"].split("|")}
    assert {"instance", "job"} <= fixed
    assert {"pod", "container", "endpoint"} <= dropped


def test_only_prometheus_reaches_the_monitor_and_it_reaches_its_sources_alone(watched: list[Object], params: Params) -> None:
    monitor, gateway, triton = (workload(watched, name).labels for name in ("monitor", "gateway", "triton"))
    port = params.alerts.monitor_port
    callers = {"prometheus": PROMETHEUS, "gateway": gateway, "triton": triton, "stranger": {"app": "stranger"}}
    assert {name for name, labels in callers.items() if may_talk(watched, labels, monitor, port)} == {"prometheus"}
    assert passes(watched, "Egress", monitor, {"app": "database"}, 5432)
    assert may_talk(watched, monitor, DNS, 53)
    assert not may_talk(watched, monitor, triton, params.serve.grpc_port)


def test_there_is_one_monitor_and_never_two_at_a_time(watched: list[Object]) -> None:
    spec = workload(watched, "monitor").deployment["spec"]
    assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})


def test_the_monitor_listens_where_it_is_scraped_and_finds_its_references(watched: list[Object], params: Params) -> None:
    monitor = workload(watched, "monitor")
    assert [port["containerPort"] for port in monitor.main["ports"]] == [params.alerts.monitor_port]
    variables = {one["name"]: one for one in monitor.main["env"]}
    assert variables["EVERGREEN_MONITOR_HOST"]["value"] == "0.0.0.0"  # noqa: S104 (a NetworkPolicy says who gets there)
    (init,) = workload(watched, "triton").pod["initContainers"]
    stores = [one["valueFrom"] for one in init["env"] if one["name"] == "EVERGREEN_MODEL_STORE"]
    assert stores == [variables["EVERGREEN_MODEL_STORE"]["valueFrom"]]  # the one that Triton's pods read
    mounts = {one["mountPath"]: one for one in monitor.main["volumeMounts"]}
    assert mounts["/store"]["readOnly"]
    home = mounts[variables["EVERGREEN_HOME"]["value"]]  # references are written there
    assert not home.get("readOnly")


def test_grafana_finds_the_dashboard(watched: list[Object]) -> None:
    found = named(watched, "ConfigMap", "evergreen-dashboard")
    assert found["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert json.loads(found["data"]["dashboard.json"])["uid"] == "evergreen"


def test_without_the_component_nothing_of_the_operator_is_asked_for(rendered: dict[str, list[Object]]) -> None:
    assert not [one for one in rendered["local"] if one["apiVersion"].startswith("monitoring.coreos.com")]
