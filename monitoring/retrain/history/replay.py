"""The controller's own `decide` over a replay: what it would have started, what would have joined that, what it refuses.

The clock is that of what was stored. Which commits came meanwhile is not stored: it is taken that none did. What a retrain would
have changed cannot be known either: the champion is that of the time, so from the second retrain on this is an upper bound.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from heapq import heapify, heappop, heappush
from pathlib import Path
from typing import NamedTuple

import numpy as np

from monitoring.drift.accuracy import harm_log_e, is_harm
from monitoring.retrain import decide as deciding
from monitoring.retrain.clock import Moment
from monitoring.retrain.decide import DAY_S, Harm, Inputs, PastRetrain, decide
from monitoring.retrain.decision_inputs import commit_of, labels_of, reference_accuracy
from monitoring.retrain.new_labels import LabelCount, count_new_labels
from pipeline.params import Monitor, Retrain
from serving.release.manifest import model_name, repository

LATE_S = 0.001  # a wait is looked at a little after its end: sums of floats may fall short of it


class Alert(NamedTuple):
    """An alert from the window in which it began; `over_at` None: it fires on at the end of what is stored."""

    alertname: str
    version: int
    signal: str
    began_at: float
    over_at: float | None


class Opinion(NamedTuple):
    """A label that somebody gave."""

    at: float
    prediction_id: str
    label: str
    source: str


class Version(NamedTuple):
    """What its folder says of a version; where that has gone nothing is known of it."""

    commit: str | None
    labels: frozenset[str]
    accuracy: float | None  # on its reference


class Seen(NamedTuple):
    """What was known besides the alerts, each by time (seconds of the epoch)."""

    champions: list[tuple[float, int]]
    accuracy_upper: list[tuple[float, int, float]]  # (moment, version, at best)
    opinions: list[Opinion]
    correct: list[tuple[float, int, bool]]  # (moment, version, whether its answer was right)
    versions: dict[int, Version]


class Policy(NamedTuple):
    """The settings under which it is decided, and how long a retrain takes."""

    monitor: Monitor
    retrain: Retrain
    retrain_s: float


class Ran(NamedTuple):
    """A retrain that would have been started."""

    began_at: float
    ended_at: float
    commit: str | None


class Decided(NamedTuple):
    """What becomes of an alert, and when."""

    alert: Alert
    outcome: deciding.Outcome  # waiting: until the end
    reason: str
    at: float


def rehearse(alerts: Sequence[Alert], seen: Seen, policy: Policy) -> tuple[list[Decided], list[Ran]]:
    """What becomes of each alert, in their order, and the retrains; looked at whenever an answer may be another one."""
    until = seen.champions[-1][0]
    ran: list[Ran] = []
    decided = [Decided(alert, "waiting", "", alert.began_at) for alert in alerts]
    moments = list(_moments(alerts, seen, policy.retrain))
    heapify(moments)
    before = -np.inf
    while moments and (now := heappop(moments)) <= until:
        waiting = [number for number, one in enumerate(decided) if one.outcome == "waiting" and one.alert.began_at <= now]
        if now == before or not waiting:
            continue
        before = now
        episodes = [_episode(number, alerts[number], now) for number in waiting]
        for made in decide(episodes, situation_at(now, seen, ran, policy), policy.retrain, _moment(now)):
            decided[made.episode_id] = Decided(alerts[made.episode_id], made.outcome, made.reason, now)
            if made.outcome == "started":
                ran.append(Ran(now, now + policy.retrain_s, _version(now, seen).commit))
                for wait_s in (policy.retrain_s, policy.retrain_s + policy.retrain.cooldown_s, DAY_S):
                    heappush(moments, now + wait_s + LATE_S)
    return decided, ran


def situation_at(now: float, seen: Seen, ran: Sequence[Ran], policy: Policy) -> Inputs:
    """What `decide` would have been told at this moment."""
    champion, known = _champion(now, seen), _version(now, seen)
    history = [
        PastRetrain(
            number,
            "done" if one.ended_at <= now else "running",
            _moment(one.began_at),
            _moment(one.ended_at) if one.ended_at <= now else None,
            one.commit,
        )
        for number, one in enumerate(ran, start=1)
    ]
    return Inputs(
        champion=champion,
        champion_commit=known.commit,
        head=known.commit,
        history=history,
        new_labels=count_new_labels(_said(now, seen, ran), known.labels, policy.retrain),
        harm=_harm(now, seen, champion, known.accuracy, policy.monitor),
    )


def version_at(version: int, home: Path) -> Version:
    """Read it from its folder, live or parked."""
    folders = (repository(home) / model_name(version), home / "parked" / model_name(version))
    folder = next((folder for folder in folders if folder.is_dir()), folders[0])
    return Version(commit_of(folder), labels_of(folder), reference_accuracy(folder))


def _moments(alerts: Sequence[Alert], seen: Seen, settings: Retrain) -> Iterator[float]:
    """When an answer may become another one, whatever is started."""
    yield from (moment for moment, _ in seen.champions)
    for alert in alerts:
        yield alert.began_at + settings.settle_s + LATE_S
        yield alert.began_at + settings.patience_s + LATE_S
        if alert.over_at is not None:
            yield alert.over_at


def _harm(now: float, seen: Seen, champion: int, agreed: float | None, settings: Monitor) -> Harm:
    """As the controller reads it, of what was stored by then."""
    if agreed is None:
        return Harm(False, False)
    upper = [value for moment, version, value in seen.accuracy_upper if version == champion and moment <= now]
    right = [is_right for moment, version, is_right in seen.correct if version == champion and moment <= now]
    evidence = harm_log_e(np.array(right, dtype=np.bool_), agreed, settings.tolerated_loss, settings.harm_alpha)
    return Harm(bool(upper) and upper[-1] < agreed - settings.tolerated_loss, is_harm(evidence, settings.harm_alpha))


def _said(now: float, seen: Seen, ran: Sequence[Ran]) -> list[LabelCount]:
    """Labels given since the last retrain that has ended began: it has read all that was there."""
    since = max((one.began_at for one in ran if one.ended_at <= now), default=-np.inf)
    first, last = (bisect_right(seen.opinions, moment, key=lambda one: one.at) for moment in (since, now))
    texts: dict[str, set[str]] = {}
    people: dict[str, set[str]] = {}
    for one in seen.opinions[first:last]:
        texts.setdefault(one.label, set()).add(one.prediction_id)
        people.setdefault(one.label, set()).add(one.source)
    return [LabelCount(label, len(texts[label]), len(people[label])) for label in texts]


def _champion(now: float, seen: Seen) -> int:
    """The version that answered last."""
    return seen.champions[max(0, bisect_right(seen.champions, now, key=lambda one: one[0]) - 1)][1]


def _version(now: float, seen: Seen) -> Version:
    return seen.versions[_champion(now, seen)]


def _episode(number: int, alert: Alert, now: float) -> deciding.Episode:
    is_over = alert.over_at is not None and now >= alert.over_at
    return deciding.Episode(number, alert.alertname, alert.version, is_over, _moment(alert.began_at))


def _moment(at_s: float) -> Moment:
    """The wall clock of that time is the only one that was stored."""
    return Moment(at_s, at_s, "replay")
