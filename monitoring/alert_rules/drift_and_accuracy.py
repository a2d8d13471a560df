"""Alerts on what the monitor judges: signals that moved, accuracy that fell. Every condition holds through missing data."""

import math

from monitoring.alert_rules.alert import BY_A_PERSON, DECIMAL, DURATION, SHARE, Rule, held, looked_up, of_the_watched_version
from pipeline.params import Alerts, Monitor, Params

PERCENT = "humanizePercentage"


def judged(params: Params) -> list[Rule]:
    """Drift, harm, estimated and labelled accuracy, the age of the reference."""
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
    """The sequential test is valid at every look, so one look over its threshold is enough: no `for`."""
    told = Facts(alerts)
    threshold, promised = told.of_signal("drift_log_e_threshold"), told.of_signal("false_alarms_per_week")
    effect = told.of_both("drift_effect_size")
    moved = held("evergreen_drift_log_e", alerts, ("version", "signal"))
    limit = held("evergreen_drift_log_e_threshold", alerts, ("signal",))
    return Rule(
        name="EvergreenDrift",
        area="drift",
        severity="warning",
        expr=of_the_watched_version(f"{moved}\n> on (signal) group_left ()\n{limit}", alerts),
        summary="{{ $labels.signal }} of version {{ $labels.version }} has moved away from its reference",
        description=f"The log e-value of {{{{ $labels.signal }}}} is {DECIMAL}, over its threshold "
        f"{threshold}, which promises {promised} false alarms a week. In the last full window the effect size was {effect}, and "
        f"by estimate {told.of_version('drift_estimated_share', PERCENT)} of the traffic was unlike the reference.",
        then=told_controller(alerts),
        look=report(alerts),
        more=(
            ("loss", told.loss()),
            ("effect_size", effect),
            ("log_e", DECIMAL),
        ),
    )


def window_drift(alerts: Alerts) -> Rule:
    """A window is judged once, when it is full, so its threshold keeps its promise whenever that is looked at."""
    told = Facts(alerts)
    share = looked_up(told.last("false_alarms_per_week", 'signal="window"'), (), "printf `%.3g`")
    pair = ("version", "signal")
    now, limit = (held(f"evergreen_drift_statistic{part}", alerts, pair) for part in ("", "_threshold"))
    return Rule(
        name="EvergreenWindowDrift",
        area="drift",
        severity="warning",
        expr=of_the_watched_version(f"{now}\n> on (version, signal)\n{limit}", alerts),
        summary="{{ $labels.signal }} of version {{ $labels.version }} is not as in its reference, in the last window",
        description=f"The statistic of {{{{ $labels.signal }}}} is {{{{ $value | printf `%.3g` }}}}, over its threshold "
        f"{told.of_both('drift_statistic_threshold', 'printf `%.3g`')}; "
        f"over all signals that promises {share} false alarms a week. "
        f"Effect size {told.of_both('drift_effect_size')}. "
        f"By estimate {told.of_version('drift_estimated_share', PERCENT)} of the traffic is unlike the reference.",
        then=told_controller(alerts),
        look=report(alerts),
        more=(
            ("loss", told.loss()),
            ("effect_size", told.of_both("drift_effect_size")),
        ),
    )


def harm(alerts: Alerts, monitor: Monitor) -> Rule:
    """Sequential too, over feedback; the monitor keeps the highest value, so that what was proved does not flap."""
    told = Facts(alerts)
    limit = -math.log(monitor.harm_alpha)
    return Rule(
        name="EvergreenAccuracyHarm",
        area="quality",
        severity="critical",
        expr=of_the_watched_version(f"{held('evergreen_harm_log_e', alerts, ('version',))} > {limit:.4f}", alerts),
        summary="Accuracy of version {{ $labels.version }} has fallen by more than is tolerated",
        description=f"The log e-value of a fall by more than {monitor.tolerated_loss:.1%} is {DECIMAL}, over "
        f"{limit:.1f}: were there no such fall, that would ever happen with a chance of at most {monitor.harm_alpha:g}. "
        "It stands until labels prove the contrary, or another version is champion. "
        f"Estimated accuracy {told.accuracy('estimate', 'estimate')} ({told.accuracy('estimate', 'lower')} to "
        f"{told.accuracy('estimate', 'upper')}), on the reference {told.of_version('accuracy_reference_ratio', PERCENT)}.",
        then=told_controller(alerts),
        look=report(alerts),
        more=(
            ("loss", told.loss()),
            ("log_e", DECIMAL),
        ),
    )


def estimated_accuracy(alerts: Alerts, monitor: Monitor) -> Rule:
    """The whole interval of the estimate lies below what was agreed."""
    told = Facts(alerts)
    return Rule(
        name="EvergreenEstimatedAccuracyLow",
        area="quality",
        severity="warning",
        expr=of_the_watched_version(below_contract("estimate", alerts, monitor), alerts),
        for_s=alerts.for_s,
        summary="Estimated accuracy of version {{ $labels.version }} is below its contract",
        description=f"Without labels: {told.accuracy('estimate', 'estimate')}, at most {SHARE}. {agreement(told, monitor)}",
        then=told_controller(alerts),
        look=report(alerts),
        more=(("loss", told.loss()),),
    )


def labelled_accuracy(alerts: Alerts, monitor: Monitor) -> Rule:
    """The whole interval by feedback lies below what was agreed, and there are labels enough."""
    told = Facts(alerts)
    enough = f"{held('evergreen_accuracy_labels', alerts, ('version',))} >= {monitor.min_labels}"
    fallen = f"{below_contract('labelled', alerts, monitor)}\nand on (version) {enough}"
    return Rule(
        name="EvergreenLabelledAccuracyFallen",
        area="quality",
        severity="critical",
        expr=of_the_watched_version(fallen, alerts),
        for_s=alerts.for_s,
        summary="Accuracy of version {{ $labels.version }} by feedback is below its contract",
        description=f"By {told.of_version('accuracy_labels', 'printf `%.0f`')} labels: {told.accuracy('labelled', 'estimate')}, "
        f"at most {SHARE}. {agreement(told, monitor)}",
        then=told_controller(alerts),
        look=report(alerts),
        more=(("loss", told.loss("labelled")),),
    )


def old_reference(alerts: Alerts) -> Rule:
    """A reference that nobody renewed for long says less and less."""
    age = held("evergreen_reference_age_seconds", alerts, ("version",))
    return Rule(
        name="EvergreenReferenceOld",
        area="drift",
        severity="info",
        expr=of_the_watched_version(f"{age} > {alerts.reference_max_age_s}", alerts),
        summary="The reference of version {{ $labels.version }} is old",
        description=f"It was recorded {DURATION} ago; {alerts.reference_max_age_s // 86400} days are thought to be enough.",
        then=f"{BY_A_PERSON}: a new version brings a new reference.",
        look=".venv/bin/evergreen status",
    )


def below_contract(kind: str, alerts: Alerts, monitor: Monitor) -> str:
    """The upper bound of one kind of accuracy against the reference's less what is tolerated; its value is that bound."""
    upper = held(f'evergreen_accuracy_{kind}_ratio{{bound="upper"}}', alerts, ("version",))
    agreed = held("evergreen_accuracy_reference_ratio", alerts, ("version",))
    return f"{upper}\n< on (version)\n({agreed} - {monitor.tolerated_loss:g})"


def agreement(told: "Facts", monitor: Monitor) -> str:
    """What accuracy is held against, for people."""
    agreed = told.of_version("accuracy_reference_ratio", PERCENT)
    return f"The reference has {agreed}, and {monitor.tolerated_loss:.1%} less is tolerated."


def told_controller(alerts: Alerts) -> str:
    """What happens after an alert on which a retrain may follow."""
    if alerts.controller_url == "none":
        return f"{BY_A_PERSON}: look, and retrain when it is worth it (make repro)."
    return "Where a retrain controller runs (make watch) it is told and decides: it starts a retrain, joins one, or says why not."


def report(alerts: Alerts) -> str:
    """The monitor's report, with the words that moved and three texts."""
    return f"curl -s http://{alerts.host}:{alerts.monitor_port}/report.json | python3 -m json.tool"


class Facts:
    """Templates that look up what the monitor said last, also when it says nothing at the moment."""

    def __init__(self, alerts: Alerts) -> None:
        self._bridge_s = alerts.bridge_s

    def of_version(self, name: str, form: str, *more: str) -> str:
        """A fact of the alert's version."""
        return looked_up(self.last(name, 'version="%s"', *more), ("version",), form)

    def of_signal(self, name: str) -> str:
        """A fact of the alert's signal."""
        return looked_up(self.last(name, 'signal="%s"'), ("signal",), "printf `%.3g`")

    def of_both(self, name: str, form: str = "printf `%.2f`") -> str:
        """A fact of the alert's version and signal."""
        return looked_up(self.last(name, 'version="%s"', 'signal="%s"'), ("version", "signal"), form)

    def accuracy(self, kind: str, bound: str) -> str:
        """One bound of one kind of accuracy."""
        return self.of_version(f"accuracy_{kind}_ratio", PERCENT, f'bound="{bound}"')

    def loss(self, kind: str = "estimate") -> str:
        """By how much accuracy is below that on the reference; 0 where it is not."""
        now = self.last(f"accuracy_{kind}_ratio", 'version="%s"', 'bound="estimate"')
        agreed = self.last("accuracy_reference_ratio", 'version="%s"')
        return looked_up(f"clamp_min({agreed} - on (version) {now}, 0)", ("version", "version"), PERCENT)

    def last(self, name: str, *labels: str) -> str:
        """A query of what was said last."""
        return f"last_over_time(evergreen_{name}{{{','.join(labels)}}}[{self._bridge_s}s])"
