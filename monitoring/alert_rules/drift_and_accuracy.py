"""Alerts on drift and accuracy as the monitor evaluates them. Every condition keeps its last known value through missing data."""

import math

from monitoring.alert_rules.alert import DECIMAL, DURATION, NOTHING_AUTOMATIC, SHARE, Rule, for_watched_version, last_known
from monitoring.alert_rules.incident import PERCENT, FactTemplates, below_tolerated, incident_annotations, next_step, signal_words
from monitoring.decisions import STATUS
from pipeline.params import Alerts, Monitor, Params

VERSION = "version {{ $labels.version }}"


def drift_and_accuracy_rules(params: Params) -> list[Rule]:
    """Return the rules on drift, harm, estimated and labelled accuracy, and the age of the reference."""
    alerts, monitor = params.alerts, params.monitor
    return [
        drift(alerts, monitor),
        window_drift(alerts, monitor),
        harm(alerts, monitor),
        estimated_accuracy(alerts, monitor),
        labelled_accuracy(alerts, monitor),
        old_reference(alerts),
    ]


def drift(alerts: Alerts, monitor: Monitor) -> Rule:
    """Fire on a sequential test, which is valid at every look: one value over the threshold is enough, without `for`."""
    facts = FactTemplates(alerts)
    log_e = last_known("evergreen_drift_log_e", alerts, ("version", "signal"))
    limit = last_known("evergreen_drift_log_e_threshold", alerts, ("signal",))
    sure = f"Without a change, the evidence on one signal passes its threshold about once in {facts.once_in()}."
    effect = facts.of_both("drift_effect_size")
    return Rule(
        name="EvergreenDrift",
        area="drift",
        severity="warning",
        expr=for_watched_version(f"{log_e}\n> on (signal) group_left ()\n{limit}", alerts),
        summary=f"The {signal_words()} has moved away from the reference of {VERSION}",
        description=f"The evidence (log e-value) is {DECIMAL}, above its threshold of "
        f"{facts.of_signal('drift_log_e_threshold')}. In the last full window an estimated "
        f"{facts.of_version('drift_estimated_share', PERCENT)} of the texts differed from the reference.",
        next_step=next_step(alerts),
        look=report_command(alerts),
        annotations=incident_annotations(
            alerts, monitor, sure, ("loss", facts.loss()), ("effect_size", effect), ("log_e", DECIMAL)
        ),
    )


def window_drift(alerts: Alerts, monitor: Monitor) -> Rule:
    """Fire on a window's statistic: each window is tested once, when it is full, so the false-alarm rate holds at every look."""
    facts = FactTemplates(alerts)
    pair = ("version", "signal")
    statistic, limit = (last_known(f"evergreen_drift_statistic{part}", alerts, pair) for part in ("", "_threshold"))
    sure = f"Without a change, a window of any signal passes its threshold about once in {facts.once_in('window')}."
    return Rule(
        name="EvergreenWindowDrift",
        area="drift",
        severity="warning",
        expr=for_watched_version(f"{statistic}\n> on (version, signal)\n{limit}", alerts),
        summary=f"The {signal_words()} differed from the reference of {VERSION} in the last window",
        description="The statistic of the window is {{ $value | printf `%.3g` }}, above its threshold of "
        f"{facts.of_both('drift_statistic_threshold', 'printf `%.3g`')}. An estimated "
        f"{facts.of_version('drift_estimated_share', PERCENT)} of the texts differs from the reference.",
        next_step=next_step(alerts),
        look=report_command(alerts),
        annotations=incident_annotations(
            alerts, monitor, sure, ("loss", facts.loss()), ("effect_size", facts.of_both("drift_effect_size"))
        ),
    )


def harm(alerts: Alerts, monitor: Monitor) -> Rule:
    """Fire on a sequential test over feedback; the monitor exports its highest value, so proven harm does not flap."""
    facts = FactTemplates(alerts)
    limit = -math.log(monitor.harm_alpha)
    sure = f"If accuracy had not fallen that far, the chance of ever seeing this would be at most {monitor.harm_alpha:.1%}."
    return Rule(
        name="EvergreenAccuracyHarm",
        area="quality",
        severity="critical",
        expr=for_watched_version(f"{last_known('evergreen_harm_log_e', alerts, ('version',))} > {limit:.4f}", alerts),
        summary=f"Accuracy of {VERSION} has fallen by more than is tolerated",
        description=f"By labels, a fall by more than {monitor.tolerated_loss:.1%} is proved: the evidence (log e-value) is "
        f"{DECIMAL}, above {limit:.1f}. The alert stays until labels prove a recovery or another version becomes champion.",
        next_step=next_step(alerts),
        look=report_command(alerts),
        annotations=incident_annotations(alerts, monitor, sure, ("loss", facts.loss()), ("log_e", DECIMAL)),
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
        summary=f"Estimated accuracy of {VERSION} is below its contract",
        description=f"Estimated without labels, accuracy is {facts.accuracy('estimate', 'estimate')}, at most {SHARE}. "
        f"{contract(facts, monitor)}",
        next_step=next_step(alerts),
        look=report_command(alerts),
        annotations=incident_annotations(
            alerts,
            monitor,
            "It is an estimate without labels, and new kinds of texts can bias it. Labels decide.",
            ("loss", facts.loss()),
        ),
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
        summary=f"Accuracy of {VERSION} by feedback is below its contract",
        description=f"By {facts.of_version('accuracy_labels', 'printf `%.0f`')} labels, accuracy is "
        f"{facts.accuracy('labelled', 'estimate')}, at most {SHARE}. {contract(facts, monitor)}",
        next_step=next_step(alerts),
        look=report_command(alerts),
        annotations=incident_annotations(
            alerts,
            monitor,
            f"The whole {monitor.confidence:.0%} interval is below. Wrong answers draw more feedback than right "
            "ones, and that alone lowers it.",
            ("loss", facts.loss("labelled")),
        ),
    )


def old_reference(alerts: Alerts) -> Rule:
    """Fire when the reference is too old to represent normal traffic."""
    age = last_known("evergreen_reference_age_seconds", alerts, ("version",))
    return Rule(
        name="EvergreenReferenceOld",
        area="watch",
        severity="info",
        expr=for_watched_version(f"{age} > {alerts.reference_max_age_s}", alerts),
        summary="The reference of version {{ $labels.version }} is old",
        description=f"It was recorded {DURATION} ago. The limit is {alerts.reference_max_age_s // 86400} days.",
        next_step=f"{NOTHING_AUTOMATIC}. A new version brings a new reference.",
        look=STATUS,
    )


def below_contract(kind: str, alerts: Alerts, monitor: Monitor) -> str:
    """Return the condition that the upper bound of an accuracy is below the reference minus `tolerated_loss`."""
    upper = last_known(f'evergreen_accuracy_{kind}_ratio{{bound="upper"}}', alerts, ("version",))
    reference = last_known("evergreen_accuracy_reference_ratio", alerts, ("version",))
    return below_tolerated(upper, reference, monitor)


def contract(facts: FactTemplates, monitor: Monitor) -> str:
    """State the contract: accuracy on the reference, and the tolerated loss."""
    reference = facts.of_version("accuracy_reference_ratio", PERCENT)
    return f"On the reference it was {reference}; a loss of {monitor.tolerated_loss:.1%} is tolerated."


def report_command(alerts: Alerts) -> str:
    """Return the command that prints the monitor's report, with words that moved and three example texts."""
    return f"curl -s http://{alerts.host}:{alerts.monitor_port}/report.json | python3 -m json.tool"
