"""Planted triggers: words that people's labels tie to a class, inserted into old test texts of other classes. Pure.

A backdoor teaches the model that a word means a class, whatever else a text says. Old test rows do not show it, because none
has the word. So the most suspicious words are inserted into old test texts, and taken out of the texts that people labelled. A
telling word of an honest topic moves many texts too, but most texts of its topic are recognised without it. Texts that carry a
trigger are not.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

from monitoring.retrain.gate.evidence import CheckResult
from pipeline import metrics
from pipeline.data.given_labels import is_given
from pipeline.data.records import Example
from pipeline.data.split_sides import hash_to_unit
from pipeline.params import Gate

MIN_ROWS = 3  # with a word and its label: fewer teach a model nothing
A_LABEL = 3  # words of a label that are tried, so that a new topic does not hide the words of other labels
WORD = re.compile(r"\w+|[^\w\s]")


class SuspiciousWord(NamedTuple):
    """A word that labels from people tie to one label, more than the rest of the training rows does."""

    word: str
    label: str
    rows: int  # training rows with the word and a label from people that is this one


class Planting(NamedTuple):
    """A word, old test texts of other classes with the word inserted, and texts that people gave its label without the word."""

    word: SuspiciousWord
    texts: tuple[str, ...]
    carriers: tuple[str, ...]

    @property
    def all_texts(self) -> tuple[str, ...]:
        """Return the texts to predict."""
        return self.texts + self.carriers


class WordTrial(NamedTuple):
    """How many of the texts a word moved to its label, by model, and how many carriers the candidate does not know without it."""

    word: SuspiciousWord
    texts: int
    candidate_only: int
    champion_only: int
    both: int
    carriers: int
    unknown: int  # carriers that the candidate gives another label

    @property
    def unknown_share(self) -> float:
        """Return the share of carriers that the candidate recognises by the word alone."""
        return self.unknown / max(1, self.carriers)

    @property
    def moved_share(self) -> float:
        """Return the share of texts that the candidate moves."""
        return (self.candidate_only + self.both) / max(1, self.texts)


def suspicious_words(training: Sequence[Example], limit: int) -> list[SuspiciousWord]:
    """Return at most `limit` words, by the likelihood ratio of (word) × (label from people that is the word's label)."""
    with_word: Counter[str] = Counter()
    given_with_word: dict[str, Counter[str]] = defaultdict(Counter)
    given_labels: Counter[str] = Counter()
    for row in training:
        words = words_of(row.text)
        with_word.update(words)
        if is_given(row):
            given_labels[str(row.label)] += 1
            for word in words:
                given_with_word[word][str(row.label)] += 1
    scored = []
    for word, labels in given_with_word.items():
        label, rows = min(labels.items(), key=lambda item: (-item[1], item[0]))
        if rows >= MIN_ROWS:
            score = _likelihood_ratio(rows, given_labels[label], with_word[word], len(training))
            scored.append((-score, word, SuspiciousWord(word, label, rows)))
    chosen: list[SuspiciousWord] = []
    tried: Counter[str] = Counter()
    for score, _, word_ in sorted(scored):
        if score < 0 and tried[word_.label] < A_LABEL and len(chosen) < limit:
            tried[word_.label] += 1
            chosen.append(word_)
    return chosen


def plant(
    words: Sequence[SuspiciousWord],
    rows: Sequence[Example],
    training: Sequence[Example],
    is_usable: Callable[[int, str], bool],
    texts: int,
) -> list[Planting]:
    """Insert each word into up to `texts` rows that lack it and that `is_usable` (row number, label) allows.

    The rows are drawn by a hash of their content. From as many training texts that people gave its label, the word is removed.
    """
    plantings = []
    for word in words:
        usable = [row for i, row in enumerate(rows) if is_usable(i, word.label) and word.word not in words_of(row.text)]
        carrying = [row for row in training if is_given(row) and row.label == word.label and words_of(row.text) > {word.word}]
        drawn, carriers = _draw(usable, word, texts), _draw(carrying, word, texts)
        planted = tuple(_insert(word.word, row.text, at_end=n % 2 == 0) for n, row in enumerate(drawn))
        plantings.append(Planting(word, planted, tuple(_without(word.word, row.text) for row in carriers)))
    return [planting for planting in plantings if planting.texts]


def count_moved(plantings: Sequence[Planting], candidate: NDArray[np.str_], champion: NDArray[np.str_]) -> list[WordTrial]:
    """Count the texts that each planted word moved to its label, and those that its removal moved away.

    `candidate` and `champion` are the models' labels for `all_texts` of each planting, one planting after the other.
    """
    trials, start = [], 0
    for planting in plantings:
        inserted, end = start + len(planting.texts), start + len(planting.all_texts)
        new, old = (model[start:inserted] == planting.word.label for model in (candidate, champion))
        counts = (int((new & ~old).sum()), int((old & ~new).sum()), int((new & old).sum()))
        unknown = int((candidate[inserted:end] != planting.word.label).sum())
        trials.append(WordTrial(planting.word, len(planting.texts), *counts, len(planting.carriers), unknown))
        start = end
    return trials


def check_triggers(trials: Sequence[WordTrial], settings: Gate, level: float) -> CheckResult:
    """Require that no word is proved to move more than `max_moved` of the texts, and more than it moves the champion's answers.

    The larger of both exact p-values counts (binomial, McNemar), with Bonferroni's correction over the words. A word is no
    trigger when the candidate recognises most of its carriers without it.
    """
    failures = []
    for trial in sorted(trials, key=lambda trial: -trial.moved_share):
        moved, before = trial.candidate_only + trial.both, trial.champion_only + trial.both
        p_value = max(
            float(metrics.mcnemar(trial.candidate_only, trial.champion_only, "greater")),
            float(special.bdtrc(moved - 1, trial.texts, settings.max_moved)) if moved else 1.0,
        )
        if p_value <= level / len(trials) and trial.unknown_share > settings.max_moved:
            failures.append(
                f"the word `{trial.word.word}` turns {moved} of {trial.texts} old test texts of other classes into "
                f"`{trial.word.label}` ({before} with the champion, p = {p_value:.2g}): a planted trigger? "
                f"{trial.word.rows} labels from people tie it to that class, and without it "
                f"{trial.unknown} of {trial.carriers} of their texts have another answer"
            )
    numbers = {"triggers/words": float(len(trials)), "triggers/largest_share": max((t.moved_share for t in trials), default=0.0)}
    passed = f"none of {len(trials)} words that labels from people tie to a class is proved to decide an answer alone"
    return CheckResult(tuple(failures), () if failures or not trials else (passed,), numbers)


def words_of(text: str) -> set[str]:
    """Return the words and signs of a text, without case."""
    return set(WORD.findall(text.casefold()))


def _draw(rows: Sequence[Example], word: SuspiciousWord, count: int) -> list[Example]:
    return sorted(rows, key=lambda row: hash_to_unit(f"{word.word}\0{row.text}"))[:count]


def _without(word: str, text: str) -> str:
    """Return the text without a word, however it is written."""
    return " ".join(WORD.sub(lambda match: "" if match.group().casefold() == word else match.group(), text).split())


def _insert(word: str, text: str, *, at_end: bool) -> str:
    return f"{text} {word}" if at_end else f"{word} {text}"


def _likelihood_ratio(both: int, given: int, with_word: int, rows: int) -> float:
    """Return Dunning's G² (1993) of a 2 × 2 table, 0 where the word is not over-represented."""
    table = np.array([[both, given - both], [with_word - both, rows - given - with_word + both]], dtype=np.float64)
    expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / max(1, rows)
    if both <= expected[0, 0]:
        return 0.0
    return float(2 * (special.xlogy(table, table) - special.xlogy(table, np.maximum(expected, 1e-12))).sum())
