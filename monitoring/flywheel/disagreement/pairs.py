"""Pairs of answers to one text, and the ways in which they disagree. Pure: knows no log and no model."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from monitoring.flywheel.disagreement.task import FlywheelTask, ModelAnswer
from pipeline.params import Flywheel

Kind = Literal["label", "gap", "slower", "failed"]


class LoggedAnswer(NamedTuple):
    """A version's answer as the prediction log has it."""

    prediction_id: str
    at: float  # seconds since the epoch
    unit: str  # "" where the caller gave none
    text: str | None  # None: the log keeps no texts
    text_hash: str
    answer: ModelAnswer
    latency_ms: float
    cache_hit: bool


class AnswerPair(NamedTuple):
    """The champion's answer to a text and that of a second model; `second` is None where none came."""

    champion: LoggedAnswer
    second: ModelAnswer | None
    latency_ms: float | None  # of the second answer; None: not measured
    kinds: frozenset[Kind]

    @property
    def differs(self) -> bool:
        """Return whether the answers contradict each other."""
        return "label" in self.kinds


def pair(
    champion: LoggedAnswer, second: ModelAnswer | None, task: FlywheelTask, settings: Flywheel, latency_ms: float | None = None
) -> AnswerPair:
    """Join two answers, and name the ways in which they disagree.

    `gap`: the answers agree, and one model is surer of them by `confidence_gap` or more. `slower`: the second answer took
    `slower_times` as long; an answer from the cache took no time that compares.
    """
    kinds: set[Kind] = set()
    if second is None:
        return AnswerPair(champion, None, None, frozenset({"failed"}))
    if task.differ(champion.answer, second):
        kinds.add("label")
    elif task.gap(champion.answer, second) >= settings.confidence_gap:
        kinds.add("gap")
    if latency_ms is not None and not champion.cache_hit and latency_ms >= settings.slower_times * champion.latency_ms:
        kinds.add("slower")
    return AnswerPair(champion, second, latency_ms, frozenset(kinds))


def count_kinds(pairs: Iterable[AnswerPair]) -> Counter[Kind]:
    """Count the pairs of each kind; a pair may be of several."""
    return Counter(kind for made in pairs for kind in made.kinds)


def answered(pairs: Sequence[AnswerPair]) -> list[AnswerPair]:
    """Return the pairs that have two answers."""
    return [made for made in pairs if made.second is not None]
