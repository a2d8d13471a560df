"""Measure goal D3: the delay until a rise of errors from .10 to .15 is seen, by detectors with false alarms in 5 % of streams.

Our detector and the oracles get their thresholds in the same way: from simulated streams of 10,000 items at the tolerated rate.
"""

from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from monitoring.detectors.e_process import bernoulli_payoffs
from monitoring.drift.accuracy import SUSPECTED_RATIOS

Floats = NDArray[np.float64]
TOLERATED, RISEN, HORIZON, CHANGE, AFTER, ALPHA = 0.10, 0.15, 10_000, 3_000, 3_000, 0.05
CERTAINTY = 0.99


class Delays(NamedTuple):
    """Hold one detector's results over all streams."""

    name: str
    false_alarms: float  # share of streams of 10,000 without change
    missed: float  # share of changes not seen within 3,000 items, in streams without an earlier alarm
    delays: list[int]  # items from the change to the alarm; missed ones are AFTER

    @property
    def median(self) -> float:
        return float(np.median(self.delays))


def streams(count: int, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return (count, 10000) errors without change, and (count, 6000) with a change after 3,000."""
    rng = np.random.default_rng(seed)
    changed = rng.random((count, CHANGE + AFTER))
    risen = np.concatenate([changed[:, :CHANGE] < TOLERATED, changed[:, CHANGE:] < RISEN], axis=1)
    return (rng.random((count, HORIZON)) < TOLERATED).astype(np.uint8), risen.astype(np.uint8)


def ours_and_oracles(count: int, simulated: int, seed: int) -> list[Delays]:
    """Run the mixture, which knows only the tolerated rate, and the oracles, which know both rates."""
    mixture = TOLERATED * SUSPECTED_RATIOS
    kinds = {
        "e-detector (ours)": (mixture, "shiryaev-roberts"),
        "e-detector, proved threshold (ours)": (mixture, "proved"),
        "oracle, Shiryaev-Roberts": (np.array([RISEN]), "shiryaev-roberts"),
        "oracle, CUSUM": (np.array([RISEN]), "cusum"),
    }
    null, changed = streams(count, seed)
    results = []
    for number, (name, (suspected, kind)) in enumerate(kinds.items()):
        table = bernoulli_payoffs(TOLERATED, suspected)
        weights = np.full(len(suspected), 1 / len(suspected))
        threshold = HORIZON / ALPHA
        if kind != "proved":
            rng = np.random.default_rng([seed, number])
            threshold = simulated_threshold(
                table,
                np.array([1 - TOLERATED, TOLERATED]),
                weights,
                kind=kind,
                horizon=HORIZON,
                alpha=ALPHA,
                streams=simulated,
                rng=rng,
            )
        alarms = [_first_alarms(table, outcomes, weights, kind, threshold) for outcomes in (null, changed)]
        results.append(summarise(name, alarms[0], alarms[1]))
    return results


def simulated_threshold(
    table: Floats,
    probabilities: Floats,
    weights: Floats,
    *,
    kind: str,
    horizon: int,
    alpha: float,
    streams: int,
    rng: np.random.Generator,
) -> float:
    """Return the threshold that a mixture passes within `horizon` rows in at most a share `alpha` of simulated streams.

    `table` (J, outcomes) holds payoffs and `probabilities` (outcomes,) those of independent outcomes at the edge of the null
    hypothesis; kind: shiryaev-roberts or cusum. It is lower than the proved horizon / alpha, so alarms come sooner. Its promise
    is calibrated, not proved, and needs independence. Ranks of the draws are given away so that it holds with CERTAINTY.
    """
    edges = np.cumsum(probabilities)[:-1]
    wealth, highest = np.zeros((len(weights), streams)), np.zeros(streams)
    for _ in range(horizon):
        payoff = table[:, np.searchsorted(edges, rng.random(streams), side="right")]
        wealth = (np.maximum(wealth, 1.0) if kind == "cusum" else wealth + 1.0) * payoff
        np.maximum(highest, weights @ wealth, out=highest)
    margin = NormalDist().inv_cdf(CERTAINTY) * np.sqrt(streams * alpha * (1 - alpha))
    return float(np.sort(highest)[::-1][max(0, int(np.floor(alpha * streams - margin)) - 1)])


def summarise(name: str, null: NDArray[np.int64], changed: NDArray[np.int64]) -> Delays:
    """Summarise the first alarms (−1: none) in streams without and with a change."""
    due = changed[(changed < 0) | (changed >= CHANGE)]
    delays = np.where(due < 0, AFTER, due - CHANGE + 1)
    return Delays(name, float((null >= 0).mean()), float((due < 0).mean()), delays.tolist())


def _first_alarms(table: Floats, outcomes: NDArray[np.uint8], weights: Floats, kind: str, threshold: float) -> NDArray[np.int64]:
    """Return the index of each stream's first alarm (−1: none), of payoffs (J, 2) and outcomes (streams, T)."""
    wealth = np.zeros((len(weights), len(outcomes)))
    alarms = np.full(len(outcomes), -1)
    for index, outcome in enumerate(outcomes.T):
        wealth = (np.maximum(wealth, 1.0) if kind == "cusum" else wealth + 1.0) * table[:, outcome]
        alarms[(weights @ wealth >= threshold) & (alarms < 0)] = index
    return alarms
