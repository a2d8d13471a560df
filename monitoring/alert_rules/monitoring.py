"""Alerts on monitoring itself: a monitor that stopped, missing scrapes, windows that never fill; and the dead man's switch.

The switch always fires. Its annotation carries the time at which Prometheus evaluated it, so a receiver knows how old the news
is even while Alertmanager repeats alerts from before Prometheus fell silent.
"""

from monitoring.alert_rules.alert import (
    COUNT,
    DURATION,
    JOBS,
    NOTHING_AUTOMATIC,
    SHARE,
    Rule,
    for_watched_version,
    last_known,
)
from monitoring.decisions import STATUS
from pipeline.params import Alerts, Params

SWITCH = "EvergreenWatchdog"
LAST_SUCCESS = "evergreen_monitor_last_success_timestamp_seconds"
FAILURES = 3  # rounds of the flywheel in a day; a single one is repeated an hour later
RUN_ONCE = ".venv/bin/python -m monitoring.monitor --once"


def monitoring_rules(params: Params) -> list[Rule]:
    """Return the rules of this file."""
    alerts = params.alerts
    return [
        dead_mans_switch(alerts),
        monitor_stale(alerts),
        scrape_missing(alerts),
        reference_missing(alerts),
        monitor_lagging(alerts),
        segments_skipped(alerts),
        window_never_full(alerts),
        metrics_missing(alerts),
        flywheel_overdue(params),
    ]


def dead_mans_switch(alerts: Alerts) -> Rule:
    """Fire always, so that a missing message reveals a broken path from Prometheus to people."""
    return Rule(
        name=SWITCH,
        area="switch",
        severity="none",
        expr="vector(time())",
        summary="Alerting works",
        description="This alert always fires. If it stops arriving, Prometheus, Alertmanager or the path between is broken.",
        next_step="It is repeated. The inbox shows a warning when it is overdue.",
        look=f"curl -s http://{alerts.host}:{alerts.prometheus_port}/-/ready",
        annotations=(("evaluated_at", "{{ $value | printf `%.3f` }}"),),
    )


def monitor_stale(alerts: Alerts) -> Rule:
    """Fire on the age of the last success, which grows while the monitor is gone; after `bridge_s` fire on its absence."""
    last = last_known(LAST_SUCCESS, alerts)
    return Rule(
        name="EvergreenMonitorStale",
        area="watch",
        severity="critical",
        expr=f"time() - {last} > {alerts.monitor_stale_s}\nor absent({last})",
        for_s=alerts.for_s,
        summary="The monitor has stopped",
        description=f"Its last success is more than {alerts.monitor_stale_s} s ago, or none was ever seen. "
        "Alerts on drift and accuracy keep their last state: they neither start nor end.",
        next_step=f"{NOTHING_AUTOMATIC}. After a restart the monitor continues where it stopped.",
        look=RUN_ONCE,
    )


def scrape_missing(alerts: Alerts) -> Rule:
    """Fire on a job whose targets all fail, or that has none; EvergreenGatewayDown covers the gateway."""
    jobs = [JOBS["triton"], JOBS["monitor"]]
    absent = [f'absent(up{{job="{job}"}})' for job in jobs]
    return Rule(
        name="EvergreenScrapeMissing",
        area="watch",
        severity="warning",
        expr="\nor ".join([f'sum by (job) (up{{job=~"{"|".join(jobs)}"}}) == 0', *absent]),
        for_s=alerts.for_s,
        summary="Prometheus cannot scrape {{ $labels.job }}",
        description=f"No target of the job {{{{ $labels.job }}}} has answered for {alerts.for_s} s, or the job has no target.",
        next_step=f"{NOTHING_AUTOMATIC}. Alerts on drift and accuracy keep their last known values.",
        look=f"curl -s http://{alerts.host}:{alerts.prometheus_port}/api/v1/targets | python3 -m json.tool",
    )


def reference_missing(alerts: Alerts) -> Rule:
    """Fire when the monitor exports the watched version but no reference for it."""
    watched = f'count_values("version", {last_known("evergreen_monitored_version", alerts)})'
    return Rule(
        name="EvergreenReferenceMissing",
        area="watch",
        severity="warning",
        expr=f"{watched}\nunless on (version)\n{last_known('evergreen_reference_rows', alerts, ('version',))}",
        for_s=alerts.for_s,
        summary="The reference of version {{ $labels.version }} is missing",
        description="The monitor cannot evaluate this version. Its rows wait in the prediction log.",
        next_step="The monitor keeps looking for the reference, and then evaluates the waiting rows.",
        look=RUN_ONCE,
    )


def monitor_lagging(alerts: Alerts) -> Rule:
    """Fire when predictions arrive faster than the monitor reads them."""
    return Rule(
        name="EvergreenMonitorLagging",
        area="watch",
        severity="warning",
        expr=f"evergreen_monitor_lag_seconds > {alerts.monitor_lag_s}",
        for_s=alerts.for_s,
        keep_s=alerts.keep_firing_s,
        summary="The monitor lags behind the predictions",
        description=f"The oldest prediction not yet evaluated is {DURATION} old. The limit is {alerts.monitor_lag_s} s.",
        next_step="The monitor continues, but notices drift that much later.",
        look=RUN_ONCE,
    )


def segments_skipped(alerts: Alerts) -> Rule:
    """Fire on segments that are corrupt or half written."""
    return Rule(
        name="EvergreenSegmentsSkipped",
        area="watch",
        severity="warning",
        expr="increase(evergreen_monitor_segments_skipped_total[1h]) > 0",
        keep_s=alerts.keep_firing_s,
        summary="Segments of the prediction log cannot be read",
        description=f"{COUNT} segments were skipped in the last hour. Their predictions are not evaluated.",
        next_step="The monitor continues with the next segment.",
        look="ls -l live/predictions | tail",
    )


def window_never_full(alerts: Alerts) -> Rule:
    """Fire when traffic is too low to evaluate, so that silence is not taken for health."""
    window = f"max by (version) (max_over_time(evergreen_window_fill_ratio[{alerts.window_patience_s}s]))"
    since = f"max by (version) (evergreen_window_fill_ratio offset {alerts.window_patience_s}s)"
    return Rule(
        name="EvergreenWindowNeverFull",
        area="watch",
        severity="info",
        expr=for_watched_version(f"{window} < 1\nand on (version) {since}", alerts),
        summary="Too little traffic to evaluate version {{ $labels.version }}",
        description=f"In {alerts.window_patience_s // 3600} h its fullest window held {SHARE} of the rows it needs. "
        "Drift could not be detected in that time.",
        next_step=f"{NOTHING_AUTOMATIC}. Smaller windows need fewer rows and detect less (params.yaml, section monitor).",
        look=STATUS,
    )


def metrics_missing(alerts: Alerts) -> Rule:
    """Fire when the monitor answers but does not export a metric that the rules on drift and harm compare."""
    needed = ("evergreen_drift_log_e_threshold", "evergreen_drift_log_e", "evergreen_harm_log_e", "evergreen_monitored_version")
    answers = f'on () (sum (up{{job="{JOBS["monitor"]}"}}) > 0)'
    absent = [f'label_replace(absent({last_known(name, alerts)}), "metric", "{name}", "", "")' for name in needed]
    return Rule(
        name="EvergreenJudgementMissing",
        area="watch",
        severity="warning",
        expr=f"({' or '.join(absent)})\nand {answers}",
        for_s=alerts.monitor_stale_s,
        summary="The monitor does not export {{ $labels.metric }}",
        description=f"The monitor answers, but has not exported {{{{ $labels.metric }}}} for {alerts.bridge_s // 3600} h. "
        "Without it the alerts on drift and accuracy cannot fire.",
        next_step=f"{NOTHING_AUTOMATIC}. This is normal until the first window is full.",
        look=RUN_ONCE,
    )


def flywheel_overdue(params: Params) -> Rule:
    """Fire when the last round of the flywheel is much older than their interval, or when rounds keep failing."""
    alerts, oldest_s = params.alerts, int(params.flywheel.every_s) + params.alerts.flywheel_overdue_s
    last = last_known("evergreen_flywheel_last_success_timestamp_seconds", alerts)
    return Rule(
        name="EvergreenFlywheelOverdue",
        area="watch",
        severity="warning",
        expr=f"time() - {last} > {oldest_s}\nor max (increase(evergreen_flywheel_failures_total[1d])) > {FAILURES}",
        for_s=alerts.for_s,
        summary="The label queue is not made anew",
        description=f"The last round is older than {oldest_s // 3600} h, or more than {FAILURES} rounds failed within a day. "
        "People are asked about texts of an old model or an old time.",
        next_step="The process tries again by itself. The queue keeps the last round.",
        look=".venv/bin/evergreen clusters --refresh",
    )
