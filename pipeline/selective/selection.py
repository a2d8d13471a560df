"""From the outputs of a model and of its control to coverage curves and a rule when to abstain."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from pipeline.abstention import NEVER
from pipeline.data.records import Example, labels_of, words_id
from pipeline.metrics import softmax
from pipeline.params import Abstain
from pipeline.selective.coverage import CoverageCurve, Floats, coverage_curve, coverage_scores
from pipeline.selective.report import AbstentionReport, report_abstention
from pipeline.selective.threshold import ScoredRows

FINE_TUNED, CONTROL = "fine-tuned", "frozen encoder + logistic regression"


class SelectiveResult(NamedTuple):
    """The curves of model and control on all test rows, and the rule that was fitted and judged on them."""

    curves: dict[str, CoverageCurve]
    report: AbstentionReport

    def scores(self) -> dict[str, dict[str, float]]:
        """Return additions to the groups of metrics.json."""
        sides = {side: coverage_scores(self.curves[name]) for side, name in (("test", FINE_TUNED), ("control", CONTROL))}
        return {**sides, **self.report.scores()}

    def facts(self) -> dict[str, Any]:
        """Return the content of abstain.json; `lines` are for people."""
        return {**self.report.facts(), "lines": self.report.lines()}

    def rule(self) -> tuple[float, float] | None:
        """Return coverage and accuracy at the threshold, on the rows that judged it; None for a model that always answers."""
        judged = self.report.judged
        return (judged.coverage.value, judged.accuracy.value) if judged and self.report.abstention != NEVER else None


class ModelLogits(NamedTuple):
    """Logits of a model for each row of a side, and for out-of-scope texts, with the temperature that calibrates them."""

    labels: Sequence[str]
    temperature: float
    val: Floats
    test: Floats
    outside: Floats  # (M, classes), M = 0 where no such texts are known


def select(
    logits: ModelLogits, sides: Mapping[str, list[Example]], control: Mapping[str, Any], settings: Abstain
) -> SelectiveResult:
    """Return curves and rule. `control` has the label of each test row and its confidence, as stage `control` wrote them."""
    val, test = (answered_rows(logits, scored, sides[side]) for side, scored in (("val", logits.val), ("test", logits.test)))
    control_right = np.array(control["labels"]) == np.array(labels_of(sides["test"]))
    curves = {
        FINE_TUNED: coverage_curve(test.confidence, test.correct),
        CONTROL: coverage_curve(np.array(control["confidence"]), control_right),
    }
    keys = [row.group or words_id(row.text) for row in sides["test"]]  # as the split keeps rows together
    return SelectiveResult(curves, report_abstention(val, test, keys, confidence_of(logits, logits.outside), settings))


def answered_rows(logits: ModelLogits, scored: Floats, rows: list[Example]) -> ScoredRows:
    """Return confidence and correctness of each row."""
    predicted = [logits.labels[number] for number in scored.argmax(axis=1)]
    return ScoredRows(confidence_of(logits, scored), np.array(predicted) == np.array(labels_of(rows)))


def confidence_of(logits: ModelLogits, scored: Floats) -> Floats:
    """Return the calibrated probability of the most probable label."""
    return softmax(scored / logits.temperature).max(axis=1) if len(scored) else np.zeros(0)
