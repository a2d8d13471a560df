"""Panels of the Grafana dashboard, by row. Every query reads an exported metric; `dashboard.py` lays the panels out."""

from typing import NamedTuple

from monitoring.alert_rules.queries import (
    CHAMPION,
    ESTIMATED,
    EXPECTED_ABSTENTIONS,
    FIRING,
    LABELLED,
    REFERENCE,
    abstained_share,
    evidence,
    latency_quantile,
    predictions_per_second,
)
from monitoring.alert_rules.serving import share_failed, share_slow
from pipeline.params import Params

PERIOD = "$__rate_interval"


class Panel(NamedTuple):
    """One panel: its queries by legend. `limit` is drawn as a line, in the panel's unit."""

    title: str
    unit: str
    queries: dict[str, str]
    width: int = 8
    kind: str = "timeseries"
    limit: float | None = None


class PanelRow(NamedTuple):
    """A heading and its panels."""

    title: str
    panels: list[Panel]


def dashboard_rows(params: Params) -> list[PanelRow]:
    """Return the rows, from what people notice to what machines do."""
    return [
        PanelRow("Now", overview(params)),
        PanelRow("Drift of the watched version against its reference", drift(params)),
        PanelRow("Accuracy", accuracy(params)),
        PanelRow("Serving", serving(params)),
        PanelRow("Triton and machines", machines(params)),
        PanelRow("Monitoring itself", monitoring(params)),
        PanelRow("Retraining", retraining(params)),
    ]


def overview(params: Params) -> list[Panel]:
    """Return panels of single values."""
    since = "time() - max(evergreen_monitor_last_success_timestamp_seconds)"
    p99 = 'histogram_quantile(0.99, sum by (le) (rate(evergreen_request_seconds_bucket{route="/v1/predict"}[5m])))'
    return [
        Panel("Watched version", "none", {"": "max(evergreen_monitored_version)"}, 4, "stat"),
        Panel("Firing alerts", "none", {"": f"count({FIRING}) or vector(0)"}, 4, "stat"),
        Panel("P99, 5 min", "s", {"": p99}, 4, "stat", params.alerts.latency_limit_ms / 1000),
        Panel(
            "Failed requests, 5 min",
            "percentunit",
            {"": share_failed("5m", params.alerts)},
            4,
            "stat",
            1 - params.alerts.answered_share,
        ),
        Panel("Estimated accuracy", "percentunit", {"": 'min(evergreen_accuracy_estimate_ratio{bound="estimate"})'}, 4, "stat"),
        Panel("Since the monitor's last success", "s", {"": since}, 4, "stat", params.alerts.monitor_stale_s),
    ]


def drift(_params: Params) -> list[Panel]:
    """Return panels of the evidence, then of its size."""
    legend = "{{signal}} v{{version}}"
    return [
        Panel("Evidence: log e-value over its threshold (1 is an alarm)", "none", {legend: evidence()}, 12, limit=1),
        Panel("Effect size", "none", {legend: "evergreen_drift_effect_size"}, 12),
        Panel(
            "Statistic over its threshold, in the last full window (1 is an alarm)",
            "none",
            {legend: "evergreen_drift_statistic / on (version, signal) evergreen_drift_statistic_threshold"},
            limit=1,
        ),
        Panel("Estimated share of drifted traffic", "percentunit", {"v{{version}}": "evergreen_drift_estimated_share"}),
        Panel(
            "False alarms a week: allowed, and measured over allowed",
            "none",
            {
                "allowed {{signal}}": "evergreen_false_alarms_per_week",
                "measured / allowed {{signal}} v{{version}}": "evergreen_false_alarm_rate_checked_ratio",
            },
        ),
        Panel("PSI of the last full window (no alert uses it)", "none", {legend: "evergreen_monitor_psi"}, 12),
        Panel(
            "Jensen-Shannon distance of the last full window (no alert uses it)",
            "none",
            {legend: "evergreen_monitor_jensen_shannon"},
            12,
        ),
    ]


def accuracy(params: Params) -> list[Panel]:
    """Return panels of estimated and labelled accuracy against the reference."""
    reference = {"reference v{{version}}": REFERENCE}
    bounds = "{{bound}} v{{version}}"
    return [
        Panel("Estimated without labels", "percentunit", {bounds: ESTIMATED, **reference}),
        Panel("By feedback", "percentunit", {bounds: LABELLED, **reference}),
        Panel("Evidence of harm: log e-value", "none", {"v{{version}}": "evergreen_harm_log_e"}, 4),
        Panel("Labels", "none", {"v{{version}}": "evergreen_accuracy_labels"}, 4),
        Panel(
            "Disagreement with a second model beyond the reference",
            "percentunit",
            {"{{bound}} v{{version}}, {{other}}": "evergreen_disagreement_ratio"},
            limit=params.retrain.disagreement,
        ),
        Panel(
            "Texts compared with a second model",
            "none",
            {"{{kind}} v{{version}}, {{other}}": "evergreen_disagreement_texts"},
        ),
        Panel(
            "Since disagreement was measured",
            "s",
            {"v{{version}}, {{other}}": "time() - evergreen_disagreement_measured_timestamp_seconds"},
            limit=params.retrain.disagreement_within_s,
        ),
    ]


def serving(params: Params) -> list[Panel]:
    """Return panels of what callers notice, and of the queue."""
    limit = params.alerts.latency_limit_ms / 1000
    tolerated = {"tolerated": f"vector({1 - params.alerts.latency_share:.4g})"}
    return [
        Panel(
            "Predictions per second",
            "reqps",
            {"v{{version}} {{role}}": predictions_per_second(PERIOD)},
        ),
        Panel(
            "Latency by version",
            "s",
            {f"P{100 * q:g} v{{{{version}}}}": latency_quantile(q, PERIOD, ("version",)) for q in (0.5, 0.99)},
            limit=limit,
        ),
        Panel("Requests slower than the limit", "percentunit", {"5 min": share_slow("5m", params.alerts), **tolerated}),
        Panel("Responses by code", "reqps", {"{{code}}": f"sum by (code) (rate(evergreen_requests_total[{PERIOD}]))"}),
        Panel(
            "Refused requests",
            "reqps",
            {"{{job}}: {{reason}}": f"sum by (job, reason) (rate(evergreen_refused_total[{PERIOD}]))"},
        ),
        Panel("Waiting texts", "none", {"{{instance}}": "evergreen_waiting_texts"}, limit=params.gateway.max_waiting_texts),
        Panel(
            "Answered from the cache",
            "percentunit",
            {
                "of predictions": f'sum(rate(evergreen_predictions_total{{cached="yes"}}[{PERIOD}])) '
                f"/ sum(rate(evergreen_predictions_total[{PERIOD}]))"
            },
        ),
        Panel(
            "Abstained",
            "percentunit",
            {
                "v{{version}} {{role}}": abstained_share(PERIOD, ("version", "role"), roles=""),
                "expected at most v{{version}}": f"max by (version) ({EXPECTED_ABSTENTIONS})",
            },
        ),
        Panel(
            "Failed calls to Triton",
            "reqps",
            {"v{{version}}": f"sum by (version) (rate(evergreen_triton_call_failures_total[{PERIOD}]))"},
        ),
        Panel("Champion, and the challenger's share", "none", release()),
    ]


def release() -> dict[str, str]:
    """Return the queries of the routing that the gateways follow."""
    return {
        "champion": f"max({CHAMPION})",
        "challenger's share": "max(evergreen_challenger_weight_ratio)",
        "Triton ready": "min(evergreen_triton_ready)",
    }


def machines(params: Params) -> list[Panel]:
    """Return panels of CPU, memory and GPU."""
    alerts = params.alerts
    memory_share = "{}_memory_used_bytes / {}_memory_total_bytes"
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
            {"CPU": "nv_cpu_utilization", "memory": memory_share.format("nv_cpu", "nv_cpu")},
            limit=alerts.node_memory_share,
        ),
        Panel("GPU", "percentunit", {"{{gpu_uuid}}": "nv_gpu_utilization"}, limit=alerts.gpu_share),
        Panel(
            "GPU memory", "percentunit", {"{{gpu_uuid}}": memory_share.format("nv_gpu", "nv_gpu")}, limit=alerts.gpu_memory_share
        ),
    ]


def monitoring(params: Params) -> list[Panel]:
    """Return panels of the monitor and the prediction log."""
    log = "evergreen_prediction_log_"
    return [
        Panel("Window filled", "percentunit", {"v{{version}}": "evergreen_window_fill_ratio"}, 6, limit=1),
        Panel("Rows read per second", "rowsps", {"v{{version}} {{role}}": f"rate(evergreen_monitor_rows_total[{PERIOD}])"}, 6),
        Panel(
            "Lag behind the predictions", "s", {"monitor": "evergreen_monitor_lag_seconds"}, 6, limit=params.alerts.monitor_lag_s
        ),
        Panel(
            "Duration of a cycle, P99",
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


def retraining(_params: Params) -> list[Panel]:
    """Return panels from a received alert to the end of its retrain."""
    prefix = "evergreen_retrain_"
    duration = f"rate({prefix}step_seconds_sum[1h]) / rate({prefix}step_seconds_count[1h])"
    p99 = f"histogram_quantile(0.99, sum by (le) (rate({prefix}webhook_seconds_bucket[{PERIOD}])))"
    return [
        Panel("Alerts received", "none", {"{{kind}}": f"sum by (kind) (increase({prefix}alerts_total[{PERIOD}]))"}),
        Panel(
            "Webhooks: waiting, not stored",
            "none",
            {
                "waiting": f"{prefix}webhooks_waiting",
                "not stored": f"increase({prefix}receiver_failures_total[{PERIOD}])",
                "alerts cut off": f"increase({prefix}alerts_truncated_total[{PERIOD}])",
            },
        ),
        Panel("From webhook to answer, P99", "s", {"receiver": p99}),
        Panel("Alerts waiting for a decision", "none", {"{{reason}}": f"sum by (reason) ({prefix}waiting_alerts)"}),
        Panel(
            "Decisions",
            "none",
            {"{{verdict}}: {{reason}}": f"sum by (verdict, reason) (increase({prefix}decisions_total[{PERIOD}]))"},
        ),
        Panel("Daily compute budget spent", "percentunit", {"": f"max({prefix}budget_spent_ratio)"}, limit=1),
        Panel("Retrain running", "none", {"": f"max({prefix}running)"}, 6),
        Panel("Duration of a step, 1 h", "s", {"{{step}}": duration}, 6),
        Panel(
            "Ended retrains; failed attempts",
            "none",
            {
                "{{state}} at {{step}}": f"sum by (state, step) (increase({prefix}ended_total[{PERIOD}])) > 0",
                "failed: {{step}}": f"sum by (step) (increase({prefix}step_failures_total[{PERIOD}])) > 0",
            },
            6,
        ),
        Panel(
            "Since the controller's last success; errors it survived",
            "none",
            {
                "seconds": f"time() - max({prefix}controller_last_success_timestamp_seconds)",
                "{{part}}": f"increase({prefix}controller_failures_total[{PERIOD}])",
                "MLflow runs closed": f"increase({prefix}orphans_closed_total[{PERIOD}])",
            },
            6,
        ),
    ]
