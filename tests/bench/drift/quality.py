"""Measure goal D6: accuracy without labels, on windows whose labels only the bench knows.

A window holds no text twice, as in the monitor. Typos, run-together words and greetings differ from the corruption that the
reference is built with, and the reference has no foreign texts.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from monitoring.drift.accuracy import AccuracyEstimator, estimate_accuracy, fit_accuracy_estimator
from pipeline.params import Monitor
from tests.bench.drift.embedded import Texts
from tests.bench.drift.worlds import CHANGES, World, draw_rows, is_right, mixed, monitor, to_reference, to_rows

WINDOW, SPREAD = 500, 0.3
FOREIGN = ("hotels", "support desk")


class Guess(NamedTuple):
    """Summarise the estimates for one kind of shift; errors in points of accuracy (estimate − truth)."""

    kind: str
    windows: int
    truth: float
    error: dict[str, float]  # mean absolute, by estimator
    bias: dict[str, float]  # mean signed
    covered: float  # share of windows whose true accuracy lies within our bounds
    width: float  # mean distance between the bounds, points


Make = Callable[[Texts, np.random.Generator], Texts]


def guesses(worlds: dict[str, World], runs: int, shipped: Monitor, seed: int) -> list[Guess]:
    """Estimate accuracy under every kind of shift; each run has a new reference and new windows."""
    bank, desk = worlds["banking77"], worlds["shipped"]
    foreign = {f"{share:.0%} {name}": mixing(bank.others[name], share) for name in FOREIGN for share in (0.1, 0.3)}
    launch = {f"launch, {name}": mixing(desk.others["launch"], share) for name, share in (("a third", 1 / 3), ("all", 1.0))}
    hotels = {f"{share:.0%} hotels": mixing(desk.others["hotels"], share) for share in (0.1, 0.3)}
    same: dict[str, Make] = {"no shift": unshifted, "class shares": label_shifted}
    by_world = [
        _guesses(world, same | extra | {kind: mixing(world.others[kind], 1.0) for kind in CHANGES}, runs, shipped, seed)
        for world, extra in ((bank, foreign), (desk, launch | hotels))
    ]
    return [guess for summaries in by_world for guess in summaries]


def unshifted(rest: Texts, rng: np.random.Generator) -> Texts:
    """Return a random window without any shift."""
    return rest.take(rng.permutation(len(rest.text))[:WINDOW])


def label_shifted(rest: Texts, rng: np.random.Generator) -> Texts:
    """Return a window whose class shares are drawn from a Dirichlet, as far as there are rows: a few classes dominate it.

    Rows are drawn without replacement (Efraimidis and Spirakis 2006, as Gumbel keys).
    """
    labels, index = np.unique(rest.label, return_inverse=True)
    chance = rng.dirichlet(np.full(len(labels), SPREAD))[index] / np.bincount(index)[index]
    keys = np.log(np.maximum(chance, 1e-300)) + rng.gumbel(size=len(index))
    return rest.take(np.argsort(-keys)[:WINDOW])


def mixing(foreign: Texts, share: float) -> Make:
    """Return a maker of windows with this share of foreign rows."""
    return lambda rest, rng: mixed(rest, foreign, share, WINDOW, rng)


class Estimates(NamedTuple):
    """Hold the true accuracy of one window and its estimates."""

    truth: float
    guesses: dict[str, float]
    bounds: tuple[float, float]


def _guesses(world: World, kinds: dict[str, Make], runs: int, shipped: Monitor, seed: int) -> list[Guess]:
    estimates: dict[str, list[Estimates]] = {kind: [] for kind in kinds}
    for run in range(runs):
        reference_rows, rest = draw_rows(world, np.random.default_rng([seed, run]))
        settings = monitor(shipped, window_rows=WINDOW, seed=run)
        corrupted = to_reference(world.corrupted.take(reference_rows), world.head) if world.corrupted else None
        reference = to_reference(world.pool.take(reference_rows), world.head)
        estimator = fit_accuracy_estimator(reference, corrupted, settings)
        atc_threshold = float(np.quantile(reference.probabilities.max(axis=1).astype(np.float64), 1 - estimator.accuracy))
        for number, (kind, make) in enumerate(kinds.items()):
            window = make(world.pool.take(rest), np.random.default_rng([seed, run, number]))
            estimates[kind].append(_estimates(world, window, estimator, atc_threshold, settings))
    return [_summarise(f"{world.name}: {kind}", of_kind) for kind, of_kind in estimates.items()]


def _estimates(world: World, window: Texts, estimator: AccuracyEstimator, atc_threshold: float, settings: Monitor) -> Estimates:
    """Estimate one window; the controls are NannyML's CBPE, ATC (Garg et al. 2022), DoC, and no change of accuracy."""
    rows = to_rows(window, world.head, "any")
    estimate = estimate_accuracy(estimator, rows, settings)
    assert estimate is not None
    ours, confidence = estimate.accuracy, rows.probabilities.max(axis=1).astype(np.float64)
    cbpe, atc = float(confidence.mean()), float((confidence >= atc_threshold).mean())
    others = {"CBPE": cbpe, "ATC": atc, "DoC": cbpe + estimator.underconfidence, "unchanged": estimator.accuracy}
    truth = float(is_right(window, rows, world.head).mean())
    return Estimates(truth, {"ours": ours.estimate, **others}, (ours.lower, ours.upper))


def _summarise(kind: str, estimates: list[Estimates]) -> Guess:
    truth = np.array([window.truth for window in estimates])
    errors = {name: 100 * (np.array([window.guesses[name] for window in estimates]) - truth) for name in estimates[0].guesses}
    lower, upper = np.array([window.bounds for window in estimates]).T
    return Guess(
        kind=kind,
        windows=len(estimates),
        truth=float(truth.mean()),
        error={name: float(np.abs(values).mean()) for name, values in errors.items()},
        bias={name: float(values.mean()) for name, values in errors.items()},
        covered=float(((lower <= truth) & (truth <= upper)).mean()),
        width=100 * float((upper - lower).mean()),
    )
