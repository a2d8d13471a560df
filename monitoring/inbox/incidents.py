"""Incidents: messages of one cause as one card, with what happened, how sure, what it costs, what was decided, what to do.

Alerts on drift, accuracy and retrains of one version have one cause. Other alerts share a card when name and version agree.
Numbers come from the monitor's report where there is one, so that each appears once and as of one time. Pure.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from monitoring.alert_rules.incident import AREAS, headline
from monitoring.alertmanager_webhook import CUT
from monitoring.decisions import Decided
from monitoring.inbox.explanation import Explanation, Signal
from monitoring.inbox.messages import Message, Status, Switch, status_of
from monitoring.inbox.release_story import RELEASE, FindStory
from pipeline.params import Alerts

ORDER: tuple[Status, ...] = ("firing", "unconfirmed", "unheard", "over")
SEVERITIES = ("critical", "warning", "info")
STATUS_LABELS: dict[Status, str] = {
    "firing": "firing",
    "unconfirmed": "end not confirmed",
    "unheard": "not repeated",
    "over": "over",
}
NUMBERS_IN_COST = ("EvergreenEstimatedAccuracyLow", "EvergreenLabelledAccuracyFallen")
WORDS, TEXTS = 12, 3  # shown
FindDecision = Callable[[str, float, float], Decided | None]  # version, from the start of an incident to its end


class Incident(NamedTuple):
    """Messages of one cause, oldest first, and the status of each."""

    messages: list[Message]
    statuses: list[Status]

    @property
    def status(self) -> Status:
        """Return the status of the message that needs most attention."""
        return min(self.statuses, key=ORDER.index)

    @property
    def started_at(self) -> float:
        """Return the start of its first alert."""
        return self.messages[0].starts_at

    @property
    def ended_at(self) -> float | None:
        """Return the end of its last alert, or None while it lives."""
        return max(message.ends_at or 0.0 for message in self.messages) if self.status == "over" else None

    @property
    def version(self) -> str:
        """Return the version that its alerts name, or an empty string."""
        return self.messages[0].labels.get("version", "")


class Line(NamedTuple):
    """One alert of an incident."""

    summary: str
    evidence: str
    signal: str
    started_at: float
    ended_at: float | None


class Card(NamedTuple):
    """An incident as people read it; a text that does not apply is empty."""

    title: str
    names: list[str]
    severity: str
    status: Status
    status_label: str
    version: str
    started_at: float
    ended_at: float | None
    lines: list[Line]
    words: list[str]
    texts: list[str]
    why: str  # a release ended
    examples: list[str]  # that show it
    sure: list[str]
    cost: str
    decided: str
    detail: str
    next_step: str
    command: str
    look: str
    runbook: str
    as_of: str
    problem: str
    shortened: str


def cards_of(
    messages: Iterable[Message],
    switch: Switch | None,
    now: float,
    alerts: Alerts,
    find: FindDecision,
    find_story: FindStory = lambda _version: None,
) -> list[Card]:
    """Return the cards, those that fire first, then the newest first."""
    cards = [card(incident, find, find_story, now) for incident in group_into_incidents(messages, switch, now, alerts)]
    return sorted(cards, key=lambda card: (ORDER.index(card.status), -card.started_at))


def group_into_incidents(messages: Iterable[Message], switch: Switch | None, now: float, alerts: Alerts) -> list[Incident]:
    """Group messages of one cause into incidents.

    A new incident begins when all messages so far have ended more than `keep_firing_s` before.
    """
    causes: dict[tuple[str, str], list[Message]] = {}
    for message in sorted(messages, key=lambda message: message.starts_at):
        causes.setdefault(cause(message), []).append(message)
    incidents: list[Incident] = []
    for members in causes.values():
        end = float("-inf")
        for message in members:
            if message.starts_at > end + alerts.keep_firing_s:
                incidents.append(Incident([], []))
            status = status_of(message, switch, now, alerts)
            incidents[-1].messages.append(message)
            incidents[-1].statuses.append(status)
            end = max(end, message.ends_at if status == "over" and message.ends_at else float("inf"))
    return incidents


def cause(message: Message) -> tuple[str, str]:
    """Return what an alert has in common with others of its cause: the version, or also the name."""
    version, area = message.labels.get("version", ""), message.labels.get("area")
    return ("", version) if version and area in AREAS else (message.labels.get("alertname", ""), version)


def card(incident: Incident, find: FindDecision, find_story: FindStory, now: float) -> Card:
    """Build the card of an incident."""
    live = [message for message, status in zip(incident.messages, incident.statuses, strict=True) if status == incident.status]
    newest = max(live, key=lambda message: message.repeated_at)
    lead = next((message for message in live if message.labels.get("area") != "retrain"), newest)  # its facts, not its decision
    explanation = newest_explanation(incident.messages)
    is_one_cause = cause(newest)[0] == ""
    end = now if incident.ended_at is None else incident.ended_at
    decided = find(incident.version, incident.started_at, end) if is_one_cause else None
    story = find_story(incident.version) if newest.labels.get("area") == RELEASE else None
    lines = [line(message, explanation) for message in incident.messages]
    signal = strongest_signal(explanation, {line.signal for line in lines})
    areas = {message.labels.get("area", "") for message in incident.messages}
    return Card(
        title=headline(incident.version, areas) if is_one_cause else summary(newest),
        names=list(dict.fromkeys(message.labels.get("alertname", "") for message in incident.messages)),
        severity=worst_severity(live),
        status=incident.status,
        status_label=STATUS_LABELS[incident.status],
        version=incident.version,
        started_at=incident.started_at,
        ended_at=incident.ended_at,
        lines=lines,
        words=signal.moved_words[:WORDS] if signal else [],
        texts=signal.examples[:TEXTS] if signal else [],
        why=story.why if story else "",
        examples=story.examples if story else [],
        sure=list(dict.fromkeys(text for message in live if (text := message.annotations.get("sure")))),
        cost=cost(explanation) or lead.annotations.get("cost", ""),
        decided=decided.text if decided else newest.annotations.get("decided", ""),
        detail=decided.detail if decided else "",
        next_step=decided.next_step if decided else newest.annotations.get("next", ""),
        command=decided.command if decided else "",
        look=lead.annotations.get("look", ""),
        runbook=lead.annotations.get("runbook_url", ""),
        as_of=explanation.at if explanation else "",
        problem=newest.explanation_error,
        shortened=next((message.annotations[CUT] for message in incident.messages if CUT in message.annotations), ""),
    )


def summary(message: Message) -> str:
    """Return what an alert says in a sentence."""
    return message.annotations.get("summary", message.labels.get("alertname", ""))


def newest_explanation(messages: Sequence[Message]) -> Explanation | None:
    """Return the monitor's newest report among messages of one version."""
    return max((message.explanation for message in messages if message.explanation), key=lambda report: report.at, default=None)


def line(message: Message, explanation: Explanation | None) -> Line:
    """Return an alert with its evidence as of the report, or as the alert stated it."""
    labels = message.labels
    name, signal = labels.get("alertname", ""), labels.get("signal", "")
    evidence = message.annotations.get("description", "")
    reported = explanation.find(signal) if explanation and signal else None
    if reported:
        evidence = evidence_now(name, reported) or evidence
    elif explanation and name in NUMBERS_IN_COST:
        evidence = ""
    return Line(summary(message), evidence, signal, message.starts_at, message.ends_at)


def evidence_now(alertname: str, signal: Signal) -> str:
    """Return the evidence on a signal that this alert is about, against the threshold of the same test."""
    is_window = alertname == "EvergreenWindowDrift"
    what = "Statistic of the last window" if is_window else "Evidence (log e-value)"
    value, threshold = (signal.value, signal.window_threshold) if is_window else (signal.log_e, signal.threshold)
    if value is None or threshold is None:
        return ""
    if value >= threshold:
        return f"{what}: {value:.3g}, over its threshold of {threshold:.3g}."
    return f"{what}: {value:.3g} now, back under its threshold of {threshold:.3g}; the alert ends if it stays there."


def strongest_signal(explanation: Explanation | None, alerting: set[str]) -> Signal | None:
    """Return the signal to explain: of those with example texts, first those that alert, then the one with the most evidence."""
    candidates = [signal for signal in explanation.signals if signal.examples] if explanation else []
    return max(candidates, key=lambda signal: (signal.signal in alerting, signal.log_e or 0.0), default=None)


def worst_severity(messages: Sequence[Message]) -> str:
    """Return the severity that needs most attention."""
    given = {message.labels.get("severity", "") for message in messages}
    return next((severity for severity in SEVERITIES if severity in given), min(given))


def cost(explanation: Explanation | None) -> str:
    """Describe accuracy, estimated and by labels, against the reference; empty when it is unknown."""
    known = explanation.accuracy if explanation else None
    if explanation is None or known is None or known.reference is None:
        return ""
    sentences, uppers = [], []
    if known.estimate is not None and known.lower is not None and known.upper is not None:
        interval = f"{known.estimate:.1%} ({known.lower:.1%} to {known.upper:.1%})"
        sentences.append(f"In the last full window accuracy is estimated, without labels, at {interval}.")
        uppers.append(known.upper)
    labelled = explanation.labelled
    if labelled and labelled.estimate is not None and labelled.lower is not None and labelled.upper is not None:
        interval = f"{labelled.estimate:.1%} ({labelled.lower:.1%} to {labelled.upper:.1%})"
        sentences.append(f"By {labelled.labels} labels it is {interval}.")
        uppers.append(labelled.upper)
    if not sentences:
        return (
            f"Not known yet: no window has filled, and there are few labels. On the reference accuracy was {known.reference:.1%}."
        )
    tolerated = explanation.tolerated_loss or 0.0
    shown = "shown" if min(uppers) < known.reference - tolerated else "not shown"
    fall = f"a fall by more than {tolerated:.1%}" if tolerated else "a fall"
    return f"{' '.join(sentences)} On the reference it was {known.reference:.1%}; {fall} is {shown}."
