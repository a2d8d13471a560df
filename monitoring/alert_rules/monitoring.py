"""Alerts on the watching itself: a monitor that stopped, scrapes that are missing, windows that never fill; and the switch.

The dead man's switch always fires. Its annotation carries the time at which Prometheus evaluated it, so whoever listens knows how
old the news is, also while Alertmanager still repeats what it was told before Prometheus fell silent.
"""

from monitoring.alert_rules.alert import BY_A_PERSON, COUNT, DURATION, JOBS, SHARE, Rule, held, of_the_watched_version
from pipeline.params import Alerts

SWITCH = "EvergreenWatchdog"
LAST_SUCCESS = "evergreen_monitor_last_success_timestamp_seconds"
ONCE = ".venv/bin/python -m monitoring.monitor --once"


def watchers(alerts: Alerts) -> list[Rule]:
    """Every alert of this file."""
    return [
        switch(alerts),
        stale(alerts),
        missing(alerts),
        unreferenced(alerts),
        lagging(alerts),
        skipping(alerts),
        unfilled(alerts),
        silent_facts(alerts),
    ]


def switch(alerts: Alerts) -> Rule:
    """The path from Prometheus to people, proved by a message that must not stop."""
    return Rule(
        name=SWITCH,
        area="switch",
        severity="none",
        expr="vector(time())",
        summary="The alerting works",
        description="This always fires. Who does not hear it any more knows that Prometheus, Alertmanager or the way is broken.",
        then="It is repeated; the inbox says loudly when it is overdue.",
        look=f"curl -s http://{alerts.host}:{alerts.prometheus_port}/-/ready",
        more=(("evaluated_at", "{{ $value | printf `%.3f` }}"),),
    )


def stale(alerts: Alerts) -> Rule:
    """The age grows on while the monitor is gone; after `bridge_s` nothing is known any more, which is no better."""
    last = held(LAST_SUCCESS, alerts)
    return Rule(
        name="EvergreenMonitorStale",
        area="watch",
        severity="critical",
        expr=f"time() - {last} > {alerts.monitor_stale_s}\nor absent({last})",
        for_s=alerts.for_s,
        summary="The monitor does not judge any more",
        description=f"Its last success is more than {alerts.monitor_stale_s} s ago, or was never seen. What it said last "
        "still stands: alerts on drift and accuracy neither begin nor end.",
        then=f"{BY_A_PERSON}; started again, the monitor reads on where it stopped.",
        look=ONCE,
    )


def missing(alerts: Alerts) -> Rule:
    """A job whose targets all fail, or that has none; the gateway has an alert of its own."""
    jobs = [JOBS["triton"], JOBS["monitor"]]
    gone = [f'absent(up{{job="{job}"}})' for job in jobs]
    return Rule(
        name="EvergreenScrapeMissing",
        area="watch",
        severity="warning",
        expr="\nor ".join([f'sum by (job) (up{{job=~"{"|".join(jobs)}"}}) == 0', *gone]),
        for_s=alerts.for_s,
        summary="Prometheus gets nothing from {{ $labels.job }}",
        description=f"No target of the job {{{{ $labels.job }}}} answered for {alerts.for_s} s, or there is none.",
        then=f"{BY_A_PERSON}. Alerts on what the monitor judges keep what was known last.",
        look=f"curl -s http://{alerts.host}:{alerts.prometheus_port}/api/v1/targets | python3 -m json.tool",
    )


def unreferenced(alerts: Alerts) -> Rule:
    """The champion cannot be judged: the monitor says whom it watches, and never what that version is held against."""
    watched = f'count_values("version", {held("evergreen_monitored_version", alerts)})'
    return Rule(
        name="EvergreenReferenceMissing",
        area="watch",
        severity="warning",
        expr=f"{watched}\nunless on (version)\n{held('evergreen_reference_rows', alerts, ('version',))}",
        for_s=alerts.for_s,
        summary="The reference of version {{ $labels.version }} is not there",
        description="The monitor cannot judge this version. Its rows wait in the prediction log.",
        then="The monitor looks for it again and again, and then judges what waited.",
        look=ONCE,
    )


def lagging(alerts: Alerts) -> Rule:
    """The monitor works, but not as fast as predictions come."""
    return Rule(
        name="EvergreenMonitorLagging",
        area="watch",
        severity="warning",
        expr=f"evergreen_monitor_lag_seconds > {alerts.monitor_lag_s}",
        for_s=alerts.for_s,
        keep_s=alerts.keep_firing_s,
        summary="The monitor lags behind the predictions",
        description=f"The oldest prediction that is not judged yet is {DURATION} old; {alerts.monitor_lag_s} s are tolerated.",
        then="It goes on reading; drift is noticed that much later.",
        look=ONCE,
    )


def skipping(alerts: Alerts) -> Rule:
    """Segments that are corrupt or half written."""
    return Rule(
        name="EvergreenSegmentsSkipped",
        area="watch",
        severity="warning",
        expr="increase(evergreen_monitor_segments_skipped_total[1h]) > 0",
        keep_s=alerts.keep_firing_s,
        summary="Segments of the prediction log cannot be read",
        description=f"{COUNT} segments were skipped in an hour; their predictions are not judged.",
        then="The monitor goes on with the next segment.",
        look="ls -l live/predictions | tail",
    )


def unfilled(alerts: Alerts) -> Rule:
    """Too little traffic to judge: no news is not good news."""
    window = f"max by (version) (max_over_time(evergreen_window_fill_ratio[{alerts.window_patience_s}s]))"
    since = f"max by (version) (evergreen_window_fill_ratio offset {alerts.window_patience_s}s)"
    return Rule(
        name="EvergreenWindowNeverFull",
        area="watch",
        severity="info",
        expr=of_the_watched_version(f"{window} < 1\nand on (version) {since}", alerts),
        summary="Too little traffic to judge version {{ $labels.version }}",
        description=f"Its fullest window held {SHARE} of the rows it needs, in "
        f"{alerts.window_patience_s // 3600} h. No drift was found because none could be.",
        then=f"{BY_A_PERSON}: smaller windows see less, and need less (section monitor of params.yaml).",
        look=".venv/bin/evergreen status",
    )


def silent_facts(alerts: Alerts) -> Rule:
    """The monitor is there, but what the alerts on drift hold against each other is not."""
    needed = ("evergreen_drift_log_e_threshold", "evergreen_drift_log_e", "evergreen_harm_log_e", "evergreen_monitored_version")
    answers = f'on () (sum (up{{job="{JOBS["monitor"]}"}}) > 0)'
    gone = [f'label_replace(absent({held(name, alerts)}), "metric", "{name}", "", "")' for name in needed]
    return Rule(
        name="EvergreenJudgementMissing",
        area="watch",
        severity="warning",
        expr=f"({' or '.join(gone)})\nand {answers}",
        for_s=alerts.monitor_stale_s,
        summary="The monitor does not export {{ $labels.metric }}",
        description=f"It answers, but has not given {{{{ $labels.metric }}}} for {alerts.bridge_s // 3600} h: without it "
        "the alerts on drift and accuracy cannot fire.",
        then=f"{BY_A_PERSON}. Until the first window is full this is to be expected.",
        look=ONCE,
    )
