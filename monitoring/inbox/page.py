"""The inbox page: groups messages into cards and renders them. The template engine escapes everything, invisible text too."""

from collections.abc import Iterable
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from monitoring.alertmanager_webhook import CUT
from monitoring.inbox.explanation import Explanation, Signal
from monitoring.inbox.messages import Message, Status, Switch, overdue_s, status_of
from pipeline.output.plain_text import printable_lines
from pipeline.params import Alerts

FILES = Path(__file__).parent / "files"
ORDER: tuple[Status, ...] = ("firing", "unconfirmed", "unheard", "over")
STATUS_LABELS: dict[Status, str] = {
    "firing": "firing",
    "unconfirmed": "end not confirmed",
    "unheard": "not repeated",
    "over": "over",
}
SIGNALS = {
    "input_length": "length of the texts",
    "input_pieces_per_word": "pieces per word",
    "input_novelty": "novelty of the texts",
    "input_sketch": "meaning of the texts",
    "prediction_labels": "shares of the labels",
    "prediction_confidence": "confidence",
    "prediction_softmax": "predicted probabilities",
    "error": "errors by feedback",
}


class CardSection(NamedTuple):
    """One alert on a card: its description, and numbers, words and texts where the monitor gave them."""

    heading: str
    signal: str
    description: str
    numbers: list[tuple[str, str]]
    words: list[str]
    texts: list[str]


class Card(NamedTuple):
    """Alerts of one name, version and status."""

    title: str
    name: str
    severity: str
    status: Status
    status_label: str
    version: str
    started_at: float
    ended_at: float | None
    sections: list[CardSection]
    loss: str
    accuracy: str
    next_step: str
    look: str
    runbook: str
    report_at: str
    problem: str
    shortened: str


def render_page(messages: Iterable[Message], switch: Switch | None, started_at: float, now: float, alerts: Alerts) -> str:
    """Render the page as HTML."""
    late_s = overdue_s(switch, started_at, now, alerts)
    cards = group_into_cards(messages, switch, now, alerts)
    firing = sum(card.status != "over" for card in cards)
    template = _environment().get_template("inbox.html")
    return template.render(cards=cards, firing=firing, switch=switch, late_s=late_s, now=now, alerts=alerts)


def group_into_cards(messages: Iterable[Message], switch: Switch | None, now: float, alerts: Alerts) -> list[Card]:
    """Return the cards, firing first, then newest first; several signals of one version share a card."""
    groups: dict[tuple[str, str, Status, float], list[Message]] = {}
    for message in messages:
        status = status_of(message, switch, now, alerts)
        episode = message.starts_at if status == "over" else 0.0  # past episodes stay apart
        key = (message.labels.get("alertname", ""), message.labels.get("version", ""), status, episode)
        groups.setdefault(key, []).append(message)
    cards = [card(sorted(group, key=lambda message: message.starts_at), status) for (_, _, status, _), group in groups.items()]
    return sorted(cards, key=lambda card: (ORDER.index(card.status), -card.started_at))


def card(group: list[Message], status: Status) -> Card:
    """Build the card of alerts of one name and version, oldest first."""
    first, newest = group[0], max(group, key=lambda message: message.repeated_at)
    labels, annotations = newest.labels, newest.annotations
    explanation = next((message.explanation for message in reversed(group) if message.explanation), None)
    return Card(
        title=title(group, newest),
        name=labels.get("alertname", ""),
        severity=labels.get("severity", ""),
        status=status,
        status_label=STATUS_LABELS[status],
        version=labels.get("version", ""),
        started_at=first.starts_at,
        ended_at=max((message.ends_at for message in group if message.ends_at), default=None),
        sections=without_repeats([section(message) for message in group]),
        loss=loss(explanation) or annotations.get("loss", ""),
        accuracy=accuracy(explanation),
        next_step=annotations.get("next", ""),
        look=annotations.get("look", ""),
        runbook=annotations.get("runbook_url", ""),
        report_at=explanation.at if explanation else "",
        problem="" if explanation else newest.explanation_error,
        shortened=next((message.annotations[CUT] for message in group if CUT in message.annotations), ""),
    )


def title(group: list[Message], newest: Message) -> str:
    """Return the alert's summary with the signal in words."""
    labels = newest.labels
    signal, summary = labels.get("signal", ""), newest.annotations.get("summary", labels.get("alertname", ""))
    signals = {message.labels.get("signal") for message in group}
    if len(signals) > 1:
        _, version, rest = summary.partition(f" of version {labels.get('version', '')} ")
        return f"{len(signals)} signals{version.rstrip()}: each {rest}"
    words = SIGNALS.get(signal, signal)
    return summary.replace(signal, words[:1].upper() + words[1:], 1) if signal and summary.startswith(signal) else summary


def section(message: Message) -> CardSection:
    """Build the section of one alert; an alert without a signal shows the words and texts of the strongest one."""
    name = message.labels.get("signal", "")
    signal = message.explanation.find(name) if message.explanation and name else None
    example = signal or (strongest_signal(message.explanation) if message.explanation and not name else None)
    return CardSection(
        heading=SIGNALS.get(name, name),
        signal=name,
        description=message.annotations.get("description", ""),
        numbers=numbers(signal) if signal else [],
        words=example.moved_words[:12] if example else [],
        texts=example.examples[:3] if example else [],
    )


def without_repeats(sections: list[CardSection]) -> list[CardSection]:
    """Drop words and texts that an earlier section of the card shows."""
    return [
        section._replace(
            words=[] if section.words in [earlier.words for earlier in sections[:position]] else section.words,
            texts=[] if section.texts in [earlier.texts for earlier in sections[:position]] else section.texts,
        )
        for position, section in enumerate(sections)
    ]


def strongest_signal(explanation: Explanation) -> Signal | None:
    """Return the signal with the most evidence and example texts; its texts go with an alert on accuracy."""
    candidates = [signal for signal in explanation.signals if signal.log_e is not None and signal.examples]
    return max(candidates, key=lambda signal: signal.log_e or 0.0, default=None)


def numbers(signal: Signal) -> list[tuple[str, str]]:
    """Return the known statistics of a signal as (name, value)."""
    statistics = (
        ("statistic", signal.value),
        ("threshold", signal.window_threshold),
        ("log e-value", signal.log_e),
        ("threshold", signal.threshold),
        ("effect size", signal.effect_size),
    )
    return [(name, f"{value:.3g}") for name, value in statistics if value is not None]


def loss(explanation: Explanation | None) -> str:
    """Return how far estimated accuracy is below accuracy on the reference; empty when either is unknown."""
    known = explanation.accuracy if explanation else None
    if known is None or known.estimate is None or known.reference is None:
        return ""
    return f"{max(0.0, known.reference - known.estimate):.1%}"


def accuracy(explanation: Explanation | None) -> str:
    """Describe estimated accuracy in a sentence; empty when it is unknown."""
    known = explanation.accuracy if explanation else None
    if known is None or known.estimate is None:
        return ""
    bounds = f" ({known.lower:.1%} to {known.upper:.1%})" if known.lower is not None and known.upper is not None else ""
    reference = f"; on the reference {known.reference:.1%}" if known.reference is not None else ""
    return f"{known.estimate:.1%}{bounds}{reference}"


def when(at: float) -> str:
    """Format a time for people."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def iso(at: float) -> str:
    """Format a time for programs."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")


def duration(seconds: float) -> str:
    """Format a duration: `42 s`, `7 min`, `3 h`, `2 days`."""
    for least_s, unit_s, unit in ((172_800, 86_400, "days"), (7_200, 3_600, "h"), (120, 60, "min")):
        if seconds >= least_s:
            return f"{seconds / unit_s:.0f} {unit}"
    return f"{max(0, seconds):.0f} s"


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(FILES),
        autoescape=True,
        finalize=lambda value: printable_lines(value) if isinstance(value, str) else value,  # bidi overrides would reorder a line
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"when": when, "iso": iso, "duration": duration}
    return environment
