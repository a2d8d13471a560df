"""The promises of the loop, and the quality of its answers over time."""

from collections.abc import Callable, Sequence
from math import inf, nan
from typing import NamedTuple

import numpy as np

from evergreen.loop.customers import CustomerMessage
from evergreen.loop.events import FIRST, LAUNCH, NEW_CHAMPION, Event, Facts
from evergreen.loop.promises import Promise
from monitoring.detectors.paired_test import count_pairs
from pipeline.metrics import mcnemar

ROLLING = 60  # messages
WITHIN_S, WHOLE_WITHIN_S = 300.0, 360.0  # from the first new message to the new champion; of the whole command
BY_LUCK, WON_BACK = 0.01, 0.5
Predict = Callable[[Sequence[str]], list[str]]  # texts → labels of the first version, offline


class Quality(NamedTuple):
    """Shares of correct answers; NaN where there was no message."""

    before: float  # of the first version, on messages before the launch
    fallen: float  # of the first version, on new messages
    after: float  # of the new champion, on new messages
    without: float  # of the first version, offline, on the new champion's messages
    by_luck: float  # P(a gain of this size, if both versions were equally good), exact McNemar
    messages_after: int

    @property
    def won_back(self) -> float:
        """Return the share of the lost accuracy that is back, on the same messages."""
        lost = self.before - self.without
        return (self.after - self.without) / lost if lost > 0 else nan


def quality(messages: Sequence[CustomerMessage], first: Predict) -> Quality:
    """Compare the new champion with the first version on the same messages."""
    old = [message for message in messages if message.version == FIRST]
    new = [message for message in messages if message.version > FIRST and message.is_new]
    predicted = first([message.text for message in new]) if new else []
    first_correct = np.array([label == message.truth for label, message in zip(predicted, new, strict=True)], dtype=bool)
    new_correct = np.array([message.is_correct for message in new], dtype=bool)
    counts = count_pairs(first_correct, new_correct)
    return Quality(
        before=_share([message.is_correct for message in old if not message.is_new]),
        fallen=_share([message.is_correct for message in old if message.is_new]),
        after=_share(new_correct.tolist()),
        without=_share(first_correct.tolist()),
        by_luck=mcnemar(counts.gained, counts.lost, "greater"),
        messages_after=len(new),
    )


def promises(
    messages: Sequence[CustomerMessage],
    facts: Facts,
    measured: Quality,
    events: Sequence[Event],
    *,
    failed_labels: int,
    whole_s: float,
    leftover: int,
) -> list[Promise]:
    """Return goal L1, and the conditions that make it meaningful."""
    at = {event.name: event.at_s for event in reversed(events)}
    launch_s, champion_s = at.get(LAUNCH, nan), at.get(NEW_CHAMPION, inf)
    unanswered = sum(not message.version for message in messages)
    return [
        Promise("from the first new message to the new champion", champion_s - launch_s, "s", at_most=WITHIN_S, goal="L1"),
        Promise("the whole command", whole_s, "s", at_most=WHOLE_WITHIN_S, goal="L1"),
        Promise("messages without an answer", unanswered, "messages", at_most=0, goal="L1"),
        Promise("labels that were not accepted", failed_labels, "labels", at_most=0, goal="L1"),
        Promise("retrains", len(facts.retrains), "started", at_most=1, at_least=1),
        Promise("share of the lost accuracy won back", measured.won_back, "", at_least=WON_BACK),
        Promise("P(a gain of this size by luck)", measured.by_luck, "", at_most=BY_LUCK),
        Promise("processes left behind", leftover, "processes", at_most=0),
    ]


def curve(messages: Sequence[CustomerMessage], count: int = ROLLING) -> list[tuple[float, float]]:
    """Return (seconds, share of correct answers among the last `count` messages), from the `count`-th message on."""
    correct = np.cumsum([0, *(message.is_correct for message in messages)])
    ends = range(count, len(messages) + 1)
    return [(messages[end - 1].at_s, float(correct[end] - correct[end - count]) / count) for end in ends]


def _share(flags: Sequence[bool]) -> float:
    return float(np.mean(flags)) if len(flags) else nan
