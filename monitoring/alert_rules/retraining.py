"""Alerts on retraining itself: a failed retrain, a refused candidate, a stale controller, refused webhooks."""

from monitoring.alert_rules.alert import COUNT, JOBS, NOTHING_AUTOMATIC, Rule, last_known
from monitoring.alert_rules.incident import decided, next_step
from monitoring.decisions import STATUS
from pipeline.params import Alerts

LAST_SUCCESS = "evergreen_retrain_controller_last_success_timestamp_seconds"
RETRIED = ("full", "database", "overloaded", "connections")  # answers with 503; Alertmanager repeats what gets a 5xx
WHY = ".venv/bin/evergreen why EvergreenDrift"


def retraining_rules(alerts: Alerts) -> list[Rule]:
    """Return the rules of this file. None of them starts a retrain."""
    return [
        retrain_running(alerts),
        retrain_failed(alerts),
        candidate_refused(alerts),
        controller_stale(alerts),
        alerts_refused(alerts),
    ]


def retrain_running(alerts: Alerts) -> Rule:
    """Fire while a retrain runs: the incident of its version is sent again, with what was decided."""
    return Rule(
        name="EvergreenRetrainRunning",
        area="retrain",
        severity="info",
        expr='max by (version) (evergreen_retrain_decision_info{state="running"}) == 1',
        summary="A retrain runs for version {{ $labels.version }}",
        description="The version keeps answering. A new model replaces it only if the gate finds it better.",
        next_step=next_step(alerts),
        look=STATUS,
        annotations=(("decided", decided(alerts)),),
    )


def retrain_failed(alerts: Alerts) -> Rule:
    """Fire when all attempts of a retrain have failed."""
    return Rule(
        name="EvergreenRetrainFailed",
        area="retrain",
        severity="warning",
        expr=ended_lately("failed", "version", "step"),
        keep_s=alerts.keep_firing_s,
        summary="A retrain failed at the step {{ $labels.step }}",
        description="All its attempts failed. The journal states why. The champion keeps serving.",
        next_step="After the cool-down the next alert may start another retrain.",
        look=WHY,
        annotations=(("decided", decided(alerts)),),
    )


def candidate_refused(alerts: Alerts) -> Rule:
    """Inform people that the gate has refused a candidate."""
    return Rule(
        name="EvergreenCandidateRefused",
        area="retrain",
        severity="info",
        expr=ended_lately("refused", "version", but='step!="shadow"'),  # EvergreenReleaseRefused tells of those
        keep_s=alerts.keep_firing_s,
        summary="A retrained model was not good enough to be published",
        description="The gate refused it. Its reasons and numbers are in the journal and in MLflow. The champion keeps serving.",
        next_step="After the cool-down the next alert may start another retrain if there are new labels.",
        look=WHY,
        annotations=(("decided", decided(alerts)),),
    )


def ended_lately(state: str, *by: str, but: str = "") -> str:
    """Return the condition that a retrain has ended so in the last hour; `but` is a further condition on its labels."""
    selected = ",".join(filter(None, (f'state="{state}"', but)))
    return f"sum by ({', '.join(by)}) (increase(evergreen_retrain_ended_total{{{selected}}}[1h])) > 0"


def controller_stale(alerts: Alerts) -> Rule:
    """Fire when a controller that was running has stopped; without one there is nothing to report."""
    return Rule(
        name="EvergreenControllerStale",
        area="retrain",
        severity="warning",
        expr=f"time() - {last_known(LAST_SUCCESS, alerts)} > {alerts.controller_stale_s}",
        for_s=alerts.for_s,
        summary="The retrain controller has stopped",
        description=f"It last checked for alerts more than {alerts.controller_stale_s} s ago. Alerts are still received and "
        "stored, but none starts a retrain.",
        next_step=f"{NOTHING_AUTOMATIC}. After a restart the controller continues from the journal.",
        look=".venv/bin/python -m monitoring.retrain --dry-run",
    )


def alerts_refused(alerts: Alerts) -> Rule:
    """Fire when the receiver refuses webhooks; Alertmanager retries, but not for ever."""
    return Rule(
        name="EvergreenAlertsNotTaken",
        area="retrain",
        severity="warning",
        expr=f'sum by (reason) (increase(evergreen_refused_total{{job="{JOBS["receiver"]}"}}[15m])) > 0',
        for_s=alerts.for_s,
        summary="The retrain receiver refuses alerts: {{ $labels.reason }}",
        description=f"{COUNT} webhooks were refused in the last 15 minutes; `alert` counts those that held an unreadable alert "
        "beside others that were stored.",
        next_step=f"Alertmanager retries after {', '.join(f'`{reason}`' for reason in RETRIED)}, and after no other reason.",
        look=f"curl -s http://{alerts.host}:{alerts.receiver_port}/metrics | grep refused",
    )
