"""The shadow's verdict: is the challenger worse than the champion, or not worse by the margin, on the texts that both answer?

Only texts with different answers need a label, because equal answers cannot tell the models apart. Two one-sided e-processes read
the stream: one against "at least as good", one against "worse by the margin or more".
"""

from collections.abc import Mapping, Sequence
from math import log
from typing import Any, Literal, NamedTuple

import numpy as np

from monitoring.release.verdicts.bets import log_e_above, mean_interval
from pipeline.params import ReleaseSettings

EQUAL, GAINED, LOST, NEITHER = 0, 1, -1, 2  # outcomes
SHADOW_PART = 0.5  # of release.false_rollbacks; the guardrails have the rest
TOO_LOW = 0.5  # of the margin: an estimate that is lower when the labels are spent refuses the challenger
ShadowVerdict = Literal["worse", "not_worse", "undecided", "open"]


class PairedEvidence(NamedTuple):
    """The state of both e-processes; the empty evidence is `PairedEvidence()`."""

    pairs: int = 0
    differing: int = 0  # each with a label, or known to get none
    gained: int = 0  # only the challenger is right
    lost: int = 0  # only the champion is right
    top_worse: float = 0.0  # the highest log e so far
    top_not_worse: float = 0.0  # likewise, since there were release.min_pairs

    @property
    def estimate(self) -> float:
        """Return the challenger's accuracy minus the champion's, on the texts so far."""
        return (self.gained - self.lost) / max(self.pairs, 1)

    def to_json(self) -> dict[str, Any]:
        """Return the evidence as JSON stores it."""
        return self._asdict()

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "PairedEvidence":
        """Return the evidence that was stored; an empty mapping is the empty evidence."""
        return cls(**stored)


class ShadowThresholds(NamedTuple):
    """The log e at which each of the two is proved."""

    worse: float
    not_worse: float


def shadow_thresholds(settings: ReleaseSettings) -> ShadowThresholds:
    """Return what each e-process must reach."""
    return ShadowThresholds(-log(SHADOW_PART * settings.false_rollbacks), -log(settings.false_promotions))


def update_shadow(evidence: PairedEvidence, outcomes: Sequence[int], settings: ReleaseSettings) -> PairedEvidence:
    """Add the outcomes of texts that both have answered, in the order in which they came.

    Parameters
        outcomes: one for each text. EQUAL (0): the answers are equal. GAINED (1): only the challenger is right. LOST (−1): only
            the champion is right. NEITHER (2): the answers differ and both are wrong, or nobody can tell; it uses up a label.

    Raises `ValueError` for any other outcome.
    """
    values = np.asarray(outcomes, dtype=np.int64)
    if not len(values):
        return evidence
    if not np.isin(values, (EQUAL, GAINED, LOST, NEITHER)).all():
        raise ValueError(f"outcomes are 0, 1, -1 or 2: {sorted(set(values.tolist()))}")
    gained = evidence.gained + np.cumsum(values == GAINED, dtype=np.float64)
    lost = evidence.lost + np.cumsum(values == LOST, dtype=np.float64)
    pairs = evidence.pairs + np.arange(1, len(values) + 1, dtype=np.float64)
    equal = pairs - gained - lost
    worse = log_e_above(0.0, equal, lost, gained)
    not_worse = log_e_above(-settings.margin, equal, gained, lost)[pairs >= settings.min_pairs]
    return PairedEvidence(
        int(pairs[-1]),
        evidence.differing + int((values != EQUAL).sum()),
        int(gained[-1]),
        int(lost[-1]),
        max(evidence.top_worse, float(worse.max())),
        max(evidence.top_not_worse, float(not_worse.max(initial=0.0))),
    )


def judge_shadow(evidence: PairedEvidence, settings: ReleaseSettings) -> ShadowVerdict:
    """Return what the evidence says.

    worse: proved, or the labels are spent and the estimate is below −margin/2. not_worse: proved, after `min_pairs` texts.
    undecided: the labels are spent. open: more labels are needed.
    """
    needed = shadow_thresholds(settings)
    if evidence.top_worse >= needed.worse:
        return "worse"
    if evidence.top_not_worse >= needed.not_worse:
        return "not_worse"
    if evidence.differing < settings.labels:
        return "open"
    return "worse" if evidence.estimate < -TOO_LOW * settings.margin else "undecided"


def describe_shadow(evidence: PairedEvidence) -> dict[str, float]:
    """Return the evidence for pages: counts, both e-processes, and the difference of accuracies with its 95 % interval."""
    equal = evidence.pairs - evidence.gained - evidence.lost
    lower, upper = mean_interval(equal, evidence.gained, evidence.lost)
    return {
        "pairs": evidence.pairs,
        "differing": evidence.differing,
        "labelled": evidence.differing,
        "gained": evidence.gained,
        "lost": evidence.lost,
        "log_e_worse": evidence.top_worse,
        "log_e_not_worse": evidence.top_not_worse,
        "estimate": evidence.estimate,
        "lower": lower,
        "upper": upper,
    }
