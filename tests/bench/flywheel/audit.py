"""Measure the label audit: planted wrong labels found, and accuracy without suspects or with corrected ones."""

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from monitoring.flywheel.label_audit import LabelSuspicion, audit_labels
from pipeline.params import Params
from tests.bench.drift.embedded import load
from tests.bench.flywheel.rows import mean_interval
from tests.bench.flywheel.worlds import Corpus, Floats, Indices, any_other, probabilities
from tests.bench.report import Row

FOLDS, ROWS, PLANTED, TEST_SHARE = 5, 5000, 0.05, 0.3


class AuditResult(NamedTuple):
    """One seed on one corpus: accuracies on the test rows in points, and how planted wrong labels were found."""

    corpus: str
    seed: int
    rows: int
    suspects: int
    accuracy: float
    without_suspects: float
    without_random: float  # as many rows, any
    corrected: float  # suspects get the label that is more likely
    precision: float  # of suspects in labels of which 5 % are planted: planted ones
    worst_precision: float  # as above, of as many of the most suspect rows as were planted
    recall: float  # of planted ones: suspects
    planted: float  # accuracy with the planted labels
    planted_dropped: float
    planted_corrected: float


class Side(NamedTuple):
    """Rows to learn from, and test rows."""

    embedding: Floats
    labels: Indices
    test: Floats
    test_labels: Indices


def measure(corpus: Corpus, desk: Path, params: Params, cache: Path, seeds: int, pool: Executor) -> list[AuditResult]:
    """Audit samples of both corpora."""
    banking = Side(corpus.embedding, corpus.truth, corpus.test_embedding, corpus.test_truth)
    texts = load(desk, params.model, cache)
    labels = np.unique(texts.label, return_inverse=True)[1]
    whole = Side(texts.embedding, labels.astype(np.int64), texts.embedding[:0], labels[:0].astype(np.int64))
    runs = [pool.submit(_audit, "banking77", banking, seed) for seed in range(seeds)]
    runs += [pool.submit(_audit, "support desk", whole, seed) for seed in range(seeds)]
    return [run.result() for run in runs]


def _audit(name: str, side: Side, seed: int) -> AuditResult:
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(side.labels))
    if not len(side.test_labels):
        held, order = order[: round(TEST_SHARE * len(order))], order[round(TEST_SHARE * len(order)) :]
        side = side._replace(test=side.embedding[held], test_labels=side.labels[held])
    rows = order[:ROWS]
    embedding, labels = side.embedding[rows], side.labels[rows]
    classes = int(max(labels.max(), side.test_labels.max())) + 1

    def fit(some: Floats, given: Indices, asked: Floats) -> Floats:
        return probabilities(some, given, (asked,), classes)[0]

    score = partial(_accuracy, side, classes)

    suspects = audit_labels(embedding, labels, fit, FOLDS, rng)
    at = np.array([suspect.row for suspect in suspects], dtype=np.int64)
    any_rows = rng.choice(len(labels), len(at), replace=False)
    planted = rng.choice(len(labels), round(PLANTED * len(labels)), replace=False)
    spoilt = labels.copy()
    spoilt[planted] = any_other(labels[planted], classes, rng)
    found = audit_labels(embedding, spoilt, fit, FOLDS, rng)
    found_at = np.array([suspect.row for suspect in found], dtype=np.int64)
    return AuditResult(
        name, seed, len(labels), len(at),
        accuracy=score(embedding, labels),
        without_suspects=score(np.delete(embedding, at, axis=0), np.delete(labels, at)),
        without_random=score(np.delete(embedding, any_rows, axis=0), np.delete(labels, any_rows)),
        corrected=score(embedding, _corrected(labels, suspects)),
        precision=float(np.isin(found_at, planted).mean()),
        worst_precision=float(np.isin(found_at[: len(planted)], planted).mean()),
        recall=float(np.isin(planted, found_at).mean()),
        planted=score(embedding, spoilt),
        planted_dropped=score(np.delete(embedding, found_at, axis=0), np.delete(spoilt, found_at)),
        planted_corrected=score(embedding, _corrected(spoilt, found)),
    )  # fmt: skip


def _corrected(labels: Indices, suspects: Sequence[LabelSuspicion]) -> Indices:
    corrected = labels.copy()
    for suspect in suspects:
        corrected[suspect.row] = suspect.likely
    return corrected


def _accuracy(side: Side, classes: int, embedding: Floats, labels: Indices) -> float:
    """Return the accuracy on the test rows, in points."""
    (predicted,) = probabilities(embedding, labels, (side.test,), classes)
    return 100 * float((predicted.argmax(axis=1) == side.test_labels).mean())


def to_rows(results: Sequence[AuditResult]) -> list[Row]:
    """Return a row for each corpus."""
    rows = []
    for name in dict.fromkeys(result.corpus for result in results):
        of_corpus = [result for result in results if result.corpus == name]

        def mean(read: Callable[[AuditResult], float], of_corpus: Sequence[AuditResult] = of_corpus) -> str:
            return "{:.2f} [{:.2f}, {:.2f}]".format(*mean_interval(np.array([read(result) for result in of_corpus])))

        what = (
            f"{name}: {mean(lambda r: 100 * r.suspects / r.rows)} % suspect; points by dropping them"
            f" {mean(lambda r: r.without_suspects - r.accuracy)}, random rows {mean(lambda r: r.without_random - r.accuracy)},"
            f" correcting {mean(lambda r: r.corrected - r.accuracy)}"
        )
        drop = float(np.mean([result.without_suspects - result.without_random for result in of_corpus]))
        rows.append(Row("audit", what, drop, "points", "as many random rows", 0.0, None, len(of_corpus)))
        what = (
            f"{name}, 5 % planted: precision {mean(lambda r: r.precision)} ({mean(lambda r: r.worst_precision)} of the worst);"
            f" accuracy {mean(lambda r: r.planted)}, dropped {mean(lambda r: r.planted_dropped - r.planted)},"
            f" corrected {mean(lambda r: r.planted_corrected - r.planted)}"
        )
        recall = 100 * float(np.mean([result.recall for result in of_corpus]))
        rows.append(Row("audit", what, recall, "% found", "", None, None, len(of_corpus)))
    return rows
