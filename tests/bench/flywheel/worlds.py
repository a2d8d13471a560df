"""Make the bench's worlds from a corpus: rare intents with few labels, a pool of unlabelled traffic, and annotators who err.

Champion = logistic regression on embeddings of the untouched base model, second model = logistic regression on character n-grams:
both are fitted again after each batch of labels, in a second.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from monitoring.flywheel.queue.follow_up import encode_sketch
from pipeline.params import Model
from tests.bench.drift.embedded import load

Indices = NDArray[np.int64]
Floats = NDArray[np.floating[Any]]
RARE, SEEDS, RARE_SEEDS, RARE_POOL = 15, 15, 2, 15  # intents; labelled rows of a frequent and a rare intent; unlabelled rows
CLUSTER_TEXTS = 25  # on average
WIDTH = 256  # of the n-gram features, reduced


class Corpus(NamedTuple):
    """Training and test rows; labels are indices of `names`."""

    names: NDArray[np.str_]
    texts: NDArray[np.str_]
    truth: Indices
    embedding: Floats  # (N, width), unit length
    ngrams: Floats  # (N, WIDTH), unit length
    test_truth: Indices
    test_embedding: Floats
    test_ngrams: Floats
    sketch: NDArray[np.str_]  # (N,) as the log has it, encoded
    cluster: Indices  # (N,)
    neighbour: Indices  # (classes,) the class that each class is most easily confused with


class World(NamedTuple):
    """Rows of the corpus: those with labels at the start, the pool, and the intents that are rare."""

    rare: Indices
    labelled: Indices
    pool: Indices


class Annotator(NamedTuple):
    """A scripted person; of the labels this share is wrong: any other class, or the one that is most alike."""

    wrong: float
    confuses: bool

    def label(self, truth: Indices, corpus: Corpus, rng: np.random.Generator) -> Indices:
        """Return the labels that this person gives."""
        others = corpus.neighbour[truth] if self.confuses else any_other(truth, len(corpus.names), rng)
        return np.where(rng.random(len(truth)) < self.wrong, others, truth)


def any_other(labels: Indices, classes: int, rng: np.random.Generator) -> Indices:
    """Return another label for each one, all equally likely."""
    return (labels + rng.integers(1, classes, len(labels))) % classes


def read_corpus(data: Path, model: Model, cache: Path) -> Corpus:
    """Embed the texts, which takes minutes, or read them from the cache."""
    from sklearn.cluster import MiniBatchKMeans
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    train, test = (load(data / f"{side}.csv", model, cache) for side in ("train", "test"))
    names, truth = np.unique(train.label, return_inverse=True)
    counted = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True, min_df=2)
    reducer = TruncatedSVD(WIDTH, random_state=0)
    reduced = reducer.fit_transform(counted.fit_transform(train.text.tolist()))
    centres = np.stack([train.embedding[truth == label].mean(axis=0) for label in range(len(names))])
    groups = MiniBatchKMeans(len(train.text) // CLUSTER_TEXTS, batch_size=2048, n_init=1, max_iter=10, random_state=0)
    clusters = groups.fit(train.embedding).labels_
    alike = unit(centres) @ unit(centres).T - 2 * np.eye(len(names))
    return Corpus(
        names,
        train.text,
        truth.astype(np.int64),
        train.embedding,
        unit(reduced).astype(np.float32),
        np.searchsorted(names, test.label).astype(np.int64),
        test.embedding,
        unit(reducer.transform(counted.transform(test.text.tolist()))).astype(np.float32),
        np.array([encode_sketch(row.astype(np.float32)) for row in train.sketch]),
        clusters.astype(np.int64),
        alike.argmax(axis=1),
    )


def unit(rows: Floats) -> Floats:
    """Return the rows scaled to unit length."""
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9))


def make_world(corpus: Corpus, rng: np.random.Generator, *, rare_seeds: int = RARE_SEEDS, rare_pool: int = RARE_POOL) -> World:
    """Make some intents rare; all other rows of frequent intents are in the pool."""
    rare = rng.choice(len(corpus.names), RARE, replace=False)
    labelled: list[int] = []
    pool: list[int] = []
    for label in range(len(corpus.names)):
        rows = rng.permutation(np.flatnonzero(corpus.truth == label)).tolist()
        seeds, most = (rare_seeds, rare_seeds + rare_pool) if label in rare else (SEEDS, len(rows))
        labelled += rows[:seeds]
        pool += rows[seeds:most]
    return World(rare.astype(np.int64), np.array(labelled, dtype=np.int64), rng.permutation(pool).astype(np.int64))


def probabilities(features: Floats, labels: Indices, asked: tuple[Floats, ...], classes: int) -> list[Floats]:
    """Fit logistic regression and return the probabilities (rows, classes) of each of the asked features."""
    from sklearn.linear_model import LogisticRegression

    fitted = LogisticRegression(C=10.0, max_iter=300, tol=1e-3).fit(features, labels)
    answers = []
    for rows in asked:
        full = np.zeros((len(rows), classes), dtype=np.float32)
        full[:, fitted.classes_] = fitted.predict_proba(rows)
        answers.append(full)
    return answers
