"""What the inbox keeps: alerts as they were heard, the dead man's switch, and where each alert stands now.

Alertmanager calls an alert over when Prometheus says so, and also when Prometheus has been silent for four times `resend_s`. The
switch tells the two apart: it carries the time of Prometheus' own evaluation, and only an end that it confirms counts.
"""

import json
import os
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

from monitoring.alert_rules.monitoring import SWITCH
from monitoring.inbox.evidence import Evidence
from pipeline.params import Alerts

Standing = Literal["firing", "unheard", "unconfirmed", "over"]
Text = Annotated[str, StringConstraints(max_length=20_000)]
Texts = Annotated[dict[Text, Text], Field(max_length=64)]


class Told(BaseModel):
    """One alert in Alertmanager's webhook, version 4; unknown keys are left alone."""

    status: Literal["firing", "resolved"]
    labels: Texts
    annotations: Texts
    starts_at: AwareDatetime = Field(alias="startsAt")
    ends_at: AwareDatetime = Field(alias="endsAt")
    fingerprint: Annotated[str, StringConstraints(max_length=200)]


class Webhook(BaseModel):
    """What Alertmanager posts."""

    alerts: Annotated[list[Told], Field(max_length=10_000)]


class Message(BaseModel):
    """One episode of an alert. Times are seconds of the epoch."""

    model_config = ConfigDict(frozen=True)

    fingerprint: str
    starts_at: float
    ends_at: float | None
    labels: dict[str, str]
    annotations: dict[str, str]
    heard_at: float  # first
    repeated_at: float  # last
    evidence: Evidence | None
    evidence_problem: str

    @property
    def key(self) -> tuple[str, float]:
        """What makes an episode one: the alert and when it began."""
        return self.fingerprint, self.starts_at


class Switch(BaseModel):
    """When Prometheus last evaluated, as it said itself; and since when it has done so without a gap."""

    model_config = ConfigDict(frozen=True)

    evaluated_at: float
    unbroken_since: float


class Kept(BaseModel):
    """The file."""

    messages: list[Message]
    switch: Switch | None


class Heard(NamedTuple):
    """What a webhook changed."""

    messages: list[Message]
    switch: Switch | None


def heard(webhook: Webhook, known: dict[tuple[str, float], Message], switch: Switch | None, now: float, alerts: Alerts) -> Heard:
    """Each alert by its own status: a group that fires may hold some that ended."""
    messages = []
    for told in webhook.alerts:
        if told.labels.get("alertname") == SWITCH:
            switch = moved_on(switch, evaluated_at(told, now), alerts)
            continue
        before = known.get((told.fingerprint, told.starts_at.timestamp()))
        messages.append(
            Message(
                fingerprint=told.fingerprint,
                starts_at=told.starts_at.timestamp(),
                ends_at=told.ends_at.timestamp() if told.status == "resolved" else None,
                labels=told.labels,
                annotations=told.annotations,
                heard_at=before.heard_at if before else now,
                repeated_at=now,
                evidence=before.evidence if before else None,
                evidence_problem=before.evidence_problem if before else "",
            )
        )
    return Heard(messages, switch)


def evaluated_at(told: Told, now: float) -> float:
    """The time in the switch's annotation; without one it counts as evaluated when it is heard."""
    try:
        return min(now, float(told.annotations["evaluated_at"]))
    except (KeyError, ValueError):
        return now


def moved_on(before: Switch | None, at: float, alerts: Alerts) -> Switch:
    """The switch after another evaluation was heard of; more than `gap_s` between two is a gap."""
    if before is None or at - before.evaluated_at > gap_s(alerts):
        return Switch(evaluated_at=at, unbroken_since=at)
    return Switch(evaluated_at=max(at, before.evaluated_at), unbroken_since=before.unbroken_since)


def gap_s(alerts: Alerts) -> float:
    """The longest time between two evaluations that are heard of while all is well; far below the 4 × resend_s of a false end."""
    return alerts.resend_s + alerts.evaluate_s + 2 * alerts.switch_every_s


def standing(message: Message, switch: Switch | None, now: float, alerts: Alerts) -> Standing:
    """Where an alert stands: an end counts when Prometheus was heard without a gap from before it until after it."""
    if message.ends_at is None:
        repeated = alerts.repeat_s + 2 * alerts.group_interval_s + alerts.group_wait_s
        return "unheard" if now - message.repeated_at > repeated else "firing"
    if switch is None or switch.evaluated_at < message.ends_at:
        return "unconfirmed"
    if switch.unbroken_since <= message.ends_at:
        return "over"
    again = alerts.resend_s + alerts.group_interval_s + 2 * alerts.evaluate_s  # by then it would have been told anew
    return "over" if switch.evaluated_at - switch.unbroken_since > again else "unconfirmed"


def overdue_s(switch: Switch | None, started_at: float, now: float, alerts: Alerts) -> float:
    """Seconds since Prometheus last evaluated, when that is too long ago; 0 while all is well."""
    age = now - (switch.evaluated_at if switch else started_at)
    return age if age > alerts.switch_overdue_s else 0.0


class Box:
    """The last messages, in a file that is whole at any time."""

    def __init__(self, path: Path, alerts: Alerts) -> None:
        self._path, self._alerts = path, alerts
        kept = _read(path)
        self.messages = {message.key: message for message in kept.messages}
        self.switch = kept.switch

    def take(self, webhook: Webhook, now: float) -> list[Message]:
        """Keep what was heard, durably; raises `OSError` when that cannot be done, and then nothing has changed."""
        changed = heard(webhook, self.messages, self.switch, now, self._alerts)
        self._keep(self.messages | {message.key: message for message in changed.messages}, changed.switch)
        return changed.messages

    def put_evidence(self, messages: list[Message], evidence: Evidence | None, problem: str) -> None:
        """What the monitor said of these messages, or why it said nothing; each as it stands by now."""
        added = {"evidence": evidence, "evidence_problem": problem}
        there = [self.messages[message.key] for message in messages if message.key in self.messages]
        self._keep(self.messages | {message.key: message.model_copy(update=added) for message in there}, self.switch)

    def _keep(self, messages: dict[tuple[str, float], Message], switch: Switch | None) -> None:
        newest = sorted(messages.values(), key=lambda message: message.starts_at)[-self._alerts.inbox_messages :]
        _write(self._path, Kept(messages=newest, switch=switch))
        self.messages, self.switch = {message.key: message for message in newest}, switch


def _read(path: Path) -> Kept:
    """What was kept; a file that cannot be read is put aside, not lost."""
    try:
        return Kept.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return Kept(messages=[], switch=None)
    except ValueError:
        path.replace(path.with_suffix(".unreadable"))
        return Kept(messages=[], switch=None)


def _write(path: Path, kept: Kept) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    with part.open("w", encoding="utf-8") as file:
        json.dump(kept.model_dump(), file)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
