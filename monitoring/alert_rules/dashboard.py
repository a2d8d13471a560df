"""The Grafana dashboard, described here in a few lines a panel; every query is over what is exported.

Sources: Grafana's dashboard JSON model, schema version 36 (Grafana 9 and newer read it and bring it up to date).
"""

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from monitoring.alert_rules.panel import PERIOD, Panel
from monitoring.alert_rules.retrain_panels import retraining
from monitoring.alert_rules.serving import share_failed, share_slow
from pipeline.params import Params

UID, TITLE = "evergreen", "Evergreen"
COLUMNS, HEIGHT = 24, 8
SOURCE = {"type": "prometheus", "uid": "${source}"}


class Row(NamedTuple):
    """A heading and its panels."""

    title: str
    panels: list[Panel]


def rows(params: Params) -> list[Row]:
    """All of the dashboard, from what people feel to what machines do."""
    return [
        Row("Now", now(params)),
        Row("Drift, held against the reference of the watched version", drift(params)),
        Row("Accuracy", accuracy(params)),
        Row("Serving", serving(params)),
        Row("Triton and machines", machines(params)),
        Row("The watching itself", watching(params)),
        Row("Retraining", retraining(params)),
    ]


def now(params: Params) -> list[Panel]:
    """Single values."""
    since = "time() - max(evergreen_monitor_last_success_timestamp_seconds)"
    p99 = 'histogram_quantile(0.99, sum by (le) (rate(evergreen_request_seconds_bucket{route="/v1/predict"}[5m])))'
    return [
        Panel("Version watched", "none", {"": "max(evergreen_monitored_version)"}, 4, "stat"),
        Panel("Alerts firing", "none", {"": 'count(ALERTS{alertstate="firing",severity!="none"}) or vector(0)'}, 4, "stat"),
        Panel("P99, 5 min", "s", {"": p99}, 4, "stat", params.alerts.latency_limit_ms / 1000),
        Panel(
            "Failed, 5 min", "percentunit", {"": share_failed("5m", params.alerts)}, 4, "stat", 1 - params.alerts.answered_share
        ),
        Panel("Estimated accuracy", "percentunit", {"": 'min(evergreen_accuracy_estimate_ratio{bound="estimate"})'}, 4, "stat"),
        Panel("Since the monitor's last success", "s", {"": since}, 4, "stat", params.alerts.monitor_stale_s),
    ]


def drift(_params: Params) -> list[Panel]:
    """Evidence first, then its size."""
    each = "{{signal}} v{{version}}"
    margin = "evergreen_drift_log_e / on (signal) group_left () evergreen_drift_log_e_threshold"
    return [
        Panel("Evidence: log e-value over its threshold (1 is an alarm)", "none", {each: margin}, 12, limit=1),
        Panel("Effect size", "none", {each: "evergreen_drift_effect_size"}, 12),
        Panel(
            "Statistic over its threshold, in the last full window (1 is an alarm)",
            "none",
            {each: "evergreen_drift_statistic / on (version, signal) evergreen_drift_statistic_threshold"},
            limit=1,
        ),
        Panel("Share of traffic unlike the reference", "percentunit", {"v{{version}}": "evergreen_drift_estimated_share"}),
        Panel(
            "False alarms a week: promised, and realised over promised",
            "none",
            {
                "promised {{signal}}": "evergreen_false_alarms_per_week",
                "realised / promised {{signal}} v{{version}}": "evergreen_false_alarm_rate_checked_ratio",
            },
        ),
    ]


def accuracy(params: Params) -> list[Panel]:
    """Estimated and labelled, against the reference."""
    reference = {"reference v{{version}}": "evergreen_accuracy_reference_ratio"}
    bounds = "{{bound}} v{{version}}"
    return [
        Panel("Estimated without labels", "percentunit", {bounds: "evergreen_accuracy_estimate_ratio", **reference}),
        Panel("By feedback", "percentunit", {bounds: "evergreen_accuracy_labelled_ratio", **reference}),
        Panel("Evidence of harm: log e-value", "none", {"v{{version}}": "evergreen_harm_log_e"}, 4),
        Panel("Labels", "none", {"v{{version}}": "evergreen_accuracy_labels"}, 4),
    ]


def serving(params: Params) -> list[Panel]:
    """What callers feel, and the queue."""
    quantile = "histogram_quantile({}, sum by (version, le) (rate(evergreen_prediction_seconds_bucket[{}])))"
    limit = params.alerts.latency_limit_ms / 1000
    tolerated = {"tolerated": f"vector({1 - params.alerts.latency_share:.4g})"}
    return [
        Panel(
            "Predictions a second",
            "reqps",
            {"v{{version}} {{role}}": f"sum by (version, role) (rate(evergreen_predictions_total[{PERIOD}]))"},
        ),
        Panel(
            "Latency by version",
            "s",
            {f"P{100 * q:g} v{{{{version}}}}": quantile.format(q, PERIOD) for q in (0.5, 0.99)},
            limit=limit,
        ),
        Panel("Slower than the limit", "percentunit", {"of requests, 5 min": share_slow("5m", params.alerts), **tolerated}),
        Panel("Answers by code", "reqps", {"{{code}}": f"sum by (code) (rate(evergreen_requests_total[{PERIOD}]))"}),
        Panel("Refused", "reqps", {"{{reason}}": f"sum by (reason) (rate(evergreen_refused_total[{PERIOD}]))"}),
        Panel("Texts waiting", "none", {"{{instance}}": "evergreen_waiting_texts"}, limit=params.gateway.max_waiting_texts),
        Panel(
            "Answered from the cache",
            "percentunit",
            {
                "of predictions": f'sum(rate(evergreen_predictions_total{{cached="yes"}}[{PERIOD}])) '
                f"/ sum(rate(evergreen_predictions_total[{PERIOD}]))"
            },
        ),
        Panel(
            "Calls to Triton that failed",
            "reqps",
            {"v{{version}}": f"sum by (version) (rate(evergreen_triton_call_failures_total[{PERIOD}]))"},
        ),
        Panel("Champion; challenger's share", "none", champion()),
    ]


def champion() -> dict[str, str]:
    """What the gateways follow."""
    return {
        "champion": "max(evergreen_champion_version)",
        "challenger's share": "max(evergreen_challenger_weight_ratio)",
        "Triton ready": "min(evergreen_triton_ready)",
    }


def machines(params: Params) -> list[Panel]:
    """CPU, memory, GPU."""
    alerts = params.alerts
    of_memory = "{}_memory_used_bytes / {}_memory_total_bytes"
    return [
        Panel(
            "CPU of our processes",
            "none",
            {"{{job}}": f"rate(process_cpu_seconds_total[{PERIOD}])"},
            limit=alerts.process_cpu_cores,
        ),
        Panel(
            "Memory of our processes", "bytes", {"{{job}}": "process_resident_memory_bytes"}, limit=alerts.process_memory_bytes
        ),
        Panel(
            "Triton's queue",
            "none",
            {"{{model}}": "nv_inference_pending_request_count"},
        ),
        Panel(
            "Triton's machine",
            "percentunit",
            {"CPU": "nv_cpu_utilization", "memory": of_memory.format("nv_cpu", "nv_cpu")},
            limit=alerts.node_memory_share,
        ),
        Panel("GPU", "percentunit", {"{{gpu_uuid}}": "nv_gpu_utilization"}, limit=alerts.gpu_share),
        Panel("GPU memory", "percentunit", {"{{gpu_uuid}}": of_memory.format("nv_gpu", "nv_gpu")}, limit=alerts.gpu_memory_share),
    ]


def watching(params: Params) -> list[Panel]:
    """The monitor and the prediction log."""
    log = "evergreen_prediction_log_"
    return [
        Panel("Window filled", "percentunit", {"v{{version}}": "evergreen_window_fill_ratio"}, 6, limit=1),
        Panel("Rows read a second", "rowsps", {"v{{version}} {{role}}": f"rate(evergreen_monitor_rows_total[{PERIOD}])"}, 6),
        Panel("Behind the predictions", "s", {"monitor": "evergreen_monitor_lag_seconds"}, 6, limit=params.alerts.monitor_lag_s),
        Panel(
            "One cycle, P99",
            "s",
            {"monitor": f"histogram_quantile(0.99, sum by (le) (rate(evergreen_monitor_cycle_seconds_bucket[{PERIOD}])))"},
            6,
        ),
        Panel(
            "Prediction log",
            "none",
            {
                name.replace("_", " "): f"sum({log}{name})"
                for name in ("waiting", "rows_dropped", "rows_unstorable", "write_failures")
            },
            12,
        ),
        Panel(
            "Unreadable segments, failed cycles; age of the reference in days",
            "none",
            {
                "segments": "evergreen_monitor_segments_skipped_total",
                "failed: {{part}}": "evergreen_monitor_failures_total",
                "reference {{result}}": "evergreen_monitor_reference_fetches_total",
                "days v{{version}}": "evergreen_reference_age_seconds / 86400",
            },
            12,
        ),
    ]


def dashboard(params: Params) -> str:
    """The JSON that Grafana imports, or finds in a folder or a ConfigMap."""
    tree = {
        "uid": UID,
        "title": TITLE,
        "tags": ["evergreen"],
        "schemaVersion": 36,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": [{"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus"}]},
        "annotations": {"list": [alerts_as_marks()]},
        "panels": list(placed(rows(params))),
    }
    return json.dumps(tree, indent=1, ensure_ascii=False) + "\n"


def alerts_as_marks() -> dict[str, Any]:
    """Every alert that fires is a mark on all pictures."""
    query = 'ALERTS{alertstate="firing",severity!="none"}'
    return {
        "name": "alerts",
        "datasource": SOURCE,
        "enable": True,
        "expr": query,
        "iconColor": "red",
        "titleFormat": "{{alertname}}",
        "textFormat": "{{signal}} {{version}}",
        "step": "60s",
    }


def placed(described: list[Row]) -> Iterator[dict[str, Any]]:
    """Panels from left to right in rows of 24 columns, each row under its heading."""
    number, y = 0, 0
    for row in described:
        number += 1
        heading = {"h": 1, "w": COLUMNS, "x": 0, "y": y}
        yield {"id": number, "type": "row", "title": row.title, "collapsed": False, "gridPos": heading, "panels": []}
        x, y = 0, y + 1
        height = HEIGHT if row.panels[0].kind == "timeseries" else HEIGHT // 2
        for panel in row.panels:
            if x + panel.width > COLUMNS:
                x, y = 0, y + height
            number += 1
            yield drawn(panel, number, {"h": height, "w": panel.width, "x": x, "y": y})
            x += panel.width
        y += height


def drawn(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    """One panel as Grafana keeps it."""
    targets = [
        {"refId": chr(ord("A") + index), "datasource": SOURCE, "expr": query, "legendFormat": legend or "__auto"}
        for index, (legend, query) in enumerate(panel.queries.items())
    ]
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    steps += [{"color": "red", "value": panel.limit}] if panel.limit is not None else []
    custom = {"custom": {"thresholdsStyle": {"mode": "line" if panel.limit is not None else "off"}}}
    defaults = {"unit": panel.unit, "thresholds": {"mode": "absolute", "steps": steps}}
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "datasource": SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": defaults | (custom if panel.kind == "timeseries" else {}), "overrides": []},
        "targets": targets,
    }
