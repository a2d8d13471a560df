"""The verdict of an A/B test at one look, and about how many more units it needs. Pure."""

from math import isfinite, lgamma, log
from typing import Literal, NamedTuple

from monitoring.release.ab.intervals import (
    DifferenceInterval,
    StoppingRule,
    UnitSummary,
    find_difference,
    multiplier,
    standard_error,
)

AbAnswer = Literal["A", "B", "no difference", "not yet"]
UNEVEN_ALPHA = 0.001  # P(arms that report equally often are called uneven), over all looks
PRIOR_UNITS = 1000  # how closely the expected share is known, in units
MOST_UNITS = 1e9


class AbVerdict(NamedTuple):
    """What is known at a look. `answer` names the better arm; A is the champion, B the challenger."""

    answer: AbAnswer
    difference: DifferenceInterval  # B − A in the outcome's unit
    a: UnitSummary
    b: UnitSummary
    more_units: int | None  # about, until an answer; None with one, or where it cannot be said
    uneven: bool  # one arm has more units with an outcome than its share explains: then there is no answer


def judge(a: UnitSummary, b: UnitSummary, rule: StoppingRule, *, weight: float, is_lower_better: bool) -> AbVerdict:
    """Return the verdict. It may be asked at any time and as often as one likes: the interval holds at all looks together."""
    difference = find_difference(a, b, rule)
    uneven = is_uneven(a.units, b.units, weight)
    answer = "not yet" if uneven else _answer(difference.negated() if is_lower_better else difference, rule.margin)
    more = None if uneven or answer != "not yet" else units_missing(a, b, rule, weight)
    return AbVerdict(answer, difference, a, b, more, uneven)


def _answer(better_b: DifferenceInterval, margin: float) -> AbAnswer:
    if better_b.lower > 0:
        return "B"
    if better_b.upper < 0:
        return "A"
    return "no difference" if -margin < better_b.lower and better_b.upper < margin else "not yet"


def units_missing(a: UnitSummary, b: UnitSummary, rule: StoppingRule, weight: float) -> int | None:
    """Return about how many more units with an outcome lead to an answer, if the arms stay as they are; None without an interval.

    The interval must become narrow enough to leave out 0, or to lie within the margin, whichever comes first.
    """
    if not isfinite(find_difference(a, b, rule).lower):
        return None
    estimate, now = abs(b.mean - a.mean), a.units + b.units
    wanted = max(estimate, rule.margin - estimate)
    spread = standard_error(a, b) * (a.units * b.units / now / now / weight / (1 - weight)) ** 0.5 * now**0.5
    low, high = float(now), MOST_UNITS
    while high - low > max(1.0, low / 1000):
        middle = (low * high) ** 0.5
        is_enough = spread / middle**0.5 * multiplier(int(middle), rule) <= wanted
        low, high = (low, middle) if is_enough else (middle, high)
    return int(high) - now if high < MOST_UNITS else None


def is_uneven(a_units: int, b_units: int, weight: float) -> bool:
    """Return whether the arms' numbers of units contradict B's share, at a level that holds at every look.

    The sequential test of Lindon & Malek (2022, "Anytime-valid inference for multinomial count data"): a Bayes factor of a beta
    prior around the share against the share itself.

    >>> is_uneven(1000, 1030, 0.5), is_uneven(1000, 1500, 0.5)
    (False, True)
    """
    prior_b, prior_a = weight * PRIOR_UNITS, (1 - weight) * PRIOR_UNITS
    log_factor = _log_beta(prior_a + a_units, prior_b + b_units) - _log_beta(prior_a, prior_b)
    return log_factor - b_units * log(weight) - a_units * log(1 - weight) >= -log(UNEVEN_ALPHA)


def describe(verdict: AbVerdict, margin: float) -> str:
    """Say the verdict in one sentence."""
    if verdict.uneven:
        return (
            "no verdict: the arms have outcomes of other numbers of units than their shares explain "
            f"({verdict.a.units} and {verdict.b.units}), so that those who report may differ"
        )
    if verdict.answer == "no difference":
        return f"no difference above the margin of {margin:g}"
    if verdict.answer == "not yet":
        more = verdict.more_units
        return f"not yet: about {_rounded(more)} more units" if more else "not yet: too few units to say how many"
    return f"{verdict.answer} is better"


def _rounded(count: int) -> int:
    """Return a count with two digits and zeros.

    >>> _rounded(3213), _rounded(87)
    (3200, 87)
    """
    return round(count, 2 - len(str(count)))


def _log_beta(a: float, b: float) -> float:
    return lgamma(a) + lgamma(b) - lgamma(a + b)
