"""Charts render without a screen."""

from collections.abc import Callable
from io import BytesIO

import numpy as np
import pytest
from matplotlib.figure import Figure

from pipeline import charts
from pipeline.metrics import ClassScores, Interval

EPOCH = {"train_loss": 2.0, "val_loss": 1.5, "val_accuracy": 0.5, "val_f1_macro": 0.4}
SCORES = [ClassScores(0.9, 0.8, Interval(0.85, 0.7, 0.95), 20), ClassScores(0.0, 0.0, Interval(0.0, 0.0, 0.0), 0)]

FORMULAS = [r"$\frac{$", r"costs $x$ or $\nope$"]


def classes(count: int) -> tuple[np.ndarray, list[str]]:
    return np.eye(count, dtype=np.int64) * 3, [f"class_{i}" for i in range(count)]


@pytest.mark.parametrize(
    "draw",
    [
        lambda: charts.learning_curve([{"epoch": 1, **EPOCH}, {"epoch": 2, **EPOCH}]),
        lambda: charts.learning_curve([{"epoch": 1, **EPOCH}]),
        lambda: charts.schedule([0.5, 1.0, 0.5], {"layer 0": 1e-6, "layer 1": 5e-5, "head": 2e-4}, "cosine"),
        lambda: charts.schedule([1.0], {"encoder": 1e-3}, "constant"),
        lambda: charts.coverage_curves(
            {name: (np.array([0.5, 1.0]), np.array([1.0, 0.75])) for name in ("fine-tuned", "control")}, (0.6, 0.9)
        ),
        lambda: charts.certainty([{"from": 0.2, "rows": 3, "accuracy": 0.5}, {"from": 0.9, "rows": 2, "accuracy": 1.0}], 0.7),
        lambda: charts.confusion_matrix(*classes(3)),
        lambda: charts.confusion_matrix(*classes(77)),
        lambda: charts.confusion_matrix(np.zeros((2, 2), dtype=np.int64), ["never", "seen"]),
        lambda: charts.reliability_diagram([(0.9, 0.8, 0.7), (0.5, 0.4, 0.3)], [(0.8, 0.8, 1.0)]),
        lambda: charts.class_f1(["alpha", "zażółć"], SCORES),
        lambda: charts.confusion_matrix(np.eye(2, dtype=np.int64), FORMULAS),
        lambda: charts.class_f1(FORMULAS, SCORES),
        lambda: charts.gained_and_lost(np.array(FORMULAS), np.array(["x", "x"]), np.array(FORMULAS)),
        lambda: charts.backtest({}, {FORMULAS[0]: 3.0}, {FORMULAS[0]: []}, {FORMULAS[0]: []}),
        lambda: charts.arms([(FORMULAS[0], {"val": [0.9], "test": [0.8]}, 3.0)], {"val": 10, "test": 10}),
        lambda: charts.schedule([1.0], {"encoder": 1e-3}, FORMULAS[0]),
    ],
    ids=[
        "two epochs",
        "one epoch",
        "rates by layer",
        "one rate",
        "coverage curves",
        "certainty of spread labels",
        "three classes",
        "77 classes",
        "no rows",
        "reliability",
        "f1 by class",
        "confusion of labels like formulas",
        "f1 of labels like formulas",
        "gained of labels like formulas",
        "policies like formulas",
        "arms like formulas",
        "a note like a formula",
    ],
)
def test_a_chart_renders_as_png(draw: Callable[[], Figure]) -> None:
    picture = BytesIO()
    draw().savefig(picture, format="png", dpi=30)
    assert picture.getvalue().startswith(b"\x89PNG\r\n")
    assert len(picture.getvalue()) > 1000


def test_the_worst_class_stands_at_the_top_with_its_rows() -> None:
    names = [text.get_text() for text in charts.class_f1(["good", "bad"], SCORES).axes[0].get_yticklabels()]
    assert names == ["good (20)", "bad (0)"]  # matplotlib counts upwards


def test_counts_are_written_only_where_there_is_room() -> None:
    few, many = (charts.confusion_matrix(*classes(count)).axes[0].texts for count in (3, 31))
    assert [text.get_text() for text in few] == ["3", "3", "3"]
    assert not list(many)
