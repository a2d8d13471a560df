"""The scores of a model on its test rows, beside the frozen control."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

from evergreen.api.project import find_project
from pipeline.data.records import read_json, write_json
from pipeline.home import home_path

SCORES_FILE = "scores.json"  # in a folder that `EvergreenModel.save` wrote
METRICS, REPORT = "metrics.json", "report.json"  # of stage `evaluate`


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


def write_scores(folder: Path, metrics: Mapping[str, Any], report: Mapping[str, Any]) -> None:
    """Write the scores beside a model."""
    write_json(folder / SCORES_FILE, {"metrics": metrics, "report": report})


def read_scores(package: Path, run_id: str | None) -> ModelScores | None:
    """Return the scores of a package: those beside it, else those that its MLflow run holds; None where there are none."""
    if (package / SCORES_FILE).is_file():
        stored = read_json(package / SCORES_FILE, "the scores of the model")
        return ModelScores.of(stored["metrics"], stored["report"])
    return _logged_scores(run_id) if run_id else None


def _logged_scores(run_id: str) -> ModelScores | None:
    from pipeline.tracking.borrowed import borrowed_mlflow  # MLflow takes seconds to import
    from pipeline.tracking.logged_runs import find_run, read_evaluation

    home = home_path(find_project())
    if not home.is_dir():
        return None
    with borrowed_mlflow():
        if find_run(run_id, home) is None:
            return None
        files = [read_evaluation(run_id, name, home) for name in (METRICS, REPORT)]
    return ModelScores.of(*(json.loads(content) for content in files if content)) if all(files) else None
