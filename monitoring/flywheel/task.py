"""What differs between tasks, behind one protocol: how two answers disagree and how unsure an answer is. Knows no log.

The flywheel asks `FlywheelTask` and never which task it is. Classification implements it.
"""

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray


class ModelAnswer(NamedTuple):
    """A model's answer to one text."""

    label: str
    probabilities: NDArray[np.float32]  # (classes,), calibrated, in the order of the model's own labels


class FlywheelTask(Protocol):
    """The questions about answers that depend on the task; both numbers are 0..1."""

    def differ(self, first: ModelAnswer, second: ModelAnswer) -> bool:
        """Return whether the answers contradict each other."""
        ...

    def gap(self, first: ModelAnswer, second: ModelAnswer) -> float:
        """Return how much surer the surer of two answers is."""
        ...

    def uncertainty(self, answer: ModelAnswer) -> float:
        """Return how unsure an answer is: 0 sure, 1 undecided."""
        ...


class Classification:
    """Answers are labels with probabilities."""

    def differ(self, first: ModelAnswer, second: ModelAnswer) -> bool:
        """Return whether the labels differ."""
        return first.label != second.label

    def gap(self, first: ModelAnswer, second: ModelAnswer) -> float:
        """Return the difference of the highest probabilities."""
        return abs(_highest(first) - _highest(second))

    def uncertainty(self, answer: ModelAnswer) -> float:
        """Return 1 minus the margin between the two most probable labels.

        >>> round(Classification().uncertainty(ModelAnswer("a", np.array([0.7, 0.2, 0.1], np.float32))), 3)
        0.5
        """
        if len(answer.probabilities) < 2:
            return 0.0
        second, first = np.partition(answer.probabilities, -2)[-2:]
        return 1.0 - float(first - second)


CLASSIFICATION: FlywheelTask = Classification()


def _highest(answer: ModelAnswer) -> float:
    return float(answer.probabilities.max(initial=0.0))
