"""Names clusters by their distinctive words: class-based TF-IDF (Grootendorst 2022, BERTopic, arXiv 2203.05794, equation 2)."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from math import log

from pipeline.runtime.text import fold

MAX_CHARS = 32  # of a word; longer ones are links, keys or noise
UNSPACED = re.compile(  # scripts that write words without spaces between them: Thai to Khmer, kana, Chinese characters
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]+"
)


def distinctive_words(texts: Sequence[str], clusters: Sequence[int], count: int) -> dict[int, tuple[str, ...]]:
    """Return at most `count` words of each cluster, the most distinctive ones first; a cluster without words has none.

    The weight of word t in cluster c is tf(t, c) · log(1 + A / f(t)), where f counts a word in all clusters and A is the mean
    number of words in a cluster. A word counts once in a text, so no text can name a cluster by repeating a word.

    >>> distinctive_words(["my card is lost", "card lost abroad", "my loan rate", "a loan"], [4, 4, 7, 7], 1)
    {4: ('card',), 7: ('loan',)}
    """
    counts: dict[int, Counter[str]] = {cluster: Counter() for cluster in sorted(set(clusters))}
    for text, cluster in zip(texts, clusters, strict=True):
        counts[cluster].update(set(words_of(text)))
    everywhere: Counter[str] = Counter()
    for words in counts.values():
        everywhere.update(words)
    mean = everywhere.total() / max(1, len(counts))
    return {cluster: _heaviest(words, everywhere, mean, count) for cluster, words in counts.items()}


def words_of(text: str) -> Iterator[str]:
    """Yield the words of the folded text; where words have no spaces between them, each pair of characters.

    >>> list(words_of("Card 12 挂失卡"))
    ['card', '挂失', '失卡']
    """
    for word in fold(text).split():
        rest = UNSPACED.sub(" ", word).split()
        yield from (part for part in rest if 1 < len(part) <= MAX_CHARS and not part.isdecimal())
        for run in UNSPACED.findall(word):
            yield from (run[i : i + 2] for i in range(max(1, len(run) - 1)))


def _heaviest(words: Counter[str], everywhere: Counter[str], mean: float, count: int) -> tuple[str, ...]:
    weight = {word: number * log(1 + mean / everywhere[word]) for word, number in words.items()}
    return tuple(sorted(weight, key=lambda word: (-weight[word], word))[:count])
