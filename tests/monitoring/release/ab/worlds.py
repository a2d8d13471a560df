"""Measures A/B tests in simulated worlds: false verdicts of equal arms, and units until a true difference is found.

Run: `.venv/bin/python -m tests.monitoring.release.ab.worlds [REPEATS]`
"""

import sys
from collections.abc import Callable
from math import sqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from monitoring.release.ab.intervals import StoppingRule, UnitSummary, multiplier, summarise_arm
from monitoring.release.ab.planner import plan_test
from monitoring.release.ab.verdict import judge

LOOKS = 100
RULE = StoppingRule(alpha=0.05, margin=0.02, min_units=50, expected_units=4000)
Z = 1.959964
Floats = NDArray[np.float64]


class Stream(NamedTuple):
    """Outcomes in the order of their arrival, and whose they are."""

    unit: NDArray[np.int64]
    value: Floats


class World(NamedTuple):
    """Draws a stream of outcomes that are the same in both arms."""

    name: str
    draw: Callable[[np.random.Generator, int], Stream]
    weight: float = 0.5
    outcomes: int = 8000


class FalseVerdicts(NamedTuple):
    """Shares of repeats with A or B at one of the looks, though the arms are equal."""

    ours: float
    published: float  # the asymptotic sequence without our floor under the variance
    peeking: float  # a z-test over outcomes at each look


def single(draw: Callable[[np.random.Generator, int], Floats]) -> Callable[[np.random.Generator, int], Stream]:
    """Return a stream in which each outcome has its own unit."""
    return lambda rng, n: Stream(np.arange(n), draw(rng, n))


def busy_units(rng: np.random.Generator, n: int) -> Stream:
    """Return clicks of units of which a few have hundreds; each has its own rate."""
    unit = np.unique((rng.pareto(1.0, n) * 30).astype(np.int64), return_inverse=True)[1]
    rates = rng.beta(0.5, 0.5, unit.max() + 1)
    return Stream(unit, (rng.random(n) < rates[unit]).astype(float))


def few_units(rng: np.random.Generator, n: int) -> Stream:
    """Return minutes of 300 units that come again and again."""
    unit = rng.integers(0, 300, n)
    return Stream(unit, np.exp(rng.normal(size=300)[unit] + 0.5 * rng.normal(size=n)))


def revenue(rng: np.random.Generator, n: int) -> Floats:
    """Return what units spend: 3 of 100 buy, and the sums have a heavy tail."""
    return np.where(rng.random(n) < 0.03, np.exp(3 + 1.2 * rng.normal(size=n)), 0.0)


EQUAL = (
    World("share of 1 %", single(lambda rng, n: (rng.random(n) < 0.01).astype(float))),
    World("share of 1 %, B gets a tenth", single(lambda rng, n: (rng.random(n) < 0.01).astype(float)), weight=0.1),
    World("share of 40 %", single(lambda rng, n: (rng.random(n) < 0.4).astype(float))),
    World("share that drifts from 20 to 80 %", single(lambda rng, n: (rng.random(n) < np.linspace(0.2, 0.8, n)).astype(float))),
    World("numbers with a heavy tail (Pareto 2.5)", single(lambda rng, n: rng.pareto(2.5, n))),
    World("numbers with a heavy tail, B gets a tenth", single(lambda rng, n: rng.pareto(2.5, n)), weight=0.1),
    World("revenue: 3 % buy, log-normal", single(revenue)),
    World("busy units: a few report hundreds", busy_units),
    World("300 units that come again", few_units),
)


def false_verdicts(world: World, repeats: int, seed: int = 1) -> FalseVerdicts:
    """Return how often equal arms get a verdict at one of the looks."""
    rng = np.random.default_rng(seed)
    found = np.array([_found(world, rng) for _ in range(repeats)])
    return FalseVerdicts(*(float(share) for share in found.mean(axis=0)))


def _found(world: World, rng: np.random.Generator) -> tuple[bool, bool, bool]:
    stream = world.draw(rng, world.outcomes)
    units = int(stream.unit.max()) + 1
    is_b = rng.random(units) < world.weight
    ours = published = peeking = False
    for seen in np.linspace(world.outcomes / LOOKS, world.outcomes, LOOKS).astype(int):
        unit, value = stream.unit[:seen], stream.value[:seen]
        counts = np.bincount(unit, minlength=units)
        known = counts > 0
        means = np.bincount(unit, value, minlength=units)[known] / counts[known]
        a, b = (summarise_arm(means[is_b[known] == of_b]) for of_b in (False, True))
        verdict = judge(a, b, RULE, weight=world.weight, is_lower_better=False)
        ours |= verdict.answer in ("A", "B")
        published |= min(a.units, b.units) >= RULE.min_units and abs(b.mean - a.mean) > multiplier(
            a.units + b.units, RULE
        ) * _error(a, b)
        peeking |= _z_test(value[~is_b[unit]], value[is_b[unit]])
    return ours, published, peeking


def _error(a: UnitSummary, b: UnitSummary) -> float:
    return sqrt(sum(arm.squares / (arm.units - 1) / arm.units for arm in (a, b)))


def _z_test(a: Floats, b: Floats) -> bool:
    if min(len(a), len(b)) < 2:
        return False
    error = sqrt(a.var(ddof=1) / len(a) + b.var(ddof=1) / len(b))
    return bool(abs(b.mean() - a.mean()) > Z * error > 0)


class Found(NamedTuple):
    """How a true difference of the margin is found, in units of both arms."""

    planned: int  # by the planner, for 90 % power
    found: float  # share of repeats with the right arm within the planned units
    wrong: float  # with the wrong arm, or "no difference"
    median: int
    fixed: int  # of a z-test that looks once
    fixed_found: float  # its share of repeats with the right arm


class Difference(NamedTuple):
    """A world in which B is better by the margin; one outcome a unit."""

    name: str
    draw: Callable[[np.random.Generator, int], tuple[Floats, Floats]]  # of A and of B
    deviation: float
    margin: float


DIFFERENT = (
    Difference(
        "share of 30 % against 33 %",
        lambda rng, n: ((rng.random(n) < 0.30).astype(float), (rng.random(n) < 0.33).astype(float)),
        sqrt(0.315 * 0.685),
        0.03,
    ),
    Difference(
        "share of 90 % against 92 %",
        lambda rng, n: ((rng.random(n) < 0.90).astype(float), (rng.random(n) < 0.92).astype(float)),
        sqrt(0.91 * 0.09),
        0.02,
    ),
    Difference(
        "minutes, gamma: 10 against 10.5",
        lambda rng, n: (rng.gamma(4, 2.5, n), rng.gamma(4, 2.625, n)),
        5.13,
        0.5,
    ),
)


def find_difference_in(world: Difference, repeats: int, seed: int = 2) -> Found:
    """Return how often and when the better arm is found, at 200 looks; arms of equal size."""
    rng, rule = np.random.default_rng(seed), RULE._replace(margin=world.margin)
    plan = plan_test(rule, deviation=world.deviation, weight=0.5, power=0.9)
    looks = np.linspace(plan.units / 400, plan.units / 2, 200).astype(int)
    answers, ends, fixed = [], [], []
    for _ in range(repeats):
        a, b = world.draw(rng, looks[-1])
        fixed.append(_z_test(a[: plan.fixed_units // 2], b[: plan.fixed_units // 2]))
        for seen in looks:
            verdict = judge(summarise_arm(a[:seen]), summarise_arm(b[:seen]), rule, weight=0.5, is_lower_better=False)
            if verdict.answer != "not yet":
                break
        answers.append(verdict.answer)
        ends.append(2 * int(seen) if verdict.answer == "B" else np.inf)
    wrong = np.mean([answer in ("A", "no difference") for answer in answers])
    right = np.mean([answer == "B" for answer in answers])
    return Found(plan.units, float(right), float(wrong), int(np.median(ends)), plan.fixed_units, float(np.mean(fixed)))


def main(repeats: int) -> None:
    """Print both tables in Markdown."""
    print(f"| equal arms, {LOOKS} looks, {repeats} repeats | ours | sequence as published | peeking z-test |\n|---|---|---|---|")
    for world in EQUAL:
        shares = " | ".join(f"{100 * share:.1f} %" for share in false_verdicts(world, repeats))
        print(f"| {world.name} | {shares} |", flush=True)
    columns = ("B is better by the margin", "planned units", "found by then", "wrong", "median", "fixed test", "its power")
    print(f"\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for difference in DIFFERENT:
        found = find_difference_in(difference, repeats)
        shares = (
            f"{found.planned} | {found.found:.1%} | {found.wrong:.1%} | {found.median} | {found.fixed} | {found.fixed_found:.1%}"
        )
        print(f"| {difference.name} | {shares} |", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 400)
