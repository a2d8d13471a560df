"""Fits the threshold on one half of the test rows and judges it on the other: the rule that serves, its scores and its facts."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from pipeline.abstention import NEVER, Abstention
from pipeline.data.records import json_values
from pipeline.data.split_sides import hash_to_unit
from pipeline.metrics import Interval
from pipeline.params import Abstain
from pipeline.selective.coverage import Bools, Floats
from pipeline.selective.out_of_scope import answered_at_95, area_under_roc
from pipeline.selective.threshold import ScoredRows, ThresholdFit, exact_interval, fit_accuracy, fit_coverage

UNKNOWN = "nothing is known about out-of-scope texts: abstain.out_of_scope names no file with some"


class Judgement(NamedTuple):
    """What the rows say that did not fit the threshold."""

    rows: int
    coverage: Interval  # share of them that is answered
    accuracy: Interval  # of the answers
    accuracy_of_all: float  # if the model answered all of them


class OutOfScope(NamedTuple):
    """What out-of-scope texts get, next to all test rows."""

    texts: int
    abstained: Interval
    auroc: float
    answered_at_95: float


class AbstentionReport(NamedTuple):
    """The rule that travels with the model, how it was found, and what it does."""

    abstention: Abstention
    target: str
    value: float
    confidence: float
    fit: ThresholdFit | None  # None without a target
    judged: Judgement | None
    out_of_scope: OutOfScope | None
    problem: str  # why the target was missed; empty if it was not

    def facts(self) -> dict[str, Any]:
        """Return the content of abstain.json."""
        fit, judged, outside = self.fit, self.judged, self.out_of_scope
        facts = {
            **self.abstention._asdict(),
            "target": self.target,
            "value": self.value,
            "confidence": self.confidence,
            "problem": self.problem,
            "fitted": fit,
            "judged": judged,
            "out_of_scope": outside,
        }
        values: dict[str, Any] = json_values(facts)  # a share of no rows becomes null
        return values

    def _judgement(self, judged: Judgement) -> str:
        if not judged.rows:
            return "no test row is left to judge it: lower abstain.fit_share, or supply more test rows"
        accuracy = _between(judged.accuracy) if judged.coverage.value else "unknown, because none is answered"
        return (
            f"on the {judged.rows} test rows that did not fit it: coverage {_between(judged.coverage)}, "
            f"accuracy of the answers {accuracy}, of all rows {judged.accuracy_of_all:.1%}"
        )

    def scores(self) -> dict[str, dict[str, float]]:
        """Return the groups `abstain` and `out_of_scope` of metrics.json, as far as they are known."""
        groups: dict[str, dict[str, float]] = {}
        if self.judged:
            groups["abstain"] = {
                "threshold": self.abstention.threshold,
                **_scores("coverage", self.judged.coverage),
                **_scores("accuracy_of_answers", self.judged.accuracy),
            }
        if self.out_of_scope:
            texts, abstained, auroc, answered = self.out_of_scope
            at_95 = {"answered_where_95_of_in_scope_are": answered}
            groups["out_of_scope"] = {"texts": float(texts), **_scores("abstained", abstained), "auroc": auroc, **at_95}
        return groups

    def lines(self) -> list[str]:
        """Return what a person reads: the rule, what it does, and what out-of-scope texts get."""
        rule = [] if self.target == "none" else [self.problem or self._rule()]
        if self.judged and not self.problem:
            rule.append(self._judgement(self.judged))
        if not self.out_of_scope:
            return [*rule, UNKNOWN]
        outside = self.out_of_scope
        told_apart = f"AUROC {outside.auroc:.3f}, FPR95 {outside.answered_at_95:.1%}"
        if self.abstention == NEVER:
            return [*rule, f"{outside.texts} out-of-scope texts, all answered; confidence against the test rows: {told_apart}"]
        return [*rule, f"of {outside.texts} out-of-scope texts it abstains from {_between(outside.abstained)}; {told_apart}"]

    def _rule(self) -> str:
        fit, threshold = self.fit, self.abstention.threshold
        if not fit:
            return ""
        known = f"fitted on {fit.rows} test rows, of which {fit.answered} are answered with {fit.errors} errors"
        if self.target == "coverage":
            return f"abstains below confidence {threshold:.3f}, to answer {self.value:.0%} of texts; {known}"
        promise = f"with probability {self.confidence:.0%} its answers are right in at least {self.value:.1%}"
        return (
            f"abstains below confidence {threshold:.3f}: {promise}; {known}" if threshold else f"answers all: {promise}; {known}"
        )


def report_abstention(
    ordering: ScoredRows, test: ScoredRows, keys: Sequence[str], outside: Floats, settings: Abstain
) -> AbstentionReport:
    """Fit and judge the rule. `ordering`: validation rows; `keys`: of each test row, equal for rows that must stay together.

    `outside`: confidences (M,) of out-of-scope texts, M = 0 where none are known.
    """
    about = settings.target, settings.value, settings.confidence
    if settings.target == "none":
        return AbstentionReport(NEVER, *about, None, None, _out_of_scope(test, outside, NEVER, settings), "")
    is_fit = np.array([hash_to_unit(f"abstain\0{settings.seed}\0{key}") < settings.fit_share for key in keys], dtype=np.bool_)
    fitting, judging = _only(test, is_fit), _only(test, ~is_fit)
    fit = fit_threshold(ordering, fitting, settings)
    problem = "" if fit.threshold is not None else _problem(fit, settings)
    judged = judge(judging, fit.threshold or 0.0, settings.confidence)
    expected = 1 - judged.coverage.low if judged.rows else None
    abstention = Abstention(fit.threshold, settings.fallback, expected) if fit.threshold else NEVER
    return AbstentionReport(abstention, *about, fit, judged, _out_of_scope(test, outside, abstention, settings), problem)


def judge(rows: ScoredRows, threshold: float, confidence: float) -> Judgement:
    """Return coverage and accuracy at a threshold, on rows that did not fit it."""
    answered = rows.confidence >= threshold
    return Judgement(
        len(answered),
        exact_interval(int(answered.sum()), len(answered), confidence),
        exact_interval(int(rows.correct[answered].sum()), int(answered.sum()), confidence),
        float(rows.correct.mean()) if len(answered) else float("nan"),
    )


def fit_threshold(ordering: ScoredRows, fitting: ScoredRows, settings: Abstain) -> ThresholdFit:
    """Return the threshold for the target of params."""
    if not len(fitting.confidence) or not len(ordering.confidence):
        return ThresholdFit(None, len(fitting.confidence), 0, 0, 0.0, None)
    if settings.target == "coverage":
        return fit_coverage(fitting, target=settings.value, confidence=settings.confidence)
    tried, level = settings.thresholds, settings.confidence
    return fit_accuracy(ordering, fitting, target=settings.value, confidence=level, count=tried)


def _out_of_scope(test: ScoredRows, outside: Floats, abstention: Abstention, settings: Abstain) -> OutOfScope | None:
    if not len(outside):
        return None
    abstained = exact_interval(int((outside < abstention.threshold).sum()), len(outside), settings.confidence)
    inside = test.confidence
    return OutOfScope(len(outside), abstained, area_under_roc(inside, outside), answered_at_95(inside, outside))


def _problem(fit: ThresholdFit, settings: Abstain) -> str:
    missed = f"no threshold is proved to give answers of which {settings.value:.1%} are right"
    if not fit.answered:
        return f"{missed}: there are too few test rows"
    seen = (
        f"the {fit.answered} most confident of {fit.rows} test rows have {fit.errors} errors, which proves {fit.bound:.1%} with "
        f"probability {settings.confidence:.0%}"
    )
    if fit.rows_needed is None:
        return f"{missed}: {seen}, and more test rows will not help; lower abstain.value, or train a better model"
    wanted = int(np.ceil(fit.rows_needed / settings.fit_share))
    return f"{missed}: {seen}; about {wanted:,} test rows might prove it; or lower abstain.value"


def _only(rows: ScoredRows, chosen: Bools) -> ScoredRows:
    return ScoredRows(rows.confidence[chosen], rows.correct[chosen])


def _scores(name: str, share: Interval) -> dict[str, float]:
    """Return a share and its bounds; nothing where there were no rows."""
    value, low, high = share
    return {} if np.isnan(value) else {name: value, f"{name}_low": low, f"{name}_high": high}


def _between(share: Interval) -> str:
    return f"{share.value:.1%} ({share.low:.1%} to {share.high:.1%})"
