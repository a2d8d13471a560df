"""Finds near-duplicates exactly: pairs of texts whose Jaccard similarity of word 3-grams is above a threshold."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from math import ceil
from typing import NamedTuple

from pipeline.runtime.text import fold

Gram = tuple[str, ...]


class Pair(NamedTuple):
    """Indices of two texts (first < second) and their similarity."""

    first: int
    second: int
    jaccard: float


def word_3grams(text: str) -> frozenset[Gram]:
    """Return the set of word 3-grams of the folded text; a text of fewer words is one gram."""
    words = fold(text).split()
    return frozenset(tuple(words[i : i + 3]) for i in range(max(1, len(words) - 2)))


class NearTexts:
    """Texts among which near-duplicates of a text are looked up; texts may be added.

    Prefix filter (Chaudhuri et al. 2006): two sets above the threshold share one of their rarest
    |S| - ceil(threshold |S|) + 1 elements, so only texts that share one are compared. Rare is what the first texts use little.
    """

    def __init__(self, texts: Iterable[str], threshold: float, usage: Iterable[str] | None = None) -> None:
        """Hold the texts; `usage` are the texts in which grams are counted, by default the same."""
        self._threshold = threshold
        self._grams: list[frozenset[Gram]] = []
        self._postings: dict[Gram, list[tuple[int, int, int]]] = defaultdict(list)
        first = list(texts)
        self._frequency = Counter(gram for text in (first if usage is None else usage) for gram in word_3grams(text))
        for text in first:
            self.add(text)

    def add(self, text: str) -> None:
        """Hold one more text."""
        grams = word_3grams(text)
        for position, gram in enumerate(self._rarest(grams)):
            self._postings[gram].append((len(self._grams), len(grams), position))
        self._grams.append(grams)

    def matches(self, text: str) -> list[tuple[int, float]]:
        """Return the index and the similarity of each text held that is above the threshold, by index."""
        grams = word_3grams(text)
        shared = sorted(self._sharing(grams))
        compared = ((index, len(grams & self._grams[index]) / len(grams | self._grams[index])) for index in shared)
        return [(index, jaccard) for index, jaccard in compared if jaccard > self._threshold]

    def _sharing(self, grams: frozenset[Gram]) -> set[int]:
        """Return the texts that can be above the threshold, going by the places of a shared gram (positional filter, Xiao 2008).

        The first shared gram in the order of rarity bounds what two sets have in common by the shorter rest from there.
        """
        share, size = self._threshold / (1 + self._threshold), len(grams)
        return {
            index
            for position, gram in enumerate(self._rarest(grams))
            for index, other_size, other in self._postings.get(gram, ())
            if min(size - position, other_size - other) >= share * (size + other_size)
        }

    def _rarest(self, grams: frozenset[Gram]) -> list[Gram]:
        kept = len(grams) - ceil(self._threshold * len(grams)) + 1
        return sorted(grams, key=lambda gram: (self._frequency[gram], gram))[:kept]


def find_near_duplicates(texts: list[str], threshold: float) -> list[Pair]:
    """Return every pair with Jaccard > threshold."""
    held = NearTexts((), threshold, usage=texts)
    pairs = []
    for index, text in enumerate(texts):
        pairs += [Pair(first, index, jaccard) for first, jaccard in held.matches(text)]
        held.add(text)
    return pairs


def near_pairs_across(texts: list[str], border: int, jaccard: float) -> list[Pair]:
    """Return the near-duplicates whose first text is before index `border` and whose second is at or after it."""
    return [pair for pair in find_near_duplicates(texts, jaccard) if pair.first < border <= pair.second]
