"""The gate's checks: each turns predictions into sentences and numbers. Pure.

`levels` divides `gate.false_refusals`, which bounds the refusals of an equally good model over all checks. The price, bad models
that pass, depends on the test set; every verdict reports it. Old rows are scored with the labels that they had when the champion
was measured: a changed label must not change the exam.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

from monitoring.detectors.paired_test import (
    Flags,
    PairCounts,
    count_pairs,
    pass_probability,
    tango_lower_bound,
    tango_p_value,
    tarone_rejections,
)
from monitoring.retrain.gate.evidence import CheckResult, GateEvidence, OverruledClass, Predictions
from monitoring.retrain.gate.triggers import WordTrial, check_triggers
from monitoring.retrain.gate.verdict import Verdict
from pipeline import metrics
from pipeline.output.plain_text import join_names
from pipeline.params import Gate

MIN_OVERRULED = 3  # of a class: fewer are no pattern


class Levels(NamedTuple):
    """The shares of `gate.false_refusals` by check."""

    old_rows: float
    new_rows: float  # of the check that they are not worse; 0 where they have to be better
    classes: float
    triggers: float


def levels(settings: Gate, *, tests_new_rows: bool) -> Levels:
    """Divide `false_refusals`: half for rows, old and new, and a quarter each for classes and planted triggers."""
    share = settings.false_refusals
    rows = (share / 4, share / 4) if tests_new_rows else (share / 2, 0.0)
    return Levels(*rows, share / 4, share / 4)


def run_checks(
    evidence: GateEvidence,
    candidate: Predictions,
    champion: Predictions | None,
    settings: Gate,
    trials: Sequence[WordTrial] = (),
    package: Sequence[CheckResult] = (),
) -> Verdict:
    """Run every check. Where probabilities are invalid, only `package`, the results of `soundness`, says more."""
    if len(evidence.truth) == 0:
        return Verdict(False, ("there are no test rows to compare on",), {"rows": 0.0})
    results = [check_probabilities(candidate)]
    is_usable = not results[0].failures
    if is_usable:
        results += [
            check_floors(evidence, candidate, settings),
            check_matches_evaluation(evidence, candidate, settings),
            check_known_labels(evidence, candidate, champion),
        ]
    results += package
    if is_usable and champion is not None:
        results += _compare(evidence, candidate, champion, settings, trials)
    failures = tuple(reason for result in results for reason in result.failures)
    passes = tuple(reason for result in results for reason in result.passes)
    return Verdict(
        not failures, failures or passes, {name: value for result in results for name, value in result.numbers.items()}
    )


def _compare(
    evidence: GateEvidence, candidate: Predictions, champion: Predictions, settings: Gate, trials: Sequence[WordTrial]
) -> list[CheckResult]:
    """Compare with the champion: old rows and their classes alone decide, however many new rows there are."""
    champion_right, candidate_right = champion.predicted == evidence.measured, candidate.predicted == evidence.measured
    is_old, is_tested = ~evidence.is_new, has_enough_new_rows(evidence, settings)
    shares = levels(settings, tests_new_rows=is_tested and settings.new_rows == "not_worse")
    results = []
    if is_old.any() or not is_tested:
        old = count_pairs(champion_right[is_old], candidate_right[is_old])
        results.append(check_old_rows(old, settings, shares.old_rows))
        results.append(report_labels(evidence, candidate, champion))
    new = count_pairs(champion_right[~is_old], candidate_right[~is_old])
    if is_tested and settings.new_rows == "better":
        results.append(check_new_rows(new, evidence.accuracy_of_seeds, settings))
    elif is_tested:
        results.append(check_old_rows(new, settings, shares.new_rows, kind="new"))
    elif new.rows:
        results.append(CheckResult((), (f"{_describe(new, 'new')}, too few to be tested",), _numbers("new", new)))
    if is_old.any():
        results.append(
            check_classes(evidence.measured[is_old], champion_right[is_old], candidate_right[is_old], settings, shares.classes)
        )
    return [*results, check_overruled(evidence.overruled, settings), check_triggers(trials, settings, shares.triggers)]


def check_probabilities(candidate: Predictions) -> CheckResult:
    """Require finite probabilities that sum to 1; NaN weights fail here."""
    invalid = int((~candidate.valid).sum())
    reason = f"{invalid} of {len(candidate.valid)} predictions are not probabilities (not finite, or they do not sum to 1)"
    return CheckResult((reason,) if invalid else (), (), {"rows": float(len(candidate.valid)), "unusable": float(invalid)})


def check_floors(evidence: GateEvidence, candidate: Predictions, settings: Gate) -> CheckResult:
    """Require the accuracy and macro-F1 of params, and the frozen control's accuracy, whatever the champion scores."""
    accuracy, f1 = float((candidate.predicted == evidence.truth).mean()), f1_macro(evidence.truth, candidate.predicted)
    failures = []
    if accuracy < settings.min_accuracy:
        failures.append(
            f"accuracy {accuracy:.2%} on the current test rows is below gate.min_accuracy {settings.min_accuracy:.2%}"
        )
    if f1 < settings.min_f1_macro:
        failures.append(f"macro-F1 {f1:.2%} on the current test rows is below gate.min_f1_macro {settings.min_f1_macro:.2%}")
    if accuracy < evidence.accuracy_control + settings.min_above_control:
        failures.append(
            f"accuracy {accuracy:.2%} is too close to the frozen control's {evidence.accuracy_control:.2%} on these rows"
        )
    passed = f"accuracy {accuracy:.2%} and macro-F1 {f1:.2%} on {len(evidence.truth)} current test rows, above every floor"
    numbers = {"accuracy": accuracy, "f1_macro": f1, "control_accuracy": evidence.accuracy_control}
    return CheckResult(tuple(failures), () if failures else (passed,), numbers)


def check_matches_evaluation(evidence: GateEvidence, candidate: Predictions, settings: Gate) -> CheckResult:
    """Require the score that the model had before it was exported; a wrong tokenizer or label order fails here."""
    accuracy = float((candidate.predicted == evidence.truth).mean())
    gap = abs(accuracy - evidence.accuracy_evaluated)
    reason = (
        f"the package does not answer like the model that was evaluated: accuracy {accuracy:.2%}, "
        f"evaluated {evidence.accuracy_evaluated:.2%} (another tokenizer, label order or graph?)"
    )
    return CheckResult((reason,) if gap > settings.rescore_tolerance else (), (), {"rescore_gap": gap})


def check_known_labels(evidence: GateEvidence, candidate: Predictions, champion: Predictions | None) -> CheckResult:
    """Require every label of the test rows and of the champion."""
    required = set(evidence.truth.tolist()) | set(champion.labels if champion else ())
    missing = sorted(required - set(candidate.labels))
    reason = f"it does not know {join_names(missing)}, which the test rows or the champion have"
    return CheckResult((reason,) if missing else (), (), {"labels_gone": float(len(missing))})


def has_enough_new_rows(evidence: GateEvidence, settings: Gate) -> bool:
    """Return whether there are enough new rows to test."""
    return int(evidence.is_new.sum()) >= settings.min_new_rows


def check_old_rows(counts: PairCounts, settings: Gate, level: float, kind: str = "old") -> CheckResult:
    """Require a loss proved to be within the margin, or at least not proved at all, as `gate.undecided` says.

    `level` is P(an equally good candidate is proved worse). New rows are tested alike where they need not be better.
    """
    margin = settings.margin
    p_margin = float(tango_p_value(counts.rows, counts.gained, counts.lost, margin)) if counts.rows else 1.0
    p_worse = metrics.mcnemar(counts.lost, counts.gained, "greater")
    is_within, is_worse = p_margin <= settings.margin_alpha, p_worse <= level
    lowest = tango_lower_bound(counts, settings.margin_alpha) if counts.rows else 0.0
    numbers = {
        **_numbers(kind, counts), f"{kind}/p_margin": p_margin, f"{kind}/p_worse": p_worse, f"{kind}/lower_bound": lowest,
        **_error_rates(counts, settings, level, kind),
    }  # fmt: skip
    text = _describe(counts, kind)
    if is_within:
        return CheckResult((), (f"not worse: {text}, proved to lose less than {100 * margin:.1f}",), numbers)
    if is_worse:
        return CheckResult((f"worse than the champion on {text}, p = {p_worse:.2g}",), (), numbers)
    unproved = f"{text}: neither proved worse nor proved to lose less than {100 * margin:.1f} (it may be {100 * lowest:+.1f})"
    if settings.undecided == "refuse":
        reason = f"not shown to be as good as the champion on {unproved}; gate.undecided is refuse"
        return CheckResult((reason,), (), numbers)
    return CheckResult((), (f"not found worse on {unproved}",), numbers)


def check_new_rows(counts: PairCounts, accuracy_of_seeds: Sequence[float], settings: Gate) -> CheckResult:
    """Require a proved gain on rows newer than the champion, and one larger than seed noise where seeds are known."""
    p_better, noise = metrics.mcnemar(counts.gained, counts.lost, "greater"), seed_noise(accuracy_of_seeds, settings.new_alpha)
    text = _describe(counts, "new")
    failures = []
    if p_better > settings.new_alpha:
        failures.append(f"not shown to be better on {text}: p = {p_better:.2g}, above gate.new_alpha {settings.new_alpha}")
    if noise and counts.difference <= noise:
        failures.append(f"no more than another seed could bring on {text}: {100 * noise:.1f} points")
    passed = f"better on {text}, p = {p_better:.2g}"
    numbers = {**_numbers("new", counts), "new/p_better": p_better, "new/seed_noise": noise}
    return CheckResult(tuple(failures), () if failures else (passed,), numbers)


def check_classes(
    truth: NDArray[np.str_], champion_right: Flags, candidate_right: Flags, settings: Gate, level: float
) -> CheckResult:
    """Require that no class is proved to lose more than `class_margin` of its recall, over all classes (Tarone 1990)."""
    names = np.unique(truth)
    counts = [count_pairs(champion_right[truth == name], candidate_right[truth == name]) for name in names]
    gained, lost = (np.array([getattr(pair, key) for pair in counts]) for key in ("gained", "lost"))
    proved = tarone_rejections(metrics.mcnemar(lost, gained, "greater"), 0.5 ** (gained + lost), level)
    losses = np.array([-pair.difference for pair in counts])
    worse = np.flatnonzero(proved & (losses > settings.class_margin))
    texts = [f"`{names[i]}` ({lost[i]} lost, {gained[i]} gained of {counts[i].rows})" for i in worse[np.argsort(-losses[worse])]]
    reason = f"worse than the champion on {join_names(texts, quote='')}"
    passed = f"none of {len(names)} classes proved to lose more than {100 * settings.class_margin:.0f} points of recall"
    numbers = {
        "classes": float(len(names)),
        "classes_worse": float(len(worse)),
        "class_largest_loss": float(max(0.0, losses.max())),
    }
    return CheckResult((reason,) if texts else (), () if texts else (passed,), numbers)


def report_labels(evidence: GateEvidence, candidate: Predictions, champion: Predictions) -> CheckResult:
    """Report the old rows with today's labels too, where they differ from those of the champion's measurement. Never refuses."""
    is_old = ~evidence.is_new
    is_changed = is_old & (evidence.truth != evidence.measured)
    today = count_pairs(*((model.predicted == evidence.truth)[is_old] for model in (champion, candidate)))
    changed, settled = int(is_changed.sum()), int((is_changed & evidence.is_settled).sum())
    sentences = []
    if changed:
        sentences.append(
            f"{changed} old rows have another label than when the champion was measured ({settled} by settled disputes); "
            f"with today's labels: {_describe(today, 'old')}"
        )
    if evidence.unknown_labels:
        sentences.append(
            f"{evidence.unknown_labels} old rows are scored with today's labels: the champion's package is of an older release "
            "and does not hold theirs"
        )
    numbers = {**_numbers("old_today", today), "labels/changed": changed, "labels/settled": settled}
    return CheckResult((), tuple(sentences), {**numbers, "labels/unknown": float(evidence.unknown_labels)})


def check_overruled(classes: Sequence[OverruledClass], settings: Gate) -> CheckResult:
    """Require that people overruled at most `max_overruled` of a class's training labels, or fewer than `MIN_OVERRULED`."""
    share = {entry.label: entry.overruled / max(1, entry.rows) for entry in classes}
    far = [entry for entry in classes if entry.overruled >= MIN_OVERRULED and share[entry.label] > settings.max_overruled]
    texts = [f"`{entry.label}` ({entry.overruled} of {entry.rows})" for entry in sorted(far, key=lambda e: -share[e.label])]
    reason = (
        f"labels from people overrule more than gate.max_overruled {settings.max_overruled:.0%} of the training rows of "
        f"{join_names(texts, quote='')}: look at them, and correct the source if they are right"
    )
    total = sum(entry.overruled for entry in classes)
    passed = f"labels from people overrule {total} of {sum(entry.rows for entry in classes)} training rows of the source"
    numbers = {"overruled/rows": float(total), "overruled/largest_share": max(share.values(), default=0.0)}
    return CheckResult((reason,) if far else (), (passed,) if total and not far else (), numbers)


def seed_noise(accuracies: Sequence[float], alpha: float) -> float:
    """Return the difference that two runs of one recipe exceed with probability `alpha` (Student's t, one-sided).

    0 for fewer than 3 runs.
    """
    if len(accuracies) < 3:
        return 0.0
    quantile = float(special.stdtrit(len(accuracies) - 1, 1 - alpha))
    return quantile * float(np.std(accuracies, ddof=1)) * 2**0.5


def f1_macro(truth: NDArray[np.str_], predicted: NDArray[np.str_]) -> float:
    """Return the macro-F1 of (N,) labels."""
    names, indices = np.unique([truth, predicted], return_inverse=True)
    first, second = indices.reshape(2, -1)
    return metrics.f1_macro(metrics.confusion(first, second, len(names)))


def old_rows_pass(rows: int, gained: NDArray[np.int64], lost: NDArray[np.int64], settings: Gate, level: float) -> Flags:
    """Apply the rule of `check_old_rows` to (K,) counts, to compute its error rates."""
    is_within = tango_p_value(rows, gained, lost, settings.margin) <= settings.margin_alpha
    if settings.undecided == "refuse":
        return np.asarray(is_within)
    return np.asarray(is_within | (metrics.mcnemar(lost, gained, "greater") > level))


def _error_rates(counts: PairCounts, settings: Gate, level: float, kind: str) -> dict[str, float]:
    """Return how often this test set, with this share of discordant rows, passes an equal model and one worse by the margin."""
    discordant_share = (counts.gained + counts.lost) / max(1, counts.rows)

    def probability(difference: float) -> float:
        return pass_probability(
            counts.rows,
            discordant_share,
            difference,
            lambda gained, lost: old_rows_pass(counts.rows, gained, lost, settings, level),
        )

    return {f"{kind}/passes_if_equal": probability(0.0), f"{kind}/passes_if_worse_by_margin": probability(-settings.margin)}


def _describe(counts: PairCounts, kind: str) -> str:
    return f"{counts.rows} {kind} rows, {counts.gained} gained and {counts.lost} lost ({100 * counts.difference:+.1f} points)"


def _numbers(kind: str, counts: PairCounts) -> dict[str, float]:
    return {f"{kind}/{name}": float(value) for name, value in (counts._asdict() | {"difference": counts.difference}).items()}
