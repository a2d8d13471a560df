"""Stratified k-fold cross-validation: every row is held out once, every fold has its share of each class."""

from collections import Counter
from collections.abc import Sequence
from statistics import mean, stdev
from typing import NamedTuple

from sklearn.model_selection import StratifiedKFold

from pipeline.errors import InputError


class Fold(NamedTuple):
    """The row numbers of a fold, ascending."""

    train: list[int]
    held_out: list[int]


def stratified_folds(labels: Sequence[str], count: int, seed: int) -> list[Fold]:
    """Return stratified folds, shuffled by the seed; raises `InputError` if a class has fewer rows than there are folds."""
    smallest, rows = min(Counter(labels).items(), key=lambda item: (item[1], item[0]))
    if rows < count:
        what = f"{count} folds need {count} rows of every class, and `{smallest}` has {rows}"
        do = f"the nearest that works: {rows}" if rows > 1 else f"add rows of `{smallest}`, or remove the class"
        raise InputError("train.folds in params.yaml", what, do)
    splitter = StratifiedKFold(count, shuffle=True, random_state=seed)
    return [Fold(train.tolist(), held.tolist()) for train, held in splitter.split(labels, labels)]


def mean_and_deviation(folds: Sequence[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Return the mean and sample standard deviation of each score over the folds."""
    values = {name: [fold[name] for fold in folds] for name in folds[0]}
    return {name: {"mean": mean(scores), "std": stdev(scores)} for name, scores in values.items()}
