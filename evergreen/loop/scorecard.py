"""What the loop is held to, and how the quality of the answers went."""

from collections.abc import Callable, Sequence
from math import inf, nan
from typing import NamedTuple

import numpy as np

from evergreen.loop.customers import Asked
from evergreen.loop.events import FIRST, Event, Facts
from evergreen.promises import Promise
from monitoring.retrain.gate.paired_test import count_pairs
from pipeline.metrics import mcnemar

ROLLING = 60  # messages
WITHIN_S, WHOLE_WITHIN_S = 300.0, 360.0  # from the first new message to the new champion; of the whole command
BY_LUCK, WON_BACK = 0.01, 0.5
Label = Callable[[Sequence[str]], list[str]]  # texts → what the first version says of them, offline


class Quality(NamedTuple):
    """Shares of right answers; NaN where there was nothing."""

    before: float  # of the first version, on messages of before the launch
    fallen: float  # of the first version, on new messages
    after: float  # of the new champion, on the new messages that came after it
    without: float  # of the first version, asked offline for the same ones
    by_luck: float  # P(as much gained over it, were both equally good), exact McNemar
    messages_after: int

    @property
    def won_back(self) -> float:
        """Share of what was lost, on the same messages."""
        lost = self.before - self.without
        return (self.after - self.without) / lost if lost > 0 else nan


def quality(asked: Sequence[Asked], first: Label) -> Quality:
    """From all that was asked."""
    old = [one for one in asked if one.version == FIRST]
    after = [one for one in asked if one.version > FIRST and one.is_new]
    would = first([one.text for one in after]) if after else []
    then = np.array([label == one.truth for label, one in zip(would, after, strict=True)], dtype=bool)
    now = np.array([one.is_right for one in after], dtype=bool)
    counted = count_pairs(then, now)
    return Quality(
        before=_share([one.is_right for one in old if not one.is_new]),
        fallen=_share([one.is_right for one in old if one.is_new]),
        after=_share(now.tolist()),
        without=_share(then.tolist()),
        by_luck=mcnemar(counted.gained, counted.lost, "greater"),
        messages_after=len(after),
    )


def promises(
    asked: Sequence[Asked],
    facts: Facts,
    found: Quality,
    events: Sequence[Event],
    *,
    not_taken: int,
    whole_s: float,
    left_over: int,
) -> list[Promise]:
    """L1 of the goals, and what makes it worth something."""
    at = {event.name: event.at_s for event in reversed(events)}
    begun, arrived = at.get("the shop sells something new", nan), at.get("customers hear the new champion", inf)
    return [
        Promise("from the first new message to the new champion", arrived - begun, "s", at_most=WITHIN_S, goal="L1"),
        Promise("the whole command", whole_s, "s", at_most=WHOLE_WITHIN_S, goal="L1"),
        Promise("messages that were not answered", sum(not one.version for one in asked), "messages", at_most=0, goal="L1"),
        Promise("labels that were not taken", not_taken, "labels", at_most=0, goal="L1"),
        Promise("retrains", len(facts.retrains), "begun", at_most=1, at_least=1),
        Promise("of the accuracy that was lost, won back", found.won_back, "", at_least=WON_BACK),
        Promise("P(so much better than the first version by luck)", found.by_luck, "", at_most=BY_LUCK),
        Promise("processes that were left", left_over, "processes", at_most=0),
    ]


def curve(asked: Sequence[Asked], count: int = ROLLING) -> list[tuple[float, float]]:
    """(seconds, share of right answers among the last `count` messages), one for each message from the `count`-th on."""
    right = np.cumsum([0, *(one.is_right for one in asked)])
    return [(asked[end - 1].at_s, float(right[end] - right[end - count]) / count) for end in range(count, len(asked) + 1)]


def _share(flags: Sequence[bool]) -> float:
    return float(np.mean(flags)) if len(flags) else nan
