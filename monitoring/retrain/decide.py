"""Whether an alert leads to a retrain: start one, join the one that runs, wait, or refuse, with the reason. Pure.

Drift must hurt: drift alone tells people; drift with accuracy that falls, or with enough new labels, retrains. What stands in
the way for a while is waited for as long as the alert fires, at most `patience_s`; then it is a refusal for the same reason.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from monitoring.retrain.clock import Moment, elapsed_s
from pipeline.params import Retrain

Outcome = Literal["waiting", "started", "joined", "refused"]
Reason = Literal[
    "asked", "harm", "labels", "disagreement",  # started
    "running",  # joined
    "settling", "no_harm", "nothing_new", "cooldown", "budget",  # waiting, and refused when patience ends
    "over", "another_version", "no_champion", "not_a_cause",  # refused
]  # fmt: skip
ASKED = "EvergreenAsked"  # by a person
DRIFT = frozenset({"EvergreenDrift", "EvergreenWindowDrift"})
HARM = frozenset({"EvergreenAccuracyHarm", "EvergreenEstimatedAccuracyLow", "EvergreenLabelledAccuracyFallen"})
DAY_S = 86_400.0


class Episode(NamedTuple):
    """An alert from its beginning to its end, however often it was told."""

    id: int
    alertname: str
    version: int | None  # that it speaks of
    is_over: bool
    heard: Moment  # first
    reason: str = ""  # why it waits, as written down last


class Past(NamedTuple):
    """A retrain as the journal has it."""

    id: int
    state: str  # running, done, refused, failed
    began: Moment
    ended: Moment | None
    git_commit: str | None


class Harm(NamedTuple):
    """What is known of lost accuracy."""

    is_estimated: bool  # even the upper bound of the estimate lies below what was agreed
    is_labelled: bool  # proved by labels (an e-process)


class Situation(NamedTuple):
    """All that a decision depends on, besides the alert, the settings and the time."""

    champion: int | None
    champion_commit: str | None  # None: unknown, or made from files that were not committed
    head: str | None  # the commit that a retrain would be made from
    history: Sequence[Past]
    new_labels: int  # texts that were labelled since the last retrain that ended by itself
    harm: Harm
    disagreement: float | None = None  # share of answers on which two models differ


class Decision(NamedTuple):
    """What becomes of an episode; `facts` can be written as JSON."""

    episode: int
    outcome: Outcome
    reason: Reason
    facts: dict[str, object]
    retrain: int | None = None  # that it joins; None with `joined`: the one that was started just before


def decide(episodes: Sequence[Episode], situation: Situation, settings: Retrain, now: Moment) -> list[Decision]:
    """One decision an episode, in their order; at most one starts a retrain, and the others that could have join it."""
    running = next((past.id for past in situation.history if past.state == "running"), None)
    has_started = False
    made = []
    for episode in episodes:
        outcome, reason = _judge(episode, situation, settings, now, is_running=has_started or running is not None)
        if outcome == "waiting" and elapsed_s(episode.heard, now) >= settings.patience_s:
            outcome = "refused"
        has_started |= outcome == "started"
        retrain = running if outcome == "joined" else None
        made.append(Decision(episode.id, outcome, reason, facts(situation, now), retrain))
    return made


def facts(situation: Situation, now: Moment) -> dict[str, object]:
    """What a decision is explained by later."""
    return {
        "champion": situation.champion,
        "new_labels": situation.new_labels,
        "harm_estimated": situation.harm.is_estimated,
        "harm_labelled": situation.harm.is_labelled,
        "disagreement": situation.disagreement,
        "spent_s": round(spent_s(situation.history, now), 1),
        "idle_s": _rounded(idle_s(situation.history, now)),
        "head": situation.head,
    }


def spent_s(history: Sequence[Past], now: Moment) -> float:
    """Seconds that the retrains took which began within a day, the one at work and pauses between attempts included."""
    return sum(elapsed_s(past.began, past.ended or now) for past in history if elapsed_s(past.began, now) < DAY_S)


def idle_s(history: Sequence[Past], now: Moment) -> float | None:
    """Seconds since a retrain last ended; None: none has."""
    return min((elapsed_s(past.ended, now) for past in history if past.ended), default=None)


def _judge(episode: Episode, situation: Situation, settings: Retrain, now: Moment, *, is_running: bool) -> tuple[Outcome, Reason]:
    if episode.alertname not in DRIFT | HARM | {ASKED}:
        return "refused", "not_a_cause"
    if situation.champion is None:
        return "refused", "no_champion"
    if episode.version is not None and episode.version != situation.champion:
        return "refused", "another_version"  # among them what a retrain's own swap sets off
    if episode.is_over:
        return "refused", "over"
    if is_running:
        return "joined", "running"
    if episode.alertname == ASKED:
        return "started", "asked"
    if elapsed_s(episode.heard, now) < settings.settle_s:
        return "waiting", "settling"
    return _weigh(episode, situation, settings, now)


def _weigh(episode: Episode, situation: Situation, settings: Retrain, now: Moment) -> tuple[Outcome, Reason]:
    """An alert of the champion that has lasted: is a retrain worth it, would it change anything, may it be now?"""
    why = _worth(episode, situation, settings)
    if why is None:
        return "waiting", "no_harm"
    if is_nothing_new(situation):
        return "waiting", "nothing_new"
    idle = idle_s(situation.history, now)
    if idle is not None and idle < settings.cooldown_s:
        return "waiting", "cooldown"
    if spent_s(situation.history, now) >= settings.budget_s:
        return "waiting", "budget"
    return "started", why


def _worth(episode: Episode, situation: Situation, settings: Retrain) -> Reason | None:
    if episode.alertname in HARM or situation.harm.is_estimated or situation.harm.is_labelled:
        return "harm"
    if situation.new_labels >= settings.min_labels:
        return "labels"
    if situation.disagreement is not None and situation.disagreement >= settings.disagreement:
        return "disagreement"
    return None


def is_nothing_new(situation: Situation) -> bool:
    """Whether a retrain would make what was made before: the same commit, and no label since."""
    last = max((past for past in situation.history if past.state in ("done", "refused")), key=lambda past: past.id, default=None)
    made_before = {situation.champion_commit, last.git_commit if last else None} - {None}
    return situation.new_labels == 0 and situation.head in made_before


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 1)
