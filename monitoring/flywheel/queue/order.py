"""The order of the queue: texts of classes with few labels first, then those between which the champion hesitates. Pure.

A rare-aware committee: champion and second model vote, and a text belongs to the voted class with the fewest labels. The largest
disagreement alone finds fewer rare texts than the margin does; docs/flywheel.md has the comparison.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from monitoring.flywheel.queue.round import LabelCandidate
from pipeline.data.near_duplicates import NearTexts
from pipeline.params import Flywheel

Indices = NDArray[np.int64]


def order_queue(
    candidates: Sequence[LabelCandidate],
    label_counts: Mapping[str, int],
    settings: Flywheel,
    near_duplicate_jaccard: float,
    rng: np.random.Generator,
) -> Indices:
    """Return every candidate's index, the text to label first at the front; `label_counts` are labelled texts by class.

    Equal keys are in random order. A text that nearly equals one of the last `settings.budget` texts comes at the end.
    """
    by_margin = _by_margin(candidates, rng)
    rare = _rare_first(candidates, by_margin, label_counts, settings.few_labels)
    taken = set(rare)
    order = rare + [index for index in _spread(candidates, by_margin) if index not in taken]
    return np.array(_repeats_last(candidates, order, settings.budget, near_duplicate_jaccard), dtype=np.int64)


def voted_labels(candidate: LabelCandidate) -> tuple[str, ...]:
    """Return the labels that the committee gives a text: the champion's two most probable ones, and the second model's."""
    return tuple(label for label in (candidate.label, candidate.runner_up, candidate.second_label) if label is not None)


def _by_margin(candidates: Sequence[LabelCandidate], rng: np.random.Generator) -> list[int]:
    """Return the indices by margin, the smallest first."""
    shuffled = rng.permutation(len(candidates))
    margins = np.array([candidates[index].margin for index in shuffled])
    return [int(index) for index in shuffled[np.argsort(margins, kind="stable")]]


def _rare_first(
    candidates: Sequence[LabelCandidate], by_margin: Sequence[int], label_counts: Mapping[str, int], few_labels: int
) -> list[int]:
    """Return texts of classes with few labels: always the next of the class that has fewest, these texts counted as labels."""
    groups: dict[str, list[int]] = defaultdict(list)
    for index in reversed(by_margin):  # the smallest margin is at the end
        voted = min(voted_labels(candidates[index]), key=lambda label: (label_counts.get(label, 0), label))
        if label_counts.get(voted, 0) < few_labels:
            groups[voted].append(index)
    counts = Counter({label: label_counts.get(label, 0) for label in groups})
    order: list[int] = []
    while groups:
        label = min(groups, key=lambda name: (counts[name], name))
        if counts[label] >= few_labels:
            break
        order.append(groups[label].pop())
        counts[label] += 1
        if not groups[label]:
            del groups[label]
    return order


def _spread(candidates: Sequence[LabelCandidate], by_margin: Sequence[int]) -> list[int]:
    """Return the indices with the clusters in turn: the first of each cluster, then the second of each."""
    turns: Counter[int] = Counter()
    placed = []
    for place, index in enumerate(by_margin):
        cluster = candidates[index].cluster
        placed.append((turns[cluster], place, index))
        turns[cluster] += 1
    return [index for _turn, _place, index in sorted(placed)]


def _repeats_last(candidates: Sequence[LabelCandidate], order: Sequence[int], budget: int, jaccard: float) -> list[int]:
    """Move near-duplicates of the texts before them to the end, until a turn is full."""
    asked = NearTexts((), jaccard)
    fresh: list[int] = []
    repeats: list[int] = []
    for position, index in enumerate(order):
        if len(fresh) == budget:
            return [*fresh, *order[position:], *repeats]
        if asked.matches(candidates[index].text):
            repeats.append(index)
        else:
            asked.add(candidates[index].text)
            fresh.append(index)
    return [*fresh, *repeats]
