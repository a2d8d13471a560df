"""Ranks clusters: excess disagreement × volume × rarity. Pure."""

from collections.abc import Mapping, Sequence
from math import log

from monitoring.flywheel.queue.round import NOVELTY, LabelCandidate

PRIOR_TEXTS = 10  # a cluster with fewer compared texts is ranked near the disagreement over all
LEAST = 0.01  # of the excess: low margins and novel texts are worth labels too


def rank_score(
    members: Sequence[LabelCandidate],
    differing: int,
    compared: int,
    over_all: float,
    chance: float,
    labels: Mapping[str, int],
    few: int,
) -> float:
    """Return the product of three factors.

    Excess disagreement: the share of compared texts on which the two models differ, drawn towards the share over all clusters as
    if ten more texts had it, less the share on which the champion differs from itself; at least 0.01.
    Volume: candidates, each counted 1 + log(its repeats), because a thousand copies of one text are one case.
    Rarity, 0..1: the mean over candidates of few / max(few, labels of the class that the champion chose), or 1 for a novel text.

    Parameters
        differing, compared: answers near the cluster, candidates or not.
        over_all, chance: share that differs over all compared answers, and of the champion with itself.
        labels: number of labelled texts by class.
        few: up to this many labels a class is as rare as can be.
    """
    excess = (differing + PRIOR_TEXTS * over_all) / (compared + PRIOR_TEXTS) - chance
    volume = sum(1 + log(row.repeats) for row in members)
    rarity = sum(1.0 if NOVELTY in row.reasons else few / max(few, labels.get(row.label, 0)) for row in members) / len(members)
    return max(LEAST, excess) * volume * rarity
