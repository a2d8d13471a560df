"""What differs between tasks, behind one protocol: how two answers disagree and how sure an answer is. Knows no log.

The flywheel asks `FlywheelTask` and never which task it is. Classification implements it.
"""

from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]


class ModelAnswer(NamedTuple):
    """A model's answer to one text."""

    label: str
    probabilities: NDArray[np.float32]  # (classes,), calibrated, in the order of the model's own labels


class FlywheelTask(Protocol):
    """The questions about answers that depend on the task; numbers are 0..1."""

    def differ(self, first: ModelAnswer, second: ModelAnswer) -> bool:
        """Return whether the answers contradict each other."""
        ...

    def gap(self, first: ModelAnswer, second: ModelAnswer) -> float:
        """Return how much surer the surer of two answers is."""
        ...

    def margins(self, probabilities: Floats) -> Floats:
        """Return how far each answer (N,) is ahead of the next best: 0 undecided, 1 sure. `probabilities` are (N, classes)."""
        ...


class Classification:
    """Answers are labels with probabilities."""

    def differ(self, first: ModelAnswer, second: ModelAnswer) -> bool:
        """Return whether the labels differ."""
        return first.label != second.label

    def gap(self, first: ModelAnswer, second: ModelAnswer) -> float:
        """Return the difference of the highest probabilities."""
        return abs(_highest(first) - _highest(second))

    def margins(self, probabilities: Floats) -> Floats:
        """Return the difference of the two highest probabilities; of a single class its probability.

        >>> Classification().margins(np.array([[0.75, 0.25, 0.0], [0.5, 0.0, 0.5]])).tolist()
        [0.5, 0.0]
        """
        if probabilities.shape[1] < 2:
            return probabilities[:, 0]
        top = np.partition(probabilities, -2, axis=1)[:, -2:]
        return np.asarray(top[:, 1] - top[:, 0])


TASK: FlywheelTask = Classification()


def _highest(answer: ModelAnswer) -> float:
    return float(answer.probabilities.max(initial=0.0))
