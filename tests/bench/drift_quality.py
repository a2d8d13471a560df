"""Row D6: accuracy without labels, on windows whose labels are known to the bench alone.

A window holds no text twice, as in the monitor. Typos, run-together words and greetings are other changes than those by which the
reference spoils its texts; of foreign texts it knows nothing.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from monitoring.drift.accuracy import AccuracyEstimator, estimate_accuracy, fit_accuracy_estimator
from pipeline.params import Monitor
from tests.bench.drift_worlds import CHANGES, World, drawn, mixed, monitor, right, to_reference, to_rows
from tests.bench.embedded import Texts

WINDOW, SPREAD = 500, 0.3
FOREIGN = ("hotels", "support desk")


class Guess(NamedTuple):
    """One kind of shift over all its windows; errors in points of accuracy (estimate − truth)."""

    kind: str
    windows: int
    truth: float
    error: dict[str, float]  # mean absolute, by estimator
    bias: dict[str, float]  # mean signed
    covered: float  # share of windows whose truth lies between our bounds
    width: float  # mean distance of the bounds, points


Make = Callable[[Texts, np.random.Generator], Texts]


def guesses(worlds: dict[str, World], runs: int, shipped: Monitor, seed: int) -> list[Guess]:
    """Every kind of shift, each run with a reference and windows of its own."""
    bank, desk = worlds["banking77"], worlds["shipped"]
    strangers = {f"{share:.0%} {name}": mixing(bank.others[name], share) for name in FOREIGN for share in (0.1, 0.3)}
    launch = {f"launch, {name}": mixing(desk.others["launch"], share) for name, share in (("a third", 1 / 3), ("all", 1.0))}
    hotels = {f"{share:.0%} hotels": mixing(desk.others["hotels"], share) for share in (0.1, 0.3)}
    same: dict[str, Make] = {"no shift": taken, "class shares": label_shifted}
    found = [
        _guesses(world, same | own | {kind: mixing(world.others[kind], 1.0) for kind in CHANGES}, runs, shipped, seed)
        for world, own in ((bank, strangers), (desk, launch | hotels))
    ]
    return [one for own in found for one in own]


def taken(rest: Texts, rng: np.random.Generator) -> Texts:
    """A window as it comes."""
    return rest.take(rng.permutation(len(rest.text))[:WINDOW])


def label_shifted(rest: Texts, rng: np.random.Generator) -> Texts:
    """Class shares drawn from a Dirichlet, as far as there are rows: a few classes make most of the window.

    Drawn without replacement (Efraimidis and Spirakis 2006, as Gumbel keys).
    """
    labels, index = np.unique(rest.label, return_inverse=True)
    chance = rng.dirichlet(np.full(len(labels), SPREAD))[index] / np.bincount(index)[index]
    keys = np.log(np.maximum(chance, 1e-300)) + rng.gumbel(size=len(index))
    return rest.take(np.argsort(-keys)[:WINDOW])


def mixing(foreign: Texts, share: float) -> Make:
    """So many rows of another kind."""
    return lambda rest, rng: mixed(rest, foreign, share, WINDOW, rng)


class Told(NamedTuple):
    """One window."""

    truth: float
    guesses: dict[str, float]
    bounds: tuple[float, float]


def _guesses(world: World, kinds: dict[str, Make], runs: int, shipped: Monitor, seed: int) -> list[Guess]:
    told: dict[str, list[Told]] = {kind: [] for kind in kinds}
    for run in range(runs):
        reference_rows, rest = drawn(world, np.random.default_rng([seed, run]))
        settings = monitor(shipped, window_rows=WINDOW, seed=run)
        spoilt = to_reference(world.spoilt.take(reference_rows), world.head) if world.spoilt else None
        reference = to_reference(world.pool.take(reference_rows), world.head)
        estimator = fit_accuracy_estimator(reference, spoilt, settings)
        atc_threshold = float(np.quantile(reference.probabilities.max(axis=1).astype(np.float64), 1 - estimator.accuracy))
        for number, (kind, make) in enumerate(kinds.items()):
            window = make(world.pool.take(rest), np.random.default_rng([seed, run, number]))
            told[kind].append(_told(world, window, estimator, atc_threshold, settings))
    return [_summed(f"{world.name}: {kind}", own) for kind, own in told.items()]


def _told(world: World, window: Texts, estimator: AccuracyEstimator, atc_threshold: float, settings: Monitor) -> Told:
    """Estimate one window; the controls are NannyML's CBPE, ATC (Garg et al. 2022), DoC, and no change of accuracy."""
    rows = to_rows(window, world.head, "any")
    estimate = estimate_accuracy(estimator, rows, settings)
    assert estimate is not None
    ours, confidence = estimate.accuracy, rows.probabilities.max(axis=1).astype(np.float64)
    cbpe, atc = float(confidence.mean()), float((confidence >= atc_threshold).mean())
    others = {"CBPE": cbpe, "ATC": atc, "DoC": cbpe + estimator.underconfidence, "unchanged": estimator.accuracy}
    truth = float(right(window, rows, world.head).mean())
    return Told(truth, {"ours": ours.estimate, **others}, (ours.lower, ours.upper))


def _summed(kind: str, told: list[Told]) -> Guess:
    truth = np.array([one.truth for one in told])
    errors = {name: 100 * (np.array([one.guesses[name] for one in told]) - truth) for name in told[0].guesses}
    lower, upper = np.array([one.bounds for one in told]).T
    return Guess(
        kind=kind,
        windows=len(told),
        truth=float(truth.mean()),
        error={name: float(np.abs(own).mean()) for name, own in errors.items()},
        bias={name: float(own.mean()) for name, own in errors.items()},
        covered=float(((lower <= truth) & (truth <= upper)).mean()),
        width=100 * float((upper - lower).mean()),
    )
