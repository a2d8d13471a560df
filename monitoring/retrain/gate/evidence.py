"""What the gate's checks work on: the test rows, the training labels that people gave, and predictions. Knows no check."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from monitoring.detectors.paired_test import Flags


class Predictions(NamedTuple):
    """One model's predictions for the N current test rows."""

    predicted: NDArray[np.str_]  # (N,)
    labels: tuple[str, ...]  # all that the model knows
    valid: Flags  # (N,) the probabilities are finite and sum to 1


class OverruledClass(NamedTuple):
    """Training rows of a class of the corpus, and how many of them people gave another label."""

    label: str
    rows: int
    overruled: int


class GateEvidence(NamedTuple):
    """The N current test rows, the training labels, and scores of the candidate that were measured elsewhere."""

    truth: NDArray[np.str_]  # (N,) today's labels
    measured: NDArray[np.str_]  # (N,) when the champion was measured; today's for new rows, and where it is not known
    is_new: Flags  # (N,) the row arrived after the champion was made
    is_settled: Flags  # (N,) a settled dispute changed the row's label
    unknown_labels: int  # old rows whose label at the champion's measurement is not known
    overruled: tuple[OverruledClass, ...]
    accuracy_evaluated: float  # from stage `evaluate`, before the model was exported and packaged
    accuracy_control: float  # of the frozen control on the same rows
    accuracy_of_seeds: tuple[float, ...]  # of the same recipe and rows with other seeds; usually empty


class CheckResult(NamedTuple):
    """A check's failures and passes as sentences, and its numbers."""

    failures: tuple[str, ...]
    passes: tuple[str, ...]
    numbers: dict[str, float]
