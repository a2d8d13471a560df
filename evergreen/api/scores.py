"""The scores of a model on its test rows, beside the frozen control."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

from pipeline.card.facts import CARD, read_report


class ScoreInterval(NamedTuple):
    """A score with the bounds of its bootstrap interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, repr=False)
class ModelScores:
    """Scores on the test rows. `metrics` and `report` hold everything that stage `evaluate` measures."""

    accuracy: ScoreInterval
    f1_macro: ScoreInterval
    control_accuracy: float  # of the frozen encoder with logistic regression on the same rows
    control_f1_macro: float
    above_control: ScoreInterval  # of the accuracy
    test_rows: int
    metrics: Mapping[str, Mapping[str, float]]
    report: Mapping[str, Any]

    @classmethod
    def of(cls, metrics: Mapping[str, Mapping[str, float]], report: Mapping[str, Any]) -> Self:
        """Return the scores of what stage `evaluate` wrote."""
        intervals, control = report["intervals"], metrics["control"]
        return cls(
            accuracy=ScoreInterval(**intervals["accuracy"]),
            f1_macro=ScoreInterval(**intervals["f1_macro"]),
            control_accuracy=control["accuracy"],
            control_f1_macro=control["f1_macro"],
            above_control=ScoreInterval(**intervals["accuracy_above_control"]),
            test_rows=report["rows"]["test"],
            metrics=metrics,
            report=report,
        )

    def __repr__(self) -> str:
        """Say in one line how good the model is, and compared with what."""
        value, low, high = (f"{100 * share:.1f}" for share in self.accuracy)
        control = f"{100 * self.control_accuracy:.1f}"
        return f"accuracy {value} % (interval {low} to {high}), frozen control {control} %, on {self.test_rows} test rows"


def read_scores(package: Path) -> ModelScores | None:
    """Return the scores in a package's card; None where it has none, as in versions of earlier releases."""
    card = read_report(package / CARD)
    scores, report = card.get("scores"), card.get("report")
    return ModelScores.of(scores, report) if scores and report else None
