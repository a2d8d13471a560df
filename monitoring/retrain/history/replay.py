"""Replays the controller's `decide` over stored signals: which retrains it would have started, joined or refused.

The clock is that of the stored data. Commits are not stored, so the replay assumes that there were none. The effect of a retrain
cannot be known either: the champion is the one of that time, so from the second retrain on the result is an upper bound.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from heapq import heapify, heappop, heappush
from pathlib import Path
from typing import NamedTuple

import numpy as np

from monitoring.clock import Moment
from monitoring.drift.accuracy import harm_log_e, is_harm
from monitoring.labels.agreement import LabelCount
from monitoring.retrain.decide import DAY_S, Episode, Harm, Inputs, Outcome, PastRetrain, decide
from monitoring.retrain.decision_inputs import commit_of, reference_accuracy
from monitoring.retrain.new_labels import count_new_labels
from pipeline.params import Monitor, Retrain
from serving.release.label_change import labels_of
from serving.release.manifest import model_name, read_lineage, repository

LATE_S = 0.001  # decide shortly after a wait ends, because sums of floats may fall short of it


class Alert(NamedTuple):
    """An alert that began at the end of a window; `over_at` is None if it still fires at the end of the data."""

    alertname: str
    version: int
    signal: str
    began_at: float
    over_at: float | None


class GivenLabel(NamedTuple):
    """A label that a person gave, at `at` (seconds of the epoch)."""

    at: float
    prediction_id: str
    label: str
    labeller: str


class VersionFacts(NamedTuple):
    """Facts from a version's folder; unknown when it is gone."""

    commit: str | None
    labels: frozenset[str]
    accuracy: float | None  # on its reference


class Observations(NamedTuple):
    """The stored observations besides the alerts, each ordered by time (seconds of the epoch)."""

    champions: list[tuple[float, int]]
    accuracy_upper: list[tuple[float, int, float]]  # (time, version, upper bound)
    labels: list[GivenLabel]
    correct: list[tuple[float, int, bool]]  # (time, version, whether its prediction was right)
    versions: dict[int, VersionFacts]
    disagreement: Sequence[tuple[float, int, str, float]] = ()  # (time, version, second model, lower bound)


class Policy(NamedTuple):
    """The settings of the replayed decisions, and the duration of a retrain."""

    monitor: Monitor
    retrain: Retrain
    retrain_s: float


class ReplayedRetrain(NamedTuple):
    """A retrain that would have been started."""

    began_at: float
    ended_at: float
    commit: str | None


class ReplayedDecision(NamedTuple):
    """The decision on an alert, and its time."""

    alert: Alert
    outcome: Outcome  # waiting: until the end
    reason: str
    at: float


def replay_decisions(
    alerts: Sequence[Alert], observations: Observations, policy: Policy
) -> tuple[list[ReplayedDecision], list[ReplayedRetrain]]:
    """Return the decision on each alert, in their order, and the retrains; decides at every time an outcome may change."""
    until = observations.champions[-1][0]
    retrains: list[ReplayedRetrain] = []
    decisions = [ReplayedDecision(alert, "waiting", "", alert.began_at) for alert in alerts]
    times = list(_decision_times(alerts, observations, policy.retrain))
    heapify(times)
    last = -np.inf
    while times and (now := heappop(times)) <= until:
        waiting = [
            number
            for number, decision in enumerate(decisions)
            if decision.outcome == "waiting" and decision.alert.began_at <= now
        ]
        if now == last or not waiting:
            continue
        last = now
        episodes = [_episode(number, alerts[number], now) for number in waiting]
        for decision in decide(episodes, inputs_at(now, observations, retrains, policy), policy.retrain, _moment(now)):
            number = decision.episode_id
            decisions[number] = ReplayedDecision(alerts[number], decision.outcome, decision.reason, now)
            if decision.outcome == "started":
                commit = _version_facts(now, observations).commit
                retrains.append(ReplayedRetrain(now, now + policy.retrain_s, commit))
                for wait_s in (policy.retrain_s, policy.retrain_s + policy.retrain.cooldown_s, DAY_S):
                    heappush(times, now + wait_s + LATE_S)
    return decisions, retrains


def inputs_at(now: float, observations: Observations, retrains: Sequence[ReplayedRetrain], policy: Policy) -> Inputs:
    """Return the inputs that `decide` would have had at this time."""
    champion, facts = _champion(now, observations), _version_facts(now, observations)
    history = [
        PastRetrain(
            number,
            "done" if retrain.ended_at <= now else "running",
            _moment(retrain.began_at),
            _moment(retrain.ended_at) if retrain.ended_at <= now else None,
            retrain.commit,
        )
        for number, retrain in enumerate(retrains, start=1)
    ]
    labels = _new_labels(now, observations, retrains)
    return Inputs(
        champion=champion,
        champion_commit=facts.commit,
        head=facts.commit,
        history=history,
        new_labels=count_new_labels(_label_counts(labels), facts.labels, policy.retrain),
        labelling_s=now - labels[0].at if labels else np.inf,
        harm=_harm(now, observations, champion, facts.accuracy, policy.monitor),
        disagreement=_disagreement(now, observations, champion, policy.retrain),
    )


def read_version_facts(version: int, home: Path) -> VersionFacts:
    """Read the facts from a version's folder, live or parked."""
    folders = (repository(home) / model_name(version), home / "parked" / model_name(version))
    folder = next((folder for folder in folders if folder.is_dir()), folders[0])
    return VersionFacts(commit_of(read_lineage(folder)), labels_of(folder), reference_accuracy(folder))


def _decision_times(alerts: Sequence[Alert], observations: Observations, settings: Retrain) -> Iterator[float]:
    """Yield the times at which an outcome may change, apart from those after a start."""
    yield from (at for at, _ in observations.champions)
    yield from (at for at, *_ in observations.disagreement)
    for alert in alerts:
        yield alert.began_at + settings.settle_s + LATE_S
        yield alert.began_at + settings.patience_s + LATE_S
        if alert.over_at is not None:
            yield alert.over_at


def _harm(now: float, observations: Observations, champion: int, promised: float | None, settings: Monitor) -> Harm:
    """Return the evidence of harm as the controller would read it from the data stored by then."""
    if promised is None:
        return Harm(False, False)
    upper = [value for at, version, value in observations.accuracy_upper if version == champion and at <= now]
    correct = [is_correct for at, version, is_correct in observations.correct if version == champion and at <= now]
    evidence = harm_log_e(np.array(correct, dtype=np.bool_), promised, settings.tolerated_loss, settings.harm_alpha)
    return Harm(bool(upper) and upper[-1] < promised - settings.tolerated_loss, is_harm(evidence, settings.harm_alpha))


def _disagreement(now: float, observations: Observations, champion: int, settings: Retrain) -> float | None:
    """Return the highest lower bound among the newest measurements with each second model."""
    since = now - settings.disagreement_within_s
    newest = {
        other: lower for at, version, other, lower in observations.disagreement if version == champion and since <= at <= now
    }
    return max(newest.values(), default=None)


def _new_labels(now: float, observations: Observations, retrains: Sequence[ReplayedRetrain]) -> Sequence[GivenLabel]:
    """Return the labels given since the last ended retrain began: it has read all earlier ones."""
    since = max((retrain.began_at for retrain in retrains if retrain.ended_at <= now), default=-np.inf)
    first, last = (bisect_right(observations.labels, at, key=lambda given: given.at) for at in (since, now))
    return observations.labels[first:last]


def _label_counts(labels: Sequence[GivenLabel]) -> list[LabelCount]:
    texts: dict[str, set[str]] = {}
    people: dict[str, set[str]] = {}
    for given in labels:
        texts.setdefault(given.label, set()).add(given.prediction_id)
        people.setdefault(given.label, set()).add(given.labeller)
    return [LabelCount(label, len(texts[label]), len(people[label])) for label in texts]


def _champion(now: float, observations: Observations) -> int:
    """Return the version of the last window."""
    champions = observations.champions
    return champions[max(0, bisect_right(champions, now, key=lambda pair: pair[0]) - 1)][1]


def _version_facts(now: float, observations: Observations) -> VersionFacts:
    return observations.versions[_champion(now, observations)]


def _episode(number: int, alert: Alert, now: float) -> Episode:
    is_over = alert.over_at is not None and now >= alert.over_at
    return Episode(number, alert.alertname, alert.version, is_over, _moment(alert.began_at))


def _moment(at_s: float) -> Moment:
    """Return a moment on one clock: only the wall clock of that time is stored."""
    return Moment(at_s, at_s, "replay")
