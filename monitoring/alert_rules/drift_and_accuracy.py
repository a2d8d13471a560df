"""Alerts on drift and accuracy as the monitor evaluates them. Every condition keeps its last known value through missing data."""

import math

from monitoring.alert_rules.alert import (
    DECIMAL,
    DURATION,
    NOTHING_AUTOMATIC,
    SHARE,
    Rule,
    for_watched_version,
    last_known,
    query_template,
)
from pipeline.params import Alerts, Monitor, Params

PERCENT = "humanizePercentage"


def drift_and_accuracy_rules(params: Params) -> list[Rule]:
    """Return the rules on drift, harm, estimated and labelled accuracy, and the age of the reference."""
    alerts, monitor = params.alerts, params.monitor
    return [
        drift(alerts),
        window_drift(alerts),
        harm(alerts, monitor),
        estimated_accuracy(alerts, monitor),
        labelled_accuracy(alerts, monitor),
        old_reference(alerts),
    ]


def drift(alerts: Alerts) -> Rule:
    """Fire on a sequential test, which is valid at every look: one value over the threshold is enough, without `for`."""
    facts = FactTemplates(alerts)
    threshold, promised = facts.of_signal("drift_log_e_threshold"), facts.of_signal("false_alarms_per_week")
    effect = facts.of_both("drift_effect_size")
    log_e = last_known("evergreen_drift_log_e", alerts, ("version", "signal"))
    limit = last_known("evergreen_drift_log_e_threshold", alerts, ("signal",))
    return Rule(
        name="EvergreenDrift",
        area="drift",
        severity="warning",
        expr=for_watched_version(f"{log_e}\n> on (signal) group_left ()\n{limit}", alerts),
        summary="{{ $labels.signal }} of version {{ $labels.version }} has moved away from its reference",
        description=f"The log e-value of {{{{ $labels.signal }}}} is {DECIMAL}, above its threshold of {threshold}. "
        f"That threshold allows {promised} false alarms a week. In the last full window the effect size was {effect}, and an "
        f"estimated {facts.of_version('drift_estimated_share', PERCENT)} of the traffic differed from the reference.",
        next_step=retrain_step(alerts),
        look=report_command(alerts),
        annotations=(
            ("loss", facts.loss()),
            ("effect_size", effect),
            ("log_e", DECIMAL),
        ),
    )


def window_drift(alerts: Alerts) -> Rule:
    """Fire on a window's statistic: each window is tested once, when it is full, so the false-alarm rate holds at every look."""
    facts = FactTemplates(alerts)
    promised = query_template(facts.last("false_alarms_per_week", 'signal="window"'), (), "printf `%.3g`")
    pair = ("version", "signal")
    statistic, limit = (last_known(f"evergreen_drift_statistic{part}", alerts, pair) for part in ("", "_threshold"))
    return Rule(
        name="EvergreenWindowDrift",
        area="drift",
        severity="warning",
        expr=for_watched_version(f"{statistic}\n> on (version, signal)\n{limit}", alerts),
        summary="{{ $labels.signal }} of version {{ $labels.version }} differed from its reference in the last window",
        description=f"The statistic of {{{{ $labels.signal }}}} is {{{{ $value | printf `%.3g` }}}}, above its threshold of "
        f"{facts.of_both('drift_statistic_threshold', 'printf `%.3g`')}. "
        f"The thresholds of all signals together allow {promised} false alarms a week. "
        f"The effect size is {facts.of_both('drift_effect_size')}. "
        f"An estimated {facts.of_version('drift_estimated_share', PERCENT)} of the traffic differs from the reference.",
        next_step=retrain_step(alerts),
        look=report_command(alerts),
        annotations=(
            ("loss", facts.loss()),
            ("effect_size", facts.of_both("drift_effect_size")),
        ),
    )


def harm(alerts: Alerts, monitor: Monitor) -> Rule:
    """Fire on a sequential test over feedback; the monitor exports its highest value, so proven harm does not flap."""
    facts = FactTemplates(alerts)
    limit = -math.log(monitor.harm_alpha)
    return Rule(
        name="EvergreenAccuracyHarm",
        area="quality",
        severity="critical",
        expr=for_watched_version(f"{last_known('evergreen_harm_log_e', alerts, ('version',))} > {limit:.4f}", alerts),
        summary="Accuracy of version {{ $labels.version }} has fallen by more than is tolerated",
        description=f"The log e-value of a fall by more than {monitor.tolerated_loss:.1%} is {DECIMAL}, above {limit:.1f}. "
        f"Without such a fall, the chance of ever reaching that is at most {monitor.harm_alpha:g}. "
        "The alert stays until labels prove a recovery or another version becomes champion. "
        f"Estimated accuracy is {facts.accuracy('estimate', 'estimate')} ({facts.accuracy('estimate', 'lower')} to "
        f"{facts.accuracy('estimate', 'upper')}); on the reference it was "
        f"{facts.of_version('accuracy_reference_ratio', PERCENT)}.",
        next_step=retrain_step(alerts),
        look=report_command(alerts),
        annotations=(
            ("loss", facts.loss()),
            ("log_e", DECIMAL),
        ),
    )


def estimated_accuracy(alerts: Alerts, monitor: Monitor) -> Rule:
    """Fire when the whole interval of the estimate lies below the contract."""
    facts = FactTemplates(alerts)
    return Rule(
        name="EvergreenEstimatedAccuracyLow",
        area="quality",
        severity="warning",
        expr=for_watched_version(below_contract("estimate", alerts, monitor), alerts),
        for_s=alerts.for_s,
        summary="Estimated accuracy of version {{ $labels.version }} is below its contract",
        description=f"Estimated without labels, accuracy is {facts.accuracy('estimate', 'estimate')}, at most {SHARE}. "
        f"{contract(facts, monitor)}",
        next_step=retrain_step(alerts),
        look=report_command(alerts),
        annotations=(("loss", facts.loss()),),
    )


def labelled_accuracy(alerts: Alerts, monitor: Monitor) -> Rule:
    """Fire when the whole interval by feedback lies below the contract and there are enough labels."""
    facts = FactTemplates(alerts)
    enough = f"{last_known('evergreen_accuracy_labels', alerts, ('version',))} >= {monitor.min_labels}"
    fallen = f"{below_contract('labelled', alerts, monitor)}\nand on (version) {enough}"
    return Rule(
        name="EvergreenLabelledAccuracyFallen",
        area="quality",
        severity="critical",
        expr=for_watched_version(fallen, alerts),
        for_s=alerts.for_s,
        summary="Accuracy of version {{ $labels.version }} by feedback is below its contract",
        description=f"By {facts.of_version('accuracy_labels', 'printf `%.0f`')} labels, accuracy is "
        f"{facts.accuracy('labelled', 'estimate')}, at most {SHARE}. {contract(facts, monitor)}",
        next_step=retrain_step(alerts),
        look=report_command(alerts),
        annotations=(("loss", facts.loss("labelled")),),
    )


def old_reference(alerts: Alerts) -> Rule:
    """Fire when the reference is too old to represent normal traffic."""
    age = last_known("evergreen_reference_age_seconds", alerts, ("version",))
    return Rule(
        name="EvergreenReferenceOld",
        area="drift",
        severity="info",
        expr=for_watched_version(f"{age} > {alerts.reference_max_age_s}", alerts),
        summary="The reference of version {{ $labels.version }} is old",
        description=f"It was recorded {DURATION} ago. The limit is {alerts.reference_max_age_s // 86400} days.",
        next_step=f"{NOTHING_AUTOMATIC}. A new version brings a new reference.",
        look=".venv/bin/evergreen status",
    )


def below_contract(kind: str, alerts: Alerts, monitor: Monitor) -> str:
    """Return the condition that the upper bound of an accuracy is below the reference minus `tolerated_loss`."""
    upper = last_known(f'evergreen_accuracy_{kind}_ratio{{bound="upper"}}', alerts, ("version",))
    reference = last_known("evergreen_accuracy_reference_ratio", alerts, ("version",))
    return f"{upper}\n< on (version)\n({reference} - {monitor.tolerated_loss:g})"


def contract(facts: "FactTemplates", monitor: Monitor) -> str:
    """State the contract: accuracy on the reference, and the tolerated loss."""
    reference = facts.of_version("accuracy_reference_ratio", PERCENT)
    return f"On the reference it was {reference}; a loss of {monitor.tolerated_loss:.1%} is tolerated."


def retrain_step(alerts: Alerts) -> str:
    """Describe what follows an alert that may start a retrain."""
    if alerts.controller_url == "none":
        return f"{NOTHING_AUTOMATIC}. Look, and retrain if it is worth it (make repro)."
    return "If a retrain controller runs (make watch), it decides: it starts a retrain, joins a running one, or states why not."


def report_command(alerts: Alerts) -> str:
    """Return the command that prints the monitor's report, with words that moved and three example texts."""
    return f"curl -s http://{alerts.host}:{alerts.monitor_port}/report.json | python3 -m json.tool"


class FactTemplates:
    """Templates for the monitor's last known values, which also work while the monitor is down."""

    def __init__(self, alerts: Alerts) -> None:
        self._bridge_s = alerts.bridge_s

    def of_version(self, name: str, form: str, *labels: str) -> str:
        """Return the template of a value of the alert's version."""
        return query_template(self.last(name, 'version="%s"', *labels), ("version",), form)

    def of_signal(self, name: str) -> str:
        """Return the template of a value of the alert's signal."""
        return query_template(self.last(name, 'signal="%s"'), ("signal",), "printf `%.3g`")

    def of_both(self, name: str, form: str = "printf `%.2f`") -> str:
        """Return the template of a value of the alert's version and signal."""
        return query_template(self.last(name, 'version="%s"', 'signal="%s"'), ("version", "signal"), form)

    def accuracy(self, kind: str, bound: str) -> str:
        """Return the template of one bound of one kind of accuracy."""
        return self.of_version(f"accuracy_{kind}_ratio", PERCENT, f'bound="{bound}"')

    def loss(self, kind: str = "estimate") -> str:
        """Return the template of how far accuracy is below its value on the reference, at least 0."""
        now = self.last(f"accuracy_{kind}_ratio", 'version="%s"', 'bound="estimate"')
        reference = self.last("accuracy_reference_ratio", 'version="%s"')
        return query_template(f"clamp_min({reference} - on (version) {now}, 0)", ("version", "version"), PERCENT)

    def last(self, name: str, *labels: str) -> str:
        """Return a query for the last known value."""
        return f"last_over_time(evergreen_{name}{{{','.join(labels)}}}[{self._bridge_s}s])"
