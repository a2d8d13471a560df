"""Outcomes of a release's pairs: which of two answers people call right, in order of arrival. Pure.

They come up to the first text that still waits for a label: which texts people happen to label first decides nothing.
"""

from collections.abc import Sequence
from typing import NamedTuple

from monitoring.release.asked_texts import ReleaseLabels
from monitoring.release.copied_texts import CopiedText
from monitoring.release.verdicts.shadow import EQUAL, GAINED, LOST, NEITHER
from pipeline.data.records import normalise_label


class NewOutcomes(NamedTuple):
    """Outcomes since the last look, as `update_shadow` takes them, and how many texts are behind them."""

    outcomes: list[int]
    texts: int


def new_outcomes(texts: Sequence[CopiedText], position: int, said: ReleaseLabels) -> NewOutcomes:
    """Return the outcomes of the texts from `position` on; a text that people have given up counts as nothing.

    A differing text that the log does not keep waits for a caller's label: nobody can be asked, and nothing may be assumed.
    """
    outcomes: list[int] = []
    passed = 0
    for text in texts[position:]:
        label = said.labels.get(text.prediction_id)
        if not text.differs:
            outcomes.append(EQUAL)
        elif label is not None:
            outcomes.append(outcome_of(text, label))
        elif not (text.text and said.is_given_up(text.prediction_id)):
            break
        passed += 1
    return NewOutcomes(outcomes, passed)


def outcome_of(text: CopiedText, label: str) -> int:
    """Return what a label says about two different answers.

    >>> outcome_of(CopiedText("id", 0.0, "text", "hash", "refund", "late_parcel"), "Late parcel") == GAINED
    True
    """
    right = normalise_label(label)
    if right == normalise_label(text.other_label):
        return GAINED
    return LOST if right == normalise_label(text.label) else NEITHER
