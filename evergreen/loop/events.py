"""Events of the loop, read from what its parts store anyway: the inbox, decisions and the retrain journal."""

from collections.abc import Sequence
from typing import NamedTuple

import sqlalchemy as sa

from evergreen.loop.customers import CustomerMessage
from evergreen.loop.environment import Environment
from monitoring.retrain.decide import DRIFT, HARM
from monitoring.retrain.history.sources import Row, open_sources, read_inbox
from state.tables import decisions, retrain_steps, retrains

FIRST = 1  # version at the start
LAUNCH, ALERTED, NEW_CHAMPION = "the shop sells something new", "the alert arrives", "the new champion answers"
CHOSEN, LABELLED, DECIDED, STAGE = "texts are chosen", "labels arrive", "a retrain is decided", "a stage begins"


class Event(NamedTuple):
    """An event; `at_s` counts from the start of the loop."""

    at_s: float
    name: str
    detail: str


class Facts(NamedTuple):
    """The current content of the stores."""

    alert: Row | None  # the inbox's first message on drift or harm
    decision: Row | None  # the first that started a retrain
    retrains: list[Row]
    steps: list[Row]

    @property
    def retrain(self) -> Row | None:
        """Return the first retrain."""
        return self.retrains[0] if self.retrains else None


class Observed(NamedTuple):
    """Times that no store records, in seconds since the start of the loop."""

    chosen_s: float | None  # when the queue of texts to label was made
    labelled_s: float | None
    labelled: int  # texts that the annotators have labelled by then
    stages: dict[str, float]  # when each pipeline stage was first seen running


def read_facts(environment: Environment) -> Facts:
    """Read the stores."""
    messages = [message for message in read_inbox(environment.home) if message["labels"].get("alertname") in DRIFT | HARM]
    with open_sources(environment.home, environment.params) as sources:
        started = sources.rows(sa.select(decisions).where(decisions.c.verdict == "started").order_by(decisions.c.id), decisions)
        begun = sources.rows(sa.select(retrains).order_by(retrains.c.id), retrains)
        steps = sources.rows(sa.select(retrain_steps).order_by(retrain_steps.c.id), retrain_steps)
    alert = min(messages, key=lambda message: float(message["heard_at"]), default=None)
    return Facts(alert, started[0] if started else None, begun, steps)


def list_events(facts: Facts, messages: Sequence[CustomerMessage], observed: Observed, start_wall: float) -> list[Event]:
    """Return all events in order of time. Pure."""
    events = []
    for name, message in (
        ("the first message is answered", next((message for message in messages if message.version), None)),
        (LAUNCH, next((message for message in messages if message.is_new), None)),
        (NEW_CHAMPION, next((message for message in messages if message.version > FIRST), None)),
    ):
        if message is not None:
            answer = f" → {message.predicted}" if message.version else ""
            events.append(Event(message.at_s, name, f"“{message.text}”{answer}"))
    if facts.alert:
        summary = facts.alert["annotations"].get("summary") or facts.alert["labels"].get("alertname")
        events.append(Event(facts.alert["heard_at"] - start_wall, ALERTED, str(summary)))
    if observed.chosen_s is not None:
        events.append(Event(observed.chosen_s, CHOSEN, "the queue of texts to label is made"))
    if observed.labelled_s is not None:
        events.append(Event(observed.labelled_s, LABELLED, f"two people have labelled {observed.labelled} texts of the queue"))
    if facts.decision:
        detail = f"{facts.decision['alertname']}, because of {facts.decision['reason']}"
        events.append(Event(facts.decision["at"] - start_wall, DECIDED, detail))
    events += [Event(at_s, STAGE, f"stage {stage}") for stage, at_s in observed.stages.items()]
    for step in facts.steps:
        if step["ended_at"] is not None:
            detail = step["detail"] if step["outcome"] == "done" else f"{step['outcome']}: {step['detail']}"
            events.append(Event(step["ended_at"] - start_wall, step["step"], detail))
    return sorted(events)
