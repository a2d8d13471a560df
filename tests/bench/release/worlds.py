"""Make versions that are worse by a known amount: a champion's answers on Banking77's test texts, with planted differences.

Champion = a linear support vector machine on words and pairs of words, fitted on the training texts.
"""

import csv
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from monitoring.release.verdicts.planner import outcome_shares
from monitoring.release.verdicts.shadow import EQUAL, GAINED, LOST, NEITHER

Outcomes = NDArray[np.int64]
Flags = NDArray[np.bool_]

LARGE_LOSS = 0.05  # from here on versions that differ by noise differ on half as many texts again


class Corpus(NamedTuple):
    """Texts to replay: which class each belongs to, and whether the champion is right."""

    truth: NDArray[np.int64]
    is_right: Flags


class Case(NamedTuple):
    """A challenger: how its answers differ from the champion's, and the accuracy that it loses."""

    kind: str
    lost: float  # of accuracy, 0..1
    disagreement: float  # of texts; of lost classes, what is lost comes on top


def read_corpus(folder: Path) -> Corpus:
    """Fit the champion, which takes some seconds, and let it answer the test texts."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.svm import LinearSVC

    sides = [_read(folder / f"{side}.csv") for side in ("train", "test")]
    names = {name: number for number, name in enumerate(sorted({name for _, name in sides[0]}))}
    texts, truth = ([text for text, _ in side] for side in sides), [np.array([names[name] for _, name in side]) for side in sides]
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2)
    train, test = next(texts), next(texts)
    champion = LinearSVC(C=0.5, random_state=0).fit(words.fit_transform(train), truth[0])
    return Corpus(truth[1], champion.predict(words.transform(test)) == truth[1])


def plant(corpus: Corpus, case: Case, rng: np.random.Generator) -> Outcomes:
    """Return the outcome of each text (N,): who is right. What the challenger loses is exact to half a text."""
    if case.kind == "identical":
        return np.full(len(corpus.truth), EQUAL)
    if case.kind == "lost classes":
        return _lose_classes(corpus, case, rng)
    widened = case.disagreement * (1.5 if case.lost >= LARGE_LOSS else 1.0)
    return _differ(corpus, outcome_shares(widened, case.lost), rng)


def _differ(corpus: Corpus, shares: tuple[float, float, float], rng: np.random.Generator) -> Outcomes:
    """Change answers at random: right ones become wrong, wrong ones right or otherwise wrong."""
    outcomes = np.full(len(corpus.truth), EQUAL)
    gained, lost, neither = (round(share * len(outcomes)) for share in shares)
    right, wrong = (rng.permutation(np.flatnonzero(corpus.is_right == flag)) for flag in (True, False))
    outcomes[right[:lost]] = LOST
    outcomes[wrong[:gained]] = GAINED
    outcomes[wrong[gained : gained + neither]] = NEITHER
    return outcomes


def _lose_classes(corpus: Corpus, case: Case, rng: np.random.Generator) -> Outcomes:
    """Lose whole classes, the last of them in part, beside differences that cost nothing; an equally good one gains elsewhere."""
    outcomes = _differ(corpus, outcome_shares(case.disagreement, 0.0), rng)
    order = rng.permutation(int(corpus.truth.max()) + 1)
    place = np.argsort(order)[corpus.truth]  # of each text's class
    known = np.flatnonzero(corpus.is_right & (outcomes == EQUAL))
    known = known[np.argsort(place[known], kind="stable")]
    if case.lost:
        outcomes[known[: round(case.lost * len(outcomes))]] = LOST
        return outcomes
    gone = known[place[known] == 0]
    outcomes[gone] = LOST
    wrong = rng.permutation(np.flatnonzero(~corpus.is_right & (outcomes == EQUAL)))
    outcomes[wrong[: len(gone)]] = GAINED
    return outcomes


def _read(path: Path) -> list[tuple[str, str]]:
    with path.open(newline="") as file:
        return [(row["text"], row["category"]) for row in csv.DictReader(file)]
