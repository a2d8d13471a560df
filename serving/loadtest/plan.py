"""Draw texts and send times of a run from a seed, before its clock starts."""

from collections import Counter
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InputError
from pipeline.runtime.text import fold

MAX_REQUESTS = 1_000_000  # all are in memory, about 600 bytes each
HOT_TEXTS = 1000  # repeats are drawn from the first texts of a run
ENDINGS = 1024
LONGEST_ENDING = 8  # letters: frequent short words are one piece each to any tokenizer


class Load(NamedTuple):
    """The load on a target. The same seed gives the same times and texts, which a cache may know from an earlier run."""

    rate_per_s: float
    duration_s: float
    arrivals: Literal["poisson", "constant"]
    repeat_share: float  # of requests whose text was sent before: the hit rate of an unlimited cache
    zipf_s: float  # exponent of Zipf's law for repeats; 0: uniform
    seed: int
    timeout_s: float  # from the intended send time
    connections: int  # at most; further requests wait while their clocks run


class Plan(NamedTuple):
    """N requests in order of time."""

    at_s: NDArray[np.float64]  # (N,) intended send times after the start
    texts: list[str]
    repeats: NDArray[np.bool_]  # (N,) whether the text was sent before


class Corpus(NamedTuple):
    """Texts without their last word, and words to end a text with: a stem and two endings make a new text."""

    stems: list[str]
    endings: list[str]


def make_plan(texts: Sequence[str], load: Load) -> Plan:
    """Return times and texts of a run; raises `InputError` for a load that cannot be sent."""
    _check(load)
    times, choices = (np.random.default_rng([load.seed, stream]) for stream in (0, 1))
    at_s = _arrivals(load, times)
    numbers, repeats = _choose(len(at_s), load, choices)
    fresh = fresh_texts(make_corpus(texts), int(numbers.max()) + 1, choices)
    return Plan(at_s, [fresh[number] for number in numbers], repeats)


def make_corpus(texts: Sequence[str]) -> Corpus:
    """Return stems that differ even without case and punctuation, so that no cache confuses two texts."""
    counts: Counter[str] = Counter()
    stems: dict[str, str] = {}
    for text in texts:
        counts.update(word for word in fold(text).split() if len(word) <= LONGEST_ENDING and word.isalnum())
        stem = text.rsplit(maxsplit=1)[0] if len(text.split()) > 1 else text
        stems.setdefault(fold(f"{stem} x"), stem)
    if not stems:
        raise InputError("texts", "there are none", "give the load test a file with texts")
    frequent = [word for word, _ in counts.most_common(ENDINGS)]
    numbers = (str(number) for number in range(2 * ENDINGS))
    return Corpus(list(stems.values()), list(dict.fromkeys([*frequent, *numbers]))[:ENDINGS])


def fresh_texts(corpus: Corpus, count: int, rng: np.random.Generator) -> list[str]:
    """Return `count` different texts. Two words replace the last word of each, so lengths stay similar.

    Each round over the stems uses another pair of endings; another seed starts at another of the 1,048,576 pairs.
    """
    order = rng.permutation(len(corpus.stems))
    stems = [corpus.stems[i] for i in order]
    first = int(rng.integers(ENDINGS**2))
    texts: list[str] = []
    for turn in range(-(-count // len(stems))):
        left, right = divmod((first + turn) % ENDINGS**2, ENDINGS)
        tail = f" {corpus.endings[left]} {corpus.endings[right]}"
        texts += [stem + tail for stem in stems[: count - len(texts)]]
    return texts


def _check(load: Load) -> None:
    wrong = [
        f"{name} = {value}"
        for name, value, is_valid in (
            ("rate_per_s", load.rate_per_s, load.rate_per_s > 0),
            ("duration_s", load.duration_s, load.duration_s > 0),
            ("repeat_share", load.repeat_share, 0 <= load.repeat_share < 1),
            ("zipf_s", load.zipf_s, load.zipf_s >= 0),
            ("seed", load.seed, load.seed >= 0),
            ("timeout_s", load.timeout_s, load.timeout_s > 0),
            ("connections", load.connections, load.connections >= 1),
        )
        if not is_valid
    ]
    if wrong:
        raise InputError("load", f"invalid: {', '.join(wrong)}", "use rates, times and connections above 0, and shares below 1")
    if load.rate_per_s * load.duration_s > MAX_REQUESTS:
        raise InputError("load", f"more than {MAX_REQUESTS} requests in one run", "split it into runs with different seeds")


def _arrivals(load: Load, rng: np.random.Generator) -> NDArray[np.float64]:
    if load.arrivals == "constant":
        return np.arange(max(1, round(load.rate_per_s * load.duration_s))) / load.rate_per_s
    mean = load.rate_per_s * load.duration_s
    count = int(mean + 8 * np.sqrt(mean) + 16)  # eight standard deviations: always enough in practice
    at_s = np.cumsum(rng.exponential(1 / load.rate_per_s, count))
    within: NDArray[np.float64] = at_s[: max(1, int(np.searchsorted(at_s, load.duration_s)))]
    return within


def _choose(count: int, load: Load, rng: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return (N,) the number of each request's text, in order of first sending, and (N,) whether it is a repeat."""
    repeats = rng.random(count) < load.repeat_share
    repeats[0] = False
    sent = np.cumsum(~repeats)
    weights = np.cumsum(np.arange(1, HOT_TEXTS + 1) ** -float(load.zipf_s))
    hot = weights[np.minimum(sent, HOT_TEXTS) - 1]  # total weight of the hot texts sent so far
    ranks = np.searchsorted(weights, rng.random(count) * hot, side="right")
    return np.where(repeats, ranks, sent - 1), repeats
