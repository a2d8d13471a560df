"""How the inbox looks: messages made into cards for people. Everything is escaped by the template engine."""

from collections.abc import Iterable
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from monitoring.inbox.evidence import Evidence, Signal
from monitoring.inbox.messages import Message, Standing, Switch, overdue_s, standing
from pipeline.params import Alerts

FILES = Path(__file__).parent / "files"
ORDER: tuple[Standing, ...] = ("firing", "unconfirmed", "unheard", "over")
SAID: dict[Standing, str] = {
    "firing": "firing",
    "unconfirmed": "end not confirmed",
    "unheard": "not heard again",
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


class Moved(NamedTuple):
    """One thing that moved, and by how much."""

    what: str
    signal: str
    said: str  # the rule's description, with numbers
    numbers: list[tuple[str, str]]
    words: list[str]
    texts: list[str]


class Card(NamedTuple):
    """Alerts of one name and version that stand alike."""

    title: str
    name: str
    severity: str
    standing: Standing
    said: str
    version: str
    began: float
    ended: float | None
    moved: list[Moved]
    loss: str
    accuracy: str
    then: str
    look: str
    runbook: str
    report_at: str
    problem: str


def page(messages: Iterable[Message], switch: Switch | None, started_at: float, now: float, alerts: Alerts) -> str:
    """The whole page."""
    late_s = overdue_s(switch, started_at, now, alerts)
    found = cards(messages, switch, now, alerts)
    firing = sum(card.standing != "over" for card in found)
    template = _environment().get_template("inbox.html")
    return template.render(cards=found, firing=firing, switch=switch, late_s=late_s, now=now, alerts=alerts, said=SAID)


def cards(messages: Iterable[Message], switch: Switch | None, now: float, alerts: Alerts) -> list[Card]:
    """What fires first, then by time; several signals of one version that moved are one card."""
    groups: dict[tuple[str, str, Standing, float], list[Message]] = {}
    for message in messages:
        stands = standing(message, switch, now, alerts)
        episode = message.starts_at if stands == "over" else 0.0  # those of the past are not mixed
        key = (message.labels.get("alertname", ""), message.labels.get("version", ""), stands, episode)
        groups.setdefault(key, []).append(message)
    found = [card(sorted(group, key=lambda one: one.starts_at), stands) for (_, _, stands, _), group in groups.items()]
    return sorted(found, key=lambda one: (ORDER.index(one.standing), -one.began))


def card(group: list[Message], stands: Standing) -> Card:
    """One card of alerts of one name and version, oldest first."""
    first, newest = group[0], max(group, key=lambda one: one.repeated_at)
    labels, notes = newest.labels, newest.annotations
    evidence = next((one.evidence for one in reversed(group) if one.evidence), None)
    return Card(
        title=title(group, newest),
        name=labels.get("alertname", ""),
        severity=labels.get("severity", ""),
        standing=stands,
        said=SAID[stands],
        version=labels.get("version", ""),
        began=first.starts_at,
        ended=max((one.ends_at for one in group if one.ends_at), default=None),
        moved=said_once([moved(one) for one in group]),
        loss=loss(evidence) or notes.get("loss", ""),
        accuracy=accuracy(evidence),
        then=notes.get("next", ""),
        look=notes.get("look", ""),
        runbook=notes.get("runbook_url", ""),
        report_at=evidence.at if evidence else "",
        problem="" if evidence else newest.evidence_problem,
    )


def title(group: list[Message], newest: Message) -> str:
    """What the alert says in one line, with the signal in words."""
    labels = newest.labels
    signal, said = labels.get("signal", ""), newest.annotations.get("summary", labels.get("alertname", ""))
    signals = {one.labels.get("signal") for one in group}
    if len(signals) > 1:
        _, version, rest = said.partition(f" of version {labels.get('version', '')} ")
        return f"{len(signals)} signals{version.rstrip()}: each {rest}"
    words = SIGNALS.get(signal, signal)
    return said.replace(signal, words[:1].upper() + words[1:], 1) if signal and said.startswith(signal) else said


def moved(message: Message) -> Moved:
    """One alert: what moved, by how much, with words and three texts where the monitor gave them."""
    signal = message.labels.get("signal", "")
    found = message.evidence.of(signal) if message.evidence and signal else None
    told = found or (likeliest(message.evidence) if message.evidence and not signal else None)
    return Moved(
        what=SIGNALS.get(signal, signal),
        signal=signal,
        said=message.annotations.get("description", ""),
        numbers=numbers(found) if found else [],
        words=told.moved_words[:12] if told else [],
        texts=told.examples[:3] if told else [],
    )


def said_once(found: list[Moved]) -> list[Moved]:
    """Without words and texts that stand with an earlier one of the same card."""
    return [
        one._replace(
            words=[] if one.words in [before.words for before in found[:place]] else one.words,
            texts=[] if one.texts in [before.texts for before in found[:place]] else one.texts,
        )
        for place, one in enumerate(found)
    ]


def likeliest(evidence: Evidence) -> Signal | None:
    """The signal with the strongest evidence: its texts go with an alert on accuracy."""
    told = [one for one in evidence.signals if one.log_e is not None and one.examples]
    return max(told, key=lambda one: one.log_e or 0.0, default=None)


def numbers(signal: Signal) -> list[tuple[str, str]]:
    """By how much it moved."""
    given = (
        ("statistic", signal.value),
        ("its threshold", signal.window_threshold),
        ("log e-value", signal.log_e),
        ("its threshold", signal.threshold),
        ("effect size", signal.effect_size),
    )
    return [(name, f"{value:.3g}") for name, value in given if value is not None]


def loss(evidence: Evidence | None) -> str:
    """Estimated accuracy against that on the reference; empty where one of them is not known."""
    known = evidence.accuracy if evidence else None
    if known is None or known.estimate is None or known.reference is None:
        return ""
    return f"{max(0.0, known.reference - known.estimate):.1%}"


def accuracy(evidence: Evidence | None) -> str:
    """Estimated accuracy in a sentence."""
    known = evidence.accuracy if evidence else None
    if known is None or known.estimate is None:
        return ""
    bounds = f" ({known.lower:.1%} to {known.upper:.1%})" if known.lower is not None and known.upper is not None else ""
    agreed = f"; on the reference {known.reference:.1%}" if known.reference is not None else ""
    return f"{known.estimate:.1%}{bounds}{agreed}"


def when(at: float) -> str:
    """A moment, for people."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def iso(at: float) -> str:
    """A moment, for programs."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")


def span(seconds: float) -> str:
    """`42 s`, `7 min`, `3 h`, `2 days`."""
    for size, name in ((172_800, "days"), (7_200, "h"), (120, "min")):
        if seconds >= size:
            return f"{seconds / {'days': 86_400, 'h': 3_600, 'min': 60}[name]:.0f} {name}"
    return f"{max(0, seconds):.0f} s"


@cache
def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(FILES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    made.filters |= {"when": when, "iso": iso, "span": span}
    return made
