"""What people read about an incident: templates of an alert's facts, how sure it is, what it costs, and what was decided.

Alerts on drift, accuracy and retrains of one version are one incident: one card, one mail, the same sentences.
"""

from collections.abc import Iterable

from monitoring.alert_rules.alert import NOTHING_AUTOMATIC, query_template
from monitoring.decisions import UNSEEN
from monitoring.retrain_activity import RETRAIN_NOW
from pipeline.params import Alerts, Monitor

PERCENT = "humanizePercentage"
AREAS = ("drift", "quality", "retrain")  # with a version, one incident
SIGNALS = {
    "input_length": "length of the texts",
    "input_pieces_per_word": "number of tokens per word",
    "input_novelty": "novelty of the texts",
    "input_sketch": "meaning of the texts",
    "prediction_labels": "mix of predicted labels",
    "prediction_confidence": "confidence of the predictions",
    "prediction_softmax": "distribution of predicted probabilities",
    "error": "rate of errors by feedback",
}
WEEKS = (("years", 52.18, 2, "%.1f"), ("months", 4.348, 2, "%.0f"), ("weeks", 1.0, 0, "%.1f"))  # unit, weeks, from, format


def headline(version: str, areas: Iterable[str]) -> str:
    """Return the title of an incident; Alertmanager's template has the same words."""
    if "quality" in areas:
        return f"Answers of version {version} got worse"
    return f"Traffic of version {version} has changed" if "drift" in areas else f"Retrain of version {version}"


def signal_words() -> str:
    """Return a template of the alert's signal in words."""
    branches = "{{ else ".join(f'if eq $labels.signal "{name}" }}}}{words}' for name, words in SIGNALS.items())
    return f"{{{{ {branches}{{{{ else }}}}{{{{ $labels.signal }}}}{{{{ end }}}}"


def decided(alerts: Alerts) -> str:
    """Return a template of what was decided, as the controller exports it."""
    if alerts.controller_url == "none":
        return "Nothing: no retrain controller is configured (alerts.controller_url)."
    return _of_decision('{{ . | first | label "decided" }}', UNSEEN.text)


def next_step(alerts: Alerts) -> str:
    """Return a template of the one next step, with its command or link."""
    if alerts.controller_url == "none":
        return f"{NOTHING_AUTOMATIC}. Look, and retrain if it is worth it: {RETRAIN_NOW}"
    said = '{{ . | first | label "next_step" }}{{ with . | first | label "command" }}: {{ . }}{{ end }}'
    return _of_decision(said, f"{UNSEEN.next_step}: {UNSEEN.command}")


def _of_decision(said: str, otherwise: str) -> str:
    query = 'printf `evergreen_retrain_decision_info{version="%s"}` $labels.version | query'
    return f"{{{{ with {query} }}}}{said}{{{{ else }}}}{otherwise}{{{{ end }}}}"


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

    def cost(self, monitor: Monitor) -> str:
        """Return the template of what it costs: accuracy without and with labels, and whether that shows a fall."""
        estimate = self._interval(
            "estimate",
            "In the last full window accuracy is estimated, without labels, at ",
            otherwise="Not known yet: no window has filled.",
        )
        labelled = self._interval("labelled", f" By {self.of_version('accuracy_labels', 'printf `%.0f`')} labels it is ")
        reference = self.of_version("accuracy_reference_ratio", PERCENT)
        fallen = " or ".join(self._below(kind, monitor) for kind in ("estimate", "labelled"))
        shown = f"{{{{ if printf `{fallen}`{' $labels.version' * 4} | query }}}}shown{{{{ else }}}}not shown{{{{ end }}}}"
        return (
            f"{estimate}{labelled} On the reference it was {reference}; "
            f"a fall by more than {monitor.tolerated_loss:.1%} is {shown}."
        )

    def once_in(self, signal: str = "") -> str:
        """Return the template of the time between false alarms: of the alert's signal, or of the signal with this name."""
        rate = self.last("false_alarms_per_week", f'signal="{signal or "%s"}"')
        template = "unknown"
        for unit, weeks, least, form in reversed(WEEKS):
            query = f"`1 / ({weeks:g} * {rate}) >= {least}`"
            query = f"{query} | query" if signal else f"printf {query} $labels.signal | query"
            template = (
                f"{{{{ with {query} }}}}{{{{ . | first | value | printf `{form}` }}}} {unit}{{{{ else }}}}{template}{{{{ end }}}}"
            )
        return template

    def last(self, name: str, *labels: str) -> str:
        """Return a query for the last known value."""
        return f"last_over_time(evergreen_{name}{{{','.join(labels)}}}[{self._bridge_s}s])"

    def _interval(self, kind: str, before: str, otherwise: str = "") -> str:
        """Return `before`, the estimate and its bounds, or `otherwise` while they are unknown."""
        estimate, lower, upper = (self.accuracy(kind, bound) for bound in ("estimate", "lower", "upper"))
        known = self.last(f"accuracy_{kind}_ratio", 'version="%s"', 'bound="upper"')
        return (
            f"{{{{ if printf `{known}` $labels.version | query }}}}{before}{estimate} ({lower} to {upper})."
            f"{{{{ else }}}}{otherwise}{{{{ end }}}}"
        )

    def _below(self, kind: str, monitor: Monitor) -> str:
        upper = self.last(f"accuracy_{kind}_ratio", 'version="%s"', 'bound="upper"')
        reference = self.last("accuracy_reference_ratio", 'version="%s"')
        return f"({below_tolerated(upper, reference, monitor)})"


def below_tolerated(upper: str, reference: str, monitor: Monitor) -> str:
    """Return the condition that the upper bound of an accuracy is below the reference by more than is tolerated."""
    return f"{upper} < on (version) ({reference} - {monitor.tolerated_loss:g})"


def incident_annotations(alerts: Alerts, monitor: Monitor, sure: str, *further: tuple[str, str]) -> tuple[tuple[str, str], ...]:
    """Return the annotations that every alert of an incident has: how sure, what it costs, what was decided."""
    facts = FactTemplates(alerts)
    return (("sure", sure), ("cost", facts.cost(monitor)), ("decided", decided(alerts)), *further)
