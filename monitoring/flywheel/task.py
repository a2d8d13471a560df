"""What differs between tasks, behind one protocol: how two answers disagree and how unsure an answer is. Knows no log.

The flywheel asks `Task` and never which task it is. Classification implements it.
"""

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray


class Answer(NamedTuple):
    """A model's answer to one text."""

    label: str
    probabilities: NDArray[np.float32]  # (classes,), calibrated, in the order of the model's own labels


class Task(Protocol):
    """The questions about answers that depend on the task; both numbers are 0..1."""

    def differ(self, first: Answer, second: Answer) -> bool:
        """Return whether the answers contradict each other."""
        ...

    def gap(self, first: Answer, second: Answer) -> float:
        """Return how much surer the surer of two answers is."""
        ...

    def uncertainty(self, answer: Answer) -> float:
        """Return how unsure an answer is: 0 sure, 1 undecided."""
        ...


class Classification:
    """Answers are labels with probabilities."""

    def differ(self, first: Answer, second: Answer) -> bool:
        """Return whether the labels differ."""
        return first.label != second.label

    def gap(self, first: Answer, second: Answer) -> float:
        """Return the difference of the highest probabilities."""
        return abs(_highest(first) - _highest(second))

    def uncertainty(self, answer: Answer) -> float:
        """Return 1 minus the margin between the two most probable labels.

        >>> round(Classification().uncertainty(Answer("a", np.array([0.7, 0.2, 0.1], np.float32))), 3)
        0.5
        """
        if len(answer.probabilities) < 2:
            return 0.0
        second, first = np.partition(answer.probabilities, -2)[-2:]
        return 1.0 - float(first - second)


CLASSIFICATION: Task = Classification()


def _highest(answer: Answer) -> float:
    return float(answer.probabilities.max(initial=0.0))
