"""Every metric and label in the rules, their texts and the dashboard is exported by a process."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from monitoring.alert_rules.dashboard import COLUMNS, render_dashboard
from monitoring.alert_rules.render import all_rules
from monitoring.alert_rules.serving import bucket_label
from monitoring.decisions import UNSEEN
from monitoring.flywheel.metrics import FlywheelMetrics
from monitoring.flywheel.queue.round import RoundSummary
from monitoring.local.tools import find_tool
from monitoring.monitor.metrics import MonitorMetrics
from monitoring.release.evidence import ReleaseEvidence
from monitoring.release.metrics import ReleaseMetrics
from monitoring.release.runs import first_run
from monitoring.release.verdicts.guardrails import first_guardrails
from monitoring.retrain.metrics import ControllerMetrics, ReceiverMetrics
from pipeline.params import Params
from serving.gateway.answering.response_cache import ResponseCache
from serving.gateway.app import add_gauges
from serving.gateway.metrics import SECONDS, Metrics
from tests.monitoring.alert_rules.promql import selectors
from tests.monitoring.conftest import with_every_metric

# Triton's user guide, "Metrics". The local server, which has no GPU, exports those of the CPU and the queue.
TRITON = {
    "nv_cpu_utilization": set(),
    "nv_cpu_memory_used_bytes": set(),
    "nv_cpu_memory_total_bytes": set(),
    "nv_inference_pending_request_count": {"model", "version"},
    **{f"nv_gpu_{name}": {"gpu_uuid"} for name in ("utilization", "memory_used_bytes", "memory_total_bytes")},
}
PROMETHEUS = {"up": set(), "ALERTS": {"alertname", "alertstate", "severity", "area", "version", "signal"}}
SCRAPE_LABELS = {"job", "instance", "le"}


def exported(text: str) -> dict[str, set[str]]:
    """Return label names by sample name."""
    labels: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels.setdefault(sample.name, set()).update(sample.labels)
    return labels


def gateway_metrics() -> dict[str, set[str]]:
    """Return the gateway's metrics after calling each method once."""
    metrics = Metrics()
    parts: Any = SimpleNamespace(waiting=0, cache=ResponseCache(0, 1.0))
    add_gauges(metrics, parts, SimpleNamespace(**dict.fromkeys(log_counters(), 0)))  # type: ignore[arg-type]
    metrics.count_prediction(1, "champion", True, 3.0)
    metrics.count_abstention(1, "champion")
    metrics.expect_abstentions(1, 0.1)
    metrics.count_request("/v1/predict", 200, 0.01)
    with pytest.raises(ZeroDivisionError), metrics.triton_call(1, 2):
        1 / 0  # noqa: B018
    for count in (metrics.count_refusal, metrics.count_shadow_drop, metrics.count_job_attempt, metrics.count_error):
        count("x")
    return exported(metrics.text().decode())


def retrain_metrics() -> dict[str, set[str]]:
    """Return the receiver's and the controller's metrics after calling each method once."""
    receiver, controller = ReceiverMetrics(lambda: 0), ControllerMetrics()
    receiver.answered(204, 0.01)
    receiver.received(1, 1)
    receiver.truncated(1)
    receiver.count_refusal("full")
    receiver.failed()
    controller.decided("refused", "over")
    controller.claimed(3)
    controller.set_decision(3, UNSEEN)
    controller.cycle_done(1.0, waiting={"settling": 1}, is_running=True, spent_ratio=0.5)
    controller.step_done("gate", 3.0)
    controller.failed("looking")
    return exported(receiver.text().decode()) | exported(controller.text().decode())


def release_metrics(params: Params) -> dict[str, set[str]]:
    """Return the metrics of a release that runs, and of one that has ended."""
    metrics, found = ReleaseMetrics(registry := CollectorRegistry()), dict[str, set[str]]()
    guardrails = first_guardrails(ReleaseEvidence().shadow, params.release)
    run = first_run(9, 4, 3, "salt", 100.0)._replace(stage="canary", evidence=ReleaseEvidence(guardrails=guardrails).to_json())
    for shown in (run, run._replace(stage="ended", outcome="rolled_back", ended_at=5.0)):
        metrics.show(shown, params.release)
        found |= exported(generate_latest(registry).decode())
    return found


def flywheel_metrics() -> dict[str, set[str]]:
    """Return the flywheel's metrics after calling each method once."""
    metrics = FlywheelMetrics()
    metrics.set_round(RoundSummary(1.0, 3, texts=9, clusters=2, reasons={"margin": 9}))
    metrics.set_duration(3.0)
    metrics.failed()
    return exported(metrics.text().decode())


def log_counters() -> list[str]:
    """Return the prediction log's counters, which the gateway exports."""
    return ["rows_written", "rows_dropped", "rows_unstorable", "rows_lost_before", "write_failures", "waiting"]


@pytest.fixture(scope="module")
def known(params: Params) -> dict[str, set[str]]:
    monitor = exported(with_every_metric(MonitorMetrics()).text().decode())
    controller = retrain_metrics() | release_metrics(params)
    return PROMETHEUS | TRITON | gateway_metrics() | controller | flywheel_metrics() | monitor


def unknown(expression: str, known: dict[str, set[str]]) -> list[str]:
    """Return the metrics and labels of an expression that no process exports."""
    missing = []
    for name, labels in selectors(expression):
        if name not in known:
            missing.append(name)
        missing += [f"{name}{{{label}}}" for label in labels - known.get(name, labels) - SCRAPE_LABELS]
    return missing


def test_an_unknown_metric_or_label_would_be_noticed(known: dict[str, set[str]]) -> None:
    assert unknown("rate(evergreen_requests_totl[5m]) > 0", known) == ["evergreen_requests_totl"]
    assert unknown('sum by (x) (up{jobs="a"}) or evergreen_waiting_texts', known) == ["up{jobs}"]
    assert unknown('count_values("version", max (evergreen_monitored_version)) and on (version) up', known) == []


def test_rules_query_exported_metrics(params: Params, known: dict[str, set[str]]) -> None:
    for rules in all_rules(params).values():
        for rule in rules:
            assert unknown(rule.expr, known) == [], rule.name
            assert list(selectors(rule.expr)) or rule.name == "EvergreenWatchdog"


def test_texts_of_rules_query_exported_metrics(params: Params, known: dict[str, set[str]]) -> None:
    texts = [
        query
        for rules in all_rules(params).values()
        for rule in rules
        for text in (rule.summary, rule.description, *dict(rule.annotations).values())
        for query in re.findall(r"with (?:printf )?`([^`]*)`[^}]*\| query", text)
    ]
    assert len(texts) > 15
    assert [name for query in texts for name in unknown(query, known)] == []


def queries(params: Params) -> Iterator[tuple[str, str]]:
    tree = json.loads(render_dashboard(params))
    for panel in tree["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"]
    for annotation in tree["annotations"]["list"]:
        yield annotation["name"], annotation["expr"]


def test_the_dashboard_queries_exported_metrics(params: Params, known: dict[str, set[str]]) -> None:
    panels = list(queries(params))
    assert len(panels) > 40
    for title, query in panels:
        assert unknown(query, known) == [], title
        assert list(selectors(query)) or query.startswith("vector("), title


def test_the_dashboard_shows_every_metric_of_the_monitor(params: Params) -> None:
    shown = {name for _, query in queries(params) for name, _ in selectors(query)}
    monitor = {name for name in exported(with_every_metric(MonitorMetrics()).text().decode()) if name.startswith("evergreen_")}
    values = {name for name in monitor if not name.endswith(("_created", "_sum", "_count"))}
    assert values - shown == {"evergreen_window_rows", "evergreen_reference_rows"}  # shown as a ratio, and as an age


@pytest.mark.usefixtures("tools")
def test_promtool_accepts_every_query_of_the_dashboard(params: Params, tools: Path, tmp_path: Path) -> None:
    rules = [
        {"record": f"panel:{number}", "expr": query.replace("$__rate_interval", "1m")}
        for number, (_, query) in enumerate(queries(params))
    ]
    (tmp_path / "queries.yaml").write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    result = subprocess.run(
        [str(find_tool(tools, "promtool")), "check", "rules", str(tmp_path / "queries.yaml")], capture_output=True
    )
    assert result.returncode == 0, result.stderr


def test_panels_stay_in_the_grid_and_never_overlap(params: Params) -> None:
    positions = [panel["gridPos"] for panel in json.loads(render_dashboard(params))["panels"]]
    cells = [(x, y) for p in positions for x in range(p["x"], p["x"] + p["w"]) for y in range(p["y"], p["y"] + p["h"])]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < COLUMNS


def test_the_latency_limit_is_a_bound_of_the_gateways_buckets(params: Params) -> None:
    assert params.alerts.latency_limit_ms / 1000 in SECONDS
    registry: CollectorRegistry = (metrics := Metrics()).registry
    metrics.count_request("/v1/predict", 200, 0.01)
    assert registry.get_sample_value(
        "evergreen_request_seconds_bucket", {"route": "/v1/predict", "le": bucket_label(params.alerts.latency_limit_ms)}
    )
