"""Finds near-duplicates exactly: pairs of texts whose Jaccard similarity of word 3-grams is above a threshold."""

from collections import Counter, defaultdict
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


def find_near_duplicates(texts: list[str], threshold: float) -> list[Pair]:
    """Return every pair with Jaccard > threshold.

    Prefix filter (Chaudhuri et al. 2006): two sets above the threshold share one of their rarest
    |S| - ceil(threshold |S|) + 1 elements, so only texts that share one are compared.
    """
    grams = [word_3grams(text) for text in texts]
    frequency = Counter(gram for text in grams for gram in text)
    postings: dict[Gram, list[int]] = defaultdict(list)
    pairs = []
    for index, text in enumerate(grams):
        rarest = sorted(text, key=lambda gram: (frequency[gram], gram))[: len(text) - ceil(threshold * len(text)) + 1]
        for other in sorted({i for gram in rarest for i in postings[gram]}):
            similarity = len(text & grams[other]) / len(text | grams[other])
            if similarity > threshold:
                pairs.append(Pair(other, index, similarity))
        for gram in rarest:
            postings[gram].append(index)
    return pairs


def near_pairs_across(texts: list[str], border: int, jaccard: float) -> list[Pair]:
    """Return the near-duplicates whose first text is before index `border` and whose second is at or after it."""
    return [pair for pair in find_near_duplicates(texts, jaccard) if pair.first < border <= pair.second]
