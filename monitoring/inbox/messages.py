"""The inbox's messages: alerts as Alertmanager posted them, the dead man's switch, and the status of each alert now.

Alertmanager resolves an alert when Prometheus says so, and also when Prometheus has been silent for four times `resend_s`. The
switch tells the two apart: it carries the time of Prometheus' own evaluation, and only an end that it confirms counts.
"""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict

from monitoring.alert_rules.monitoring import SWITCH
from monitoring.alertmanager_webhook import Webhook, WebhookAlert
from monitoring.inbox.explanation import Explanation
from pipeline.params import Alerts

Status = Literal["firing", "unheard", "unconfirmed", "over"]
KEYS = {"received_at": "heard_at", "explanation": "evidence", "explanation_error": "evidence_problem"}  # in the stored JSON


class Message(BaseModel):
    """One episode of an alert. Times are seconds of the epoch."""

    model_config = ConfigDict(
        frozen=True, alias_generator=lambda name: KEYS.get(name, name), validate_by_name=True, serialize_by_alias=True
    )

    fingerprint: str
    starts_at: float
    ends_at: float | None
    labels: dict[str, str]
    annotations: dict[str, str]
    received_at: float  # first
    repeated_at: float  # last
    explanation: Explanation | None
    explanation_error: str

    @property
    def key(self) -> tuple[str, float]:
        """Identify an episode by its alert and its start."""
        return self.fingerprint, self.starts_at


class Switch(BaseModel):
    """The time of Prometheus' last evaluation by its own clock, and the start of the current run of evaluations without a gap."""

    model_config = ConfigDict(frozen=True)

    evaluated_at: float
    unbroken_since: float


class Snapshot(BaseModel):
    """The content of the messages file."""

    messages: list[Message]
    switch: Switch | None


class Update(NamedTuple):
    """The messages that a webhook added or changed, and the switch after it."""

    messages: list[Message]
    switch: Switch | None


def apply_webhook(
    webhook: Webhook, known: dict[tuple[str, float], Message], switch: Switch | None, now: float, alerts: Alerts
) -> Update:
    """Turn each alert into a message by its own status: a firing group may hold alerts that have ended."""
    messages = []
    if switch is not None and switch.evaluated_at - now > max_gap_s(alerts):
        switch = None  # from a clock that was ahead: it would count as news until the clock is there again
    for alert in webhook.alerts:
        if alert.labels.get("alertname") == SWITCH:
            switch = record_evaluation(switch, evaluated_at(alert, now), alerts)
            continue
        earlier = known.get((alert.fingerprint, alert.starts_at))
        messages.append(
            Message(
                fingerprint=alert.fingerprint,
                starts_at=alert.starts_at,
                ends_at=(now if alert.ends_at is None else alert.ends_at) if alert.status == "resolved" else None,
                labels=alert.labels,
                annotations=alert.annotations,
                received_at=earlier.received_at if earlier else now,
                repeated_at=now,
                explanation=earlier.explanation if earlier else None,
                explanation_error=earlier.explanation_error if earlier else "",
            )
        )
    return Update(messages, switch)


def evaluated_at(alert: WebhookAlert, now: float) -> float:
    """Return the time in the switch's annotation, or the time of receipt without one."""
    try:
        return min(now, max(0.0, float(alert.annotations["evaluated_at"])))
    except (KeyError, ValueError):
        return now


def record_evaluation(switch: Switch | None, at: float, alerts: Alerts) -> Switch:
    """Return the switch after another evaluation. A gap of more than `max_gap_s` before it starts a new unbroken run."""
    if switch is None or at - switch.evaluated_at > max_gap_s(alerts):
        return Switch(evaluated_at=at, unbroken_since=at)
    return Switch(evaluated_at=max(at, switch.evaluated_at), unbroken_since=switch.unbroken_since)


def max_gap_s(alerts: Alerts) -> float:
    """Return the longest time between two received evaluations while all is well.

    Alertmanager reports a false end only after 4 × resend_s without news, which is much longer.
    """
    return alerts.resend_s + alerts.evaluate_s + 2 * alerts.switch_every_s


def status_of(message: Message, switch: Switch | None, now: float, alerts: Alerts) -> Status:
    """Decide an alert's status.

    The end of an alert is believed when Prometheus evaluated its rules without a gap from before the end until after it.
    """
    if message.ends_at is None:
        repeated = alerts.repeat_s + 2 * alerts.group_interval_s + alerts.group_wait_s
        return "unheard" if now - message.repeated_at > repeated else "firing"
    if switch is None or switch.evaluated_at < message.ends_at:
        return "unconfirmed"
    if switch.unbroken_since <= message.ends_at:
        return "over"
    resent_s = alerts.resend_s + alerts.group_interval_s + 2 * alerts.evaluate_s  # an alert that still fires has arrived by then
    return "over" if switch.evaluated_at - switch.unbroken_since > resent_s else "unconfirmed"


def overdue_s(switch: Switch | None, started_at: float, now: float, alerts: Alerts) -> float:
    """Return the seconds since Prometheus' last evaluation when they exceed `switch_overdue_s`, else 0.

    An evaluation that far ahead is from a clock that was wrong, and tells as little as one that far back.
    """
    age = abs(now - (switch.evaluated_at if switch else started_at))
    return age if age > alerts.switch_overdue_s else 0.0


def newest_messages(messages: Iterable[Message], alerts: Alerts) -> list[Message]:
    """Return the newest messages, oldest first, within the inbox's number and bytes."""
    newest: list[Message] = []
    left = alerts.inbox_bytes
    for message in sorted(messages, key=lambda message: message.starts_at, reverse=True)[: alerts.inbox_messages]:
        left -= len(message.model_dump_json())
        if left < 0:
            break
        newest.insert(0, message)
    return newest


class MessageStore:
    """The newest messages, in a file that is complete at any time."""

    def __init__(self, path: Path, alerts: Alerts) -> None:
        self._path, self._alerts = path, alerts
        snapshot = _read(path)
        self.messages = {message.key: message for message in snapshot.messages}
        self.switch = snapshot.switch

    def receive(self, webhook: Webhook, now: float) -> list[Message]:
        """Store a webhook durably and return its messages; raises `OSError`, and then nothing has changed."""
        update = apply_webhook(webhook, self.messages, self.switch, now, self._alerts)
        self._save(self.messages | {message.key: message for message in update.messages}, update.switch)
        return update.messages

    def add_explanation(self, messages: list[Message], explanation: Explanation | None, error: str) -> None:
        """Add the monitor's explanation to the current state of these messages, or the reason why there is none newer."""
        added: dict[str, object] = {"explanation_error": error} | ({"explanation": explanation} if explanation else {})
        current = [self.messages[message.key] for message in messages if message.key in self.messages]
        changed = {message.key: message.model_copy(update=added) for message in current}
        if any(self.messages[key] != message for key, message in changed.items()):
            self._save(self.messages | changed, self.switch)

    def _save(self, messages: dict[tuple[str, float], Message], switch: Switch | None) -> None:
        newest = newest_messages(messages.values(), self._alerts)
        _write(self._path, Snapshot(messages=newest, switch=switch))
        self.messages, self.switch = {message.key: message for message in newest}, switch


def read_snapshot(path: Path) -> Snapshot:
    """Read the snapshot of a running inbox; an empty one where there is none that can be read."""
    try:
        return Snapshot.model_validate_json(path.read_bytes())
    except (OSError, ValueError):
        return Snapshot(messages=[], switch=None)


def _read(path: Path) -> Snapshot:
    """Read the snapshot; a file that cannot be read is renamed, not lost."""
    try:
        return Snapshot.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return Snapshot(messages=[], switch=None)
    except ValueError:
        path.replace(path.with_suffix(".unreadable"))
        return Snapshot(messages=[], switch=None)


def _write(path: Path, snapshot: Snapshot) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    with part.open("w", encoding="utf-8") as file:
        json.dump(snapshot.model_dump(), file)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
