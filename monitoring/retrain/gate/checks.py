"""What a candidate has to hold before it may be published: each check turns answers into sentences and numbers. Pure.

False refusals are promised as a whole: half of `gate.false_refusals` belongs to the old rows, half to the classes. What they cost
in bad models let through depends on the test set, and stands in the numbers of every verdict.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

from monitoring.retrain.gate.paired_test import (
    Flags,
    Pairs,
    chance_to_pass,
    lower_bound,
    p_one_sided,
    p_within,
    pairs,
    proved_worse,
)
from monitoring.retrain.gate.verdict import Verdict
from pipeline.params import Gate

MANY = 5  # names in a sentence; of more their number


class Answered(NamedTuple):
    """What one model said of today's test rows."""

    said: NDArray[np.str_]  # (N,)
    labels: tuple[str, ...]  # that it knows
    usable: Flags  # (N,) probabilities are finite and sum to 1


class Today(NamedTuple):
    """Today's test rows and what is known of the candidate besides its answers."""

    truth: NDArray[np.str_]  # (N,)
    is_new: Flags  # (N,) came since the champion was made
    accuracy_evaluated: float  # by the stage `evaluate`, of the model before it was exported and packaged
    accuracy_control: float  # of the frozen control on the same rows
    accuracy_of_seeds: tuple[float, ...]  # of the same recipe and rows under other seeds; usually none


class Found(NamedTuple):
    """Of one check: sentences that refuse, sentences that hold, numbers."""

    broken: tuple[str, ...]
    held: tuple[str, ...]
    numbers: dict[str, float]


def judge(today: Today, candidate: Answered, champion: Answered | None, settings: Gate) -> Verdict:
    """All checks; a candidate whose answers are no probabilities is refused for that alone, the rest would be noise."""
    if len(today.truth) == 0:
        return Verdict(False, ("there are no test rows to judge by",), {"rows": 0.0})
    found = [usable(candidate)]
    if not found[0].broken:
        found += [floors(today, candidate, settings), as_evaluated(today, candidate, settings), knows(today, candidate, champion)]
        if champion is not None:
            right = champion.said == today.truth, candidate.said == today.truth
            is_apart = new_rows_stand_alone(today, settings)
            is_old = ~today.is_new if is_apart else np.ones(len(today.truth), dtype=np.bool_)
            found.append(old_rows(pairs(right[0][is_old], right[1][is_old]), settings))
            if is_apart:
                found.append(new_rows(pairs(right[0][~is_old], right[1][~is_old]), today.accuracy_of_seeds, settings))
            found.append(classes(today.truth, *right, settings))
    broken = tuple(reason for one in found for reason in one.broken)
    held = tuple(reason for one in found for reason in one.held)
    return Verdict(not broken, broken or held, {name: value for one in found for name, value in one.numbers.items()})


def usable(candidate: Answered) -> Found:
    """Every answer is a set of probabilities; weights that are not numbers end here."""
    spoilt = int((~candidate.usable).sum())
    reason = f"{spoilt} of {len(candidate.usable)} answers are not probabilities (not finite, or they do not sum to 1)"
    return Found((reason,) if spoilt else (), (), {"rows": float(len(candidate.usable)), "unusable": float(spoilt)})


def floors(today: Today, candidate: Answered, settings: Gate) -> Found:
    """Accuracy and macro-F1 as params ask, and no less than the frozen control: what holds whatever the champion is."""
    accuracy, f1 = float((candidate.said == today.truth).mean()), macro_f1(today.truth, candidate.said)
    broken = []
    if accuracy < settings.min_accuracy:
        broken.append(f"accuracy {accuracy:.2%} on today's test rows, gate.min_accuracy is {settings.min_accuracy:.2%}")
    if f1 < settings.min_f1_macro:
        broken.append(f"macro-F1 {f1:.2%} on today's test rows, gate.min_f1_macro is {settings.min_f1_macro:.2%}")
    if accuracy < today.accuracy_control + settings.min_above_control:
        broken.append(f"accuracy {accuracy:.2%}, and the frozen control has {today.accuracy_control:.2%} on the same rows")
    held = f"accuracy {accuracy:.2%} and macro-F1 {f1:.2%} on {len(today.truth)} test rows of today, above every floor"
    numbers = {"accuracy": accuracy, "f1_macro": f1, "control_accuracy": today.accuracy_control}
    return Found(tuple(broken), () if broken else (held,), numbers)


def as_evaluated(today: Today, candidate: Answered, settings: Gate) -> Found:
    """The package scores what its model scored before it was exported: another tokenizer or label order does not."""
    accuracy = float((candidate.said == today.truth).mean())
    gap = abs(accuracy - today.accuracy_evaluated)
    reason = (
        f"the package does not answer as the model that was evaluated: accuracy {accuracy:.2%} after "
        f"{today.accuracy_evaluated:.2%} (another tokenizer, label order or graph?)"
    )
    return Found((reason,) if gap > settings.rescore_tolerance else (), (), {"rescore_gap": gap})


def knows(today: Today, candidate: Answered, champion: Answered | None) -> Found:
    """No label that is asked for today, or answered by the champion, has gone."""
    wanted = set(today.truth.tolist()) | set(champion.labels if champion else ())
    gone = sorted(wanted - set(candidate.labels))
    reason = f"it does not know {_listed(gone)}, which the test rows or the champion have"
    return Found((reason,) if gone else (), (), {"labels_gone": float(len(gone))})


def new_rows_stand_alone(today: Today, settings: Gate) -> bool:
    """Whether new rows are asked for a gain; too few of them, or by params, and they count among all rows."""
    return settings.new_rows == "better" and int(today.is_new.sum()) >= settings.min_new_rows


def old_rows(counted: Pairs, settings: Gate) -> Found:
    """Not worse than the champion: proved within the margin, or at least not proved worse, as `gate.undecided` says."""
    level, margin = settings.false_refusals / 2, settings.margin
    p_margin = float(p_within(counted.rows, counted.gained, counted.lost, margin)) if counted.rows else 1.0
    p_worse = float(p_one_sided(counted.lost, counted.gained))
    is_proved, is_worse = p_margin <= settings.margin_alpha, p_worse <= level
    least = lower_bound(counted, settings.margin_alpha) if counted.rows else 0.0
    numbers = {
        **_counts("old", counted), "old/p_margin": p_margin, "old/p_worse": p_worse, "old/lower_bound": least,
        **_errors(counted, settings),
    }  # fmt: skip
    told = f"{counted.rows} old rows, {counted.gained} gained and {counted.lost} lost ({100 * counted.difference:+.1f} points)"
    if is_proved:
        return Found((), (f"not worse: {told}, proved to lose less than {100 * margin:.1f}",), numbers)
    if is_worse:
        return Found((f"worse than the champion on {told}, p = {p_worse:.2g}",), (), numbers)
    unproved = f"{told}: neither proved worse nor proved to lose less than {100 * margin:.1f} (it may be {100 * least:+.1f})"
    if settings.undecided == "refuse":
        return Found((f"not shown to be as good as the champion on {unproved}; gate.undecided is refuse",), (), numbers)
    return Found((), (f"not found worse on {unproved}",), numbers)


def new_rows(counted: Pairs, accuracy_of_seeds: Sequence[float], settings: Gate) -> Found:
    """Better than the champion on what came since, by more than another seed alone would bring where seeds are known."""
    p_better, noise = float(p_one_sided(counted.gained, counted.lost)), seed_noise(accuracy_of_seeds, settings.new_alpha)
    told = f"{counted.rows} new rows, {counted.gained} gained and {counted.lost} lost ({100 * counted.difference:+.1f} points)"
    broken = []
    if p_better > settings.new_alpha:
        broken.append(f"not shown to be better on {told}, p = {p_better:.2g}, gate.new_alpha is {settings.new_alpha}")
    if noise and counted.difference <= noise:
        broken.append(f"no more than another seed could bring on {told}: {100 * noise:.1f} points")
    held = f"better on {told}, p = {p_better:.2g}"
    numbers = {**_counts("new", counted), "new/p_better": p_better, "new/seed_noise": noise}
    return Found(tuple(broken), () if broken else (held,), numbers)


def classes(truth: NDArray[np.str_], champion_right: Flags, candidate_right: Flags, settings: Gate) -> Found:
    """No class is proved to have lost more than `class_margin` of its recall, all classes taken together (Tarone 1990)."""
    names = np.unique(truth)
    counted = [pairs(champion_right[truth == name], candidate_right[truth == name]) for name in names]
    gained, lost = (np.array([getattr(one, key) for one in counted]) for key in ("gained", "lost"))
    proved = proved_worse(p_one_sided(lost, gained), 0.5 ** (gained + lost), settings.false_refusals / 2)
    losses = np.array([-one.difference for one in counted])
    worse = np.flatnonzero(proved & (losses > settings.class_margin))
    told = [f"`{names[i]}` ({lost[i]} lost, {gained[i]} gained of {counted[i].rows})" for i in worse[np.argsort(-losses[worse])]]
    reason = f"worse than the champion on {_listed(told, quote='')}"
    held = f"none of {len(names)} classes proved to lose more than {100 * settings.class_margin:.0f} points of recall"
    numbers = {
        "classes": float(len(names)),
        "classes_worse": float(len(worse)),
        "class_largest_loss": float(max(0.0, losses.max())),
    }
    return Found((reason,) if told else (), () if told else (held,), numbers)


def seed_noise(accuracies: Sequence[float], alpha: float) -> float:
    """Difference that two runs of one recipe exceed with probability `alpha` (Student's t, one-sided); 0 for fewer than 3."""
    if len(accuracies) < 3:
        return 0.0
    quantile = float(special.stdtrit(len(accuracies) - 1, 1 - alpha))
    return quantile * float(np.std(accuracies, ddof=1)) * 2**0.5


def macro_f1(truth: NDArray[np.str_], said: NDArray[np.str_]) -> float:
    """Mean F1 over the classes that occur or are said, as `pipeline.metrics.f1_macro` on labels that need no common order."""
    names = np.union1d(truth, said)
    scores = [2 * ((truth == one) & (said == one)).sum() / ((truth == one).sum() + (said == one).sum()) for one in names]
    return float(np.mean(scores))


def passes_old_rows(rows: int, gained: NDArray[np.int64], lost: NDArray[np.int64], settings: Gate) -> Flags:
    """The rule of `old_rows` on counts, for what it would let through."""
    proved = p_within(rows, gained, lost, settings.margin) <= settings.margin_alpha
    if settings.undecided == "refuse":
        return np.asarray(proved)
    return np.asarray(proved | (p_one_sided(lost, gained) > settings.false_refusals / 2))


def _errors(counted: Pairs, settings: Gate) -> dict[str, float]:
    """What this test set and so many rows that tell the models apart make of an equal model, and of one that lost the margin."""
    telling = (counted.gained + counted.lost) / max(1, counted.rows)

    def chance(difference: float) -> float:
        return chance_to_pass(
            counted.rows, telling, difference, lambda gained, lost: passes_old_rows(counted.rows, gained, lost, settings)
        )

    return {"old/passes_if_equal": chance(0.0), "old/passes_if_worse_by_margin": chance(-settings.margin)}


def _counts(part: str, counted: Pairs) -> dict[str, float]:
    return {f"{part}/{name}": float(value) for name, value in (counted._asdict() | {"difference": counted.difference}).items()}


def _listed(names: Sequence[str], quote: str = "`") -> str:
    shown = ", ".join(f"{quote}{name}{quote}" for name in names[:MANY])
    return shown + (f" and {len(names) - MANY} more" if len(names) > MANY else "")
