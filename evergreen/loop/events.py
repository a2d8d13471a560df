"""What happens in the loop, read from the stores that its parts write anyway: inbox, decisions, journal. Nobody tells it."""

from collections.abc import Sequence
from typing import NamedTuple

import sqlalchemy as sa

from evergreen.loop.customers import Asked
from evergreen.loop.environment import Place
from monitoring.retrain.decide import DRIFT, HARM
from monitoring.retrain.history.stores import Row, inbox, stores
from state.tables import decisions, retrain_steps, retrains

FIRST = 1  # the version that the loop begins with
STAGE = "at work"  # name of the event that a stage of the run begins


class Event(NamedTuple):
    """Something that happened; `at_s` counts from the beginning of the loop."""

    at_s: float
    name: str
    detail: str


class Facts(NamedTuple):
    """What the stores hold now."""

    message: Row | None  # the first one on drift or harm that people got
    decision: Row | None  # the first that started a retrain
    retrains: list[Row]
    steps: list[Row]

    @property
    def retrain(self) -> Row | None:
        """The first."""
        return self.retrains[0] if self.retrains else None


class Seen(NamedTuple):
    """What only somebody who was there knows: when labels were handed in, and when a stage of the run was first at work."""

    labelled_s: float | None
    labelled: int
    stages: dict[str, float]


def read(place: Place) -> Facts:
    """One look."""
    told = [one for one in inbox(place.home) if one["labels"].get("alertname") in DRIFT | HARM]
    with stores(place.home, place.params) as at:
        started = at.rows(sa.select(decisions).where(decisions.c.verdict == "started").order_by(decisions.c.id), decisions)
        begun = at.rows(sa.select(retrains).order_by(retrains.c.id), retrains)
        steps = at.rows(sa.select(retrain_steps).order_by(retrain_steps.c.id), retrain_steps)
    message = min(told, key=lambda one: float(one["heard_at"]), default=None)
    return Facts(message, started[0] if started else None, begun, steps)


def events(facts: Facts, asked: Sequence[Asked], seen: Seen, zero_wall: float) -> list[Event]:
    """In their order. Pure."""
    found = []
    for event, one in (
        ("the first message is answered", next((one for one in asked if one.version), None)),
        ("the shop sells something new", next((one for one in asked if one.is_new), None)),
        ("customers hear the new champion", next((one for one in asked if one.version > FIRST), None)),
    ):
        if one is not None:
            found.append(Event(one.at_s, event, f"“{one.text}”" + (f" → {one.said}" if one.version else "")))
    if facts.message:
        found.append(Event(facts.message["heard_at"] - zero_wall, "people are told", _told(facts.message)))
    if seen.labelled_s is not None:
        found.append(Event(seen.labelled_s, "labels arrive", f"two people have labelled {seen.labelled} messages"))
    if facts.decision:
        why = f"{facts.decision['alertname']}, because of {facts.decision['reason']}"
        found.append(Event(facts.decision["at"] - zero_wall, "a retrain is decided", why))
    found += [Event(at_s, STAGE, f"stage {stage}") for stage, at_s in seen.stages.items()]
    for step in facts.steps:
        if step["ended_at"] is not None:
            detail = step["detail"] if step["outcome"] == "done" else f"{step['outcome']}: {step['detail']}"
            found.append(Event(step["ended_at"] - zero_wall, step["step"], detail))
    return sorted(found)


def _told(message: Row) -> str:
    return str(message["annotations"].get("summary") or message["labels"].get("alertname"))
