"""Measure verify mode: how many answers are sure, how many of these are right, and the labelling that confirming saves."""

from typing import NamedTuple

import numpy as np

from monitoring.detectors.wilson import wilson_interval
from monitoring.flywheel.queue.verify import is_sure
from pipeline.metrics import fit_temperature, softmax
from pipeline.params import Params
from tests.bench.flywheel.worlds import Corpus, probabilities
from tests.bench.report import Row

HELD_SHARE, Z = 0.1, 1.959964


class SureAnswers(NamedTuple):
    """Test rows, the sure ones, and the sure ones whose label is right; the same with the confidence alone."""

    rows: int
    sure: int
    right: int
    confident: int
    confident_right: int


def measure(corpus: Corpus, params: Params) -> SureAnswers:
    """Fit both models on nine tenths of the training rows, calibrate the champion on the rest, and answer the test rows."""
    held = np.random.default_rng(0).random(len(corpus.truth)) < HELD_SHARE
    rows, classes = ~held, len(corpus.names)
    on_held, on_test = probabilities(
        corpus.embedding[rows], corpus.truth[rows], (corpus.embedding[held], corpus.test_embedding), classes
    )
    logits = [np.log(np.maximum(some.astype(np.float64), 1e-12)) for some in (on_held, on_test)]
    calibrated = softmax(logits[1] / fit_temperature(logits[0], corpus.truth[held]).value)
    (second,) = probabilities(corpus.ngrams[rows], corpus.truth[rows], (corpus.test_ngrams,), classes)
    label, other, confidence = calibrated.argmax(axis=1), second.argmax(axis=1), calibrated.max(axis=1)
    sure = np.array(
        [is_sure(str(a), str(b), float(p), (), params.flywheel) for a, b, p in zip(label, other, confidence, strict=True)]
    )
    is_right, confident = label == corpus.test_truth, confidence >= params.flywheel.sure
    return SureAnswers(
        len(label), int(sure.sum()), int(is_right[sure].sum()), int(confident.sum()), int(is_right[confident].sum())
    )


def to_row(result: SureAnswers) -> Row:
    """Return the row: right among the sure answers, beside right among the confident ones."""
    interval = wilson_interval(result.right, result.sure, Z)
    what = (
        f"{result.sure} of {result.rows} answers ({result.sure / result.rows:.0%}) are sure: a key press each;"
        f" right [{100 * interval.lower:.1f}, {100 * interval.upper:.1f}] %"
    )
    alone = 100 * result.confident_right / max(1, result.confident)
    control = f"the confidence alone ({result.confident} answers)"
    return Row("sure", what, 100 * result.right / max(1, result.sure), "% right", control, alone, None, result.sure)
