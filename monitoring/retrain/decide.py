"""Decide what an alert leads to: start a retrain, join the running one, wait, or refuse, with the reason. Pure.

Drift alone only notifies people. Drift with falling accuracy, or with enough new labels, retrains. An obstacle that may pass is
waited for while the alert fires, at most `patience_s`; then the alert is refused for that reason. A person's request starts a
retrain, or the release of a version, at once, or is refused.
"""

from collections.abc import Sequence
from math import inf
from typing import Literal, NamedTuple

from monitoring.clock import Moment, elapsed_s
from pipeline.params import Retrain

Outcome = Literal["waiting", "started", "joined", "refused"]
Reason = Literal[
    "asked", "release", "harm", "labels", "disagreement",  # started
    "running",  # joined
    "settling", "no_harm", "on_request", "other_inputs", "nothing_new", "labelling",  # waiting; refused after patience
    "cooldown", "budget",  # likewise
    "over", "another_version", "no_champion", "not_a_cause", "busy", "is_champion",  # refused
]  # fmt: skip
ASKED, RELEASE_ASKED = "EvergreenAsked", "EvergreenReleaseAsked"  # a person's requests: a retrain; a release of a version
REQUESTS = frozenset({ASKED, RELEASE_ASKED})
FINISHED = frozenset({"done", "refused", "rolled_back", "aborted"})  # retrains that have learnt the labels of their time
DRIFT = frozenset({"EvergreenDrift", "EvergreenWindowDrift"})
HARM = frozenset({"EvergreenAccuracyHarm", "EvergreenEstimatedAccuracyLow", "EvergreenLabelledAccuracyFallen"})
DAY_S = 86_400.0


class Episode(NamedTuple):
    """An alert from its start to its end, however often it was received."""

    id: int
    alertname: str
    version: int | None  # the version the alert names; of a requested release the one to be released
    is_over: bool
    received: Moment  # first
    reason: str = ""  # why it waits, as stored last


class PastRetrain(NamedTuple):
    """A retrain in the journal, ended or running."""

    id: int
    state: str  # running, done, refused, rolled_back, aborted, failed, cancelled
    began: Moment
    ended: Moment | None
    git_commit: str | None
    made: Moment | None = None  # when its model was published: its release, which costs no training, follows


class Harm(NamedTuple):
    """Evidence of lost accuracy."""

    is_estimated: bool  # the upper bound of the estimate is below the promised accuracy
    is_labelled: bool  # proved by labels (an e-process)


class Inputs(NamedTuple):
    """Everything a decision depends on apart from the alert, the settings and the time."""

    champion: int | None
    champion_commit: str | None  # None: unknown, or made from uncommitted files
    head: str | None  # the commit that a retrain would start from
    history: Sequence[PastRetrain]
    new_labels: int  # texts labelled since the last retrain that was done or refused
    harm: Harm
    labelling_s: float = inf  # since the first label that the last retrain did not have
    disagreement: float | None = None  # lower bound of the share of texts on which two models differ beyond the reference
    other_inputs: str = ""  # how `head` differs from what the champion was made from; empty: a retrain would start from the same
    is_on_request: bool = False  # only a person starts a retrain


class Decision(NamedTuple):
    """The decision on one episode; `facts` can be written as JSON."""

    episode_id: int
    outcome: Outcome
    reason: Reason
    facts: dict[str, object]
    retrain_id: int | None = None  # the retrain it joins; None with `joined`: the one started by this batch
    release: int | None = None  # the version that the started retrain releases, without making one


def decide(episodes: Sequence[Episode], inputs: Inputs, settings: Retrain, now: Moment) -> list[Decision]:
    """Return one decision for each episode, in order; at most one starts a retrain, and later ones that could join it."""
    running = next((retrain.id for retrain in inputs.history if retrain.state == "running"), None)
    has_started = False
    decisions = []
    for episode in episodes:
        outcome, reason = _decide_episode(episode, inputs, settings, now, is_running=has_started or running is not None)
        if outcome == "waiting" and elapsed_s(episode.received, now) >= settings.patience_s:
            outcome = "refused"
        has_started |= outcome == "started"
        retrain_id = running if outcome == "joined" else None
        release = episode.version if reason == "release" else None
        decisions.append(Decision(episode.id, outcome, reason, facts(inputs, now), retrain_id, release))
    return decisions


def facts(inputs: Inputs, now: Moment) -> dict[str, object]:
    """Return the facts that explain a decision later."""
    return {
        "champion": inputs.champion,
        "new_labels": inputs.new_labels,
        "harm_estimated": inputs.harm.is_estimated,
        "harm_labelled": inputs.harm.is_labelled,
        "disagreement_at_least": None if inputs.disagreement is None else round(inputs.disagreement, 4),
        "spent_s": round(spent_s(inputs.history, now), 1),
        "idle_s": _rounded(idle_s(inputs.history, now)),
        "head": inputs.head,
        "other_inputs": inputs.other_inputs or None,
    }


def spent_s(history: Sequence[PastRetrain], now: Moment) -> float:
    """Return the duration of all retrains begun within a day, including the running one and pauses between attempts.

    The release at the end of a retrain, which waits for traffic and people, is no part of it.
    """
    within_day = (retrain for retrain in history if elapsed_s(retrain.began, now) < DAY_S)
    return sum(elapsed_s(retrain.began, retrain.made or retrain.ended or now) for retrain in within_day)


def idle_s(history: Sequence[PastRetrain], now: Moment) -> float | None:
    """Return the seconds since a retrain last ended, or None if none has."""
    return min((elapsed_s(retrain.ended, now) for retrain in history if retrain.ended), default=None)


def _decide_episode(
    episode: Episode, inputs: Inputs, settings: Retrain, now: Moment, *, is_running: bool
) -> tuple[Outcome, Reason]:
    if episode.alertname not in DRIFT | HARM | REQUESTS:
        return "refused", "not_a_cause"
    if inputs.champion is None:
        return "refused", "no_champion"
    if episode.alertname == RELEASE_ASKED:
        return _decide_release(episode, inputs, is_running=is_running)
    if episode.version is not None and episode.version != inputs.champion:
        return "refused", "another_version"  # a retrain's own swap causes such alerts
    if episode.is_over:
        return "refused", "over"
    if is_running:
        return "joined", "running"
    if episode.alertname == ASKED:
        return ("refused", "other_inputs") if inputs.other_inputs else ("started", "asked")
    if elapsed_s(episode.received, now) < settings.settle_s:
        return "waiting", "settling"
    return _decide_settled(episode, inputs, settings, now)


def _decide_release(episode: Episode, inputs: Inputs, *, is_running: bool) -> tuple[Outcome, Reason]:
    """Begin the release that a person asks for, unless a retrain runs or the version answers already."""
    if is_running:
        return "refused", "busy"
    return ("refused", "is_champion") if episode.version == inputs.champion else ("started", "release")


def _decide_settled(episode: Episode, inputs: Inputs, settings: Retrain, now: Moment) -> tuple[Outcome, Reason]:
    """Decide on an alert of the champion that has lasted: is there a cause, is anything new, is a retrain allowed now?"""
    cause = _cause(episode, inputs, settings)
    if cause is None:
        return "waiting", "no_harm"
    if inputs.is_on_request:
        return "waiting", "on_request"
    if inputs.other_inputs:
        return "waiting", "other_inputs"
    if has_nothing_new(inputs):
        return "waiting", "nothing_new"
    if 0 < inputs.new_labels < settings.enough_labels and inputs.labelling_s < settings.label_wait_s:
        return "waiting", "labelling"
    idle = idle_s(inputs.history, now)
    if idle is not None and idle < settings.cooldown_s:
        return "waiting", "cooldown"
    if spent_s(inputs.history, now) >= settings.budget_s:
        return "waiting", "budget"
    return "started", cause


def _cause(episode: Episode, inputs: Inputs, settings: Retrain) -> Reason | None:
    if episode.alertname in HARM or inputs.harm.is_estimated or inputs.harm.is_labelled:
        return "harm"
    if inputs.new_labels >= settings.min_labels:
        return "labels"
    if inputs.disagreement is not None and inputs.disagreement >= settings.disagreement:
        return "disagreement"
    return None


def has_nothing_new(inputs: Inputs) -> bool:
    """Return whether a retrain would repeat an earlier one: the same commit, and no label since."""
    finished = (retrain for retrain in inputs.history if retrain.state in FINISHED and retrain.git_commit is not None)
    last = max(finished, key=lambda retrain: retrain.id, default=None)
    tried = {inputs.champion_commit, last.git_commit if last else None} - {None}
    return inputs.new_labels == 0 and inputs.head in tried


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 1)
