"""The gate's checks: each turns predictions into sentences and numbers. Pure.

`gate.false_refusals` bounds the refusals of an equally good model over all checks: half of it goes to the old rows, half to the
classes. The price, bad models that pass, depends on the test set; every verdict reports it in its numbers.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

from monitoring.retrain.gate.paired_test import (
    Flags,
    PairCounts,
    count_pairs,
    pass_probability,
    tango_lower_bound,
    tango_p_value,
    tarone_rejections,
)
from monitoring.retrain.gate.verdict import Verdict
from pipeline import metrics
from pipeline.params import Gate

MAX_NAMES = 5  # in a sentence; the rest is counted


class Predictions(NamedTuple):
    """One model's predictions for the N current test rows."""

    predicted: NDArray[np.str_]  # (N,)
    labels: tuple[str, ...]  # all that the model knows
    valid: Flags  # (N,) the probabilities are finite and sum to 1


class GateEvidence(NamedTuple):
    """The N current test rows, and scores of the candidate that were measured elsewhere."""

    truth: NDArray[np.str_]  # (N,)
    is_new: Flags  # (N,) the row arrived after the champion was made
    accuracy_evaluated: float  # from stage `evaluate`, before the model was exported and packaged
    accuracy_control: float  # of the frozen control on the same rows
    accuracy_of_seeds: tuple[float, ...]  # of the same recipe and rows with other seeds; usually empty


class CheckResult(NamedTuple):
    """A check's failures and passes as sentences, and its numbers."""

    failures: tuple[str, ...]
    passes: tuple[str, ...]
    numbers: dict[str, float]


def run_checks(evidence: GateEvidence, candidate: Predictions, champion: Predictions | None, settings: Gate) -> Verdict:
    """Run every check; invalid probabilities refuse the candidate alone, because the other checks would be noise."""
    if len(evidence.truth) == 0:
        return Verdict(False, ("there are no test rows to compare on",), {"rows": 0.0})
    results = [check_probabilities(candidate)]
    if not results[0].failures:
        results += [
            check_floors(evidence, candidate, settings),
            check_matches_evaluation(evidence, candidate, settings),
            check_known_labels(evidence, candidate, champion),
        ]
        if champion is not None:
            champion_right, candidate_right = champion.predicted == evidence.truth, candidate.predicted == evidence.truth
            is_split = has_enough_new_rows(evidence, settings)
            is_old = ~evidence.is_new if is_split else np.ones(len(evidence.truth), dtype=np.bool_)
            results.append(check_old_rows(count_pairs(champion_right[is_old], candidate_right[is_old]), settings))
            if is_split:
                counts = count_pairs(champion_right[~is_old], candidate_right[~is_old])
                results.append(check_new_rows(counts, evidence.accuracy_of_seeds, settings))
            results.append(check_classes(evidence.truth, champion_right, candidate_right, settings))
    failures = tuple(reason for result in results for reason in result.failures)
    passes = tuple(reason for result in results for reason in result.passes)
    return Verdict(
        not failures, failures or passes, {name: value for result in results for name, value in result.numbers.items()}
    )


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
    reason = f"it does not know {_join_names(missing)}, which the test rows or the champion have"
    return CheckResult((reason,) if missing else (), (), {"labels_gone": float(len(missing))})


def has_enough_new_rows(evidence: GateEvidence, settings: Gate) -> bool:
    """Return whether new rows are tested for a gain; otherwise they count among all rows."""
    return settings.new_rows == "better" and int(evidence.is_new.sum()) >= settings.min_new_rows


def check_old_rows(counts: PairCounts, settings: Gate) -> CheckResult:
    """Require a loss proved to be within the margin, or at least not proved at all, as `gate.undecided` says."""
    level, margin = settings.false_refusals / 2, settings.margin
    p_margin = float(tango_p_value(counts.rows, counts.gained, counts.lost, margin)) if counts.rows else 1.0
    p_worse = metrics.mcnemar(counts.lost, counts.gained, "greater")
    is_within, is_worse = p_margin <= settings.margin_alpha, p_worse <= level
    lowest = tango_lower_bound(counts, settings.margin_alpha) if counts.rows else 0.0
    numbers = {
        **_numbers("old", counts), "old/p_margin": p_margin, "old/p_worse": p_worse, "old/lower_bound": lowest,
        **_error_rates(counts, settings),
    }  # fmt: skip
    text = _describe(counts, "old")
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


def check_classes(truth: NDArray[np.str_], champion_right: Flags, candidate_right: Flags, settings: Gate) -> CheckResult:
    """Require that no class is proved to lose more than `class_margin` of its recall, over all classes (Tarone 1990)."""
    names = np.unique(truth)
    counts = [count_pairs(champion_right[truth == name], candidate_right[truth == name]) for name in names]
    gained, lost = (np.array([getattr(pair, key) for pair in counts]) for key in ("gained", "lost"))
    proved = tarone_rejections(metrics.mcnemar(lost, gained, "greater"), 0.5 ** (gained + lost), settings.false_refusals / 2)
    losses = np.array([-pair.difference for pair in counts])
    worse = np.flatnonzero(proved & (losses > settings.class_margin))
    texts = [f"`{names[i]}` ({lost[i]} lost, {gained[i]} gained of {counts[i].rows})" for i in worse[np.argsort(-losses[worse])]]
    reason = f"worse than the champion on {_join_names(texts, quote='')}"
    passed = f"none of {len(names)} classes proved to lose more than {100 * settings.class_margin:.0f} points of recall"
    numbers = {
        "classes": float(len(names)),
        "classes_worse": float(len(worse)),
        "class_largest_loss": float(max(0.0, losses.max())),
    }
    return CheckResult((reason,) if texts else (), () if texts else (passed,), numbers)


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


def old_rows_pass(rows: int, gained: NDArray[np.int64], lost: NDArray[np.int64], settings: Gate) -> Flags:
    """Apply the rule of `check_old_rows` to (K,) counts, to compute its error rates."""
    is_within = tango_p_value(rows, gained, lost, settings.margin) <= settings.margin_alpha
    if settings.undecided == "refuse":
        return np.asarray(is_within)
    return np.asarray(is_within | (metrics.mcnemar(lost, gained, "greater") > settings.false_refusals / 2))


def _error_rates(counts: PairCounts, settings: Gate) -> dict[str, float]:
    """Return how often this test set, with this share of discordant rows, passes an equal model and one worse by the margin."""
    discordant_share = (counts.gained + counts.lost) / max(1, counts.rows)

    def probability(difference: float) -> float:
        return pass_probability(
            counts.rows, discordant_share, difference, lambda gained, lost: old_rows_pass(counts.rows, gained, lost, settings)
        )

    return {"old/passes_if_equal": probability(0.0), "old/passes_if_worse_by_margin": probability(-settings.margin)}


def _describe(counts: PairCounts, kind: str) -> str:
    return f"{counts.rows} {kind} rows, {counts.gained} gained and {counts.lost} lost ({100 * counts.difference:+.1f} points)"


def _numbers(kind: str, counts: PairCounts) -> dict[str, float]:
    return {f"{kind}/{name}": float(value) for name, value in (counts._asdict() | {"difference": counts.difference}).items()}


def _join_names(names: Sequence[str], quote: str = "`") -> str:
    shown = ", ".join(f"{quote}{name}{quote}" for name in names[:MAX_NAMES])
    return shown + (f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else "")
