"""Alerts on retraining itself: a retrain that failed, a candidate that was refused, a controller that fell silent."""

from monitoring.alert_rules.alert import BY_A_PERSON, COUNT, Rule, held
from pipeline.params import Alerts

LAST_LOOK = "evergreen_retrain_controller_last_success_timestamp_seconds"
JOURNAL = ".venv/bin/evergreen status"


def retraining(alerts: Alerts) -> list[Rule]:
    """Every alert of this file. None of them leads to a retrain."""
    return [failed(alerts), refused(alerts), silent(alerts), unheard(alerts)]


def failed(alerts: Alerts) -> Rule:
    """After all attempts."""
    return Rule(
        name="EvergreenRetrainFailed",
        area="retrain",
        severity="warning",
        expr='sum by (step) (increase(evergreen_retrain_ended_total{state="failed"}[1h])) > 0',
        keep_s=alerts.keep_firing_s,
        summary="A retrain failed at the step {{ $labels.step }}",
        description="All its attempts did; the journal says why. The champion serves on.",
        then="After the cool-down the next alert may start another.",
        look=JOURNAL,
    )


def refused(alerts: Alerts) -> Rule:
    """The gate did its work; somebody may want to know."""
    return Rule(
        name="EvergreenCandidateRefused",
        area="retrain",
        severity="info",
        expr='sum (increase(evergreen_retrain_ended_total{state="refused"}[1h])) > 0',
        keep_s=alerts.keep_firing_s,
        summary="A retrained model was not good enough to be published",
        description="The gate refused it; its reasons and numbers are in the journal and in MLflow. The champion serves on.",
        then="After the cool-down the next alert may start another, when there are new labels.",
        look=JOURNAL,
    )


def silent(alerts: Alerts) -> Rule:
    """It was there, and is not any more; where none ever was, nobody waits for it."""
    return Rule(
        name="EvergreenControllerStale",
        area="retrain",
        severity="warning",
        expr=f"time() - {held(LAST_LOOK, alerts)} > {alerts.controller_stale_s}",
        for_s=alerts.for_s,
        summary="The retrain controller does not look any more",
        description=f"Its last look is more than {alerts.controller_stale_s} s ago. Alerts are still heard and kept, but none "
        "leads to a retrain.",
        then=f"{BY_A_PERSON}; started again, it goes on from the journal.",
        look=".venv/bin/python -m monitoring.retrain --dry-run",
    )


def unheard(alerts: Alerts) -> Rule:
    """Alertmanager tries again, but not for ever."""
    return Rule(
        name="EvergreenAlertsNotTaken",
        area="retrain",
        severity="warning",
        expr="sum by (reason) (increase(evergreen_retrain_webhooks_refused_total[15m])) > 0",
        for_s=alerts.for_s,
        summary="The retrain controller's receiver does not take alerts: {{ $labels.reason }}",
        description=f"{COUNT} webhooks were refused within 15 minutes.",
        then="On `full` and `database` Alertmanager tries again; on anything else it does not.",
        look=f"curl -s http://{alerts.host}:{alerts.receiver_port}/metrics | grep refused",
    )
