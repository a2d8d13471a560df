"""Replay a mutant's answers through the shadow's rules in many random orders: one release alone may be luck."""

from typing import NamedTuple

import numpy as np

from monitoring.release.verdicts.shadow import EQUAL, GAINED, LOST, NEITHER, PairedEvidence, judge_shadow, update_shadow
from pipeline.params import ReleaseSettings
from tests.faults.zoo.changed_package import Floats, Head
from tests.faults.zoo.habitat import SEED, Habitat

BLOCK = 50  # texts between two looks


class Replayed(NamedTuple):
    """What became of the replays of one mutant."""

    points: float  # of accuracy gained on the live texts
    differing: float  # share of texts that it answers otherwise
    refused: float  # share of replays whose shadow refused it
    median_labels: float  # of the refused ones; of all when none was


def outcomes_of(habitat: Habitat, head: Head) -> np.ndarray:
    """Return the outcome of each live text (N,) when the original meets the model with this head."""
    old, new = _classes(habitat.logits), _classes(head.apply(habitat.logits, habitat.sketch))
    gained, lost = (old != new) & (new == habitat.truth), (old != new) & (old == habitat.truth)
    return np.select([old == new, gained, lost], [EQUAL, GAINED, LOST], NEITHER)


def replay_shadow(habitat: Habitat, head: Head, settings: ReleaseSettings, replays: int) -> Replayed:
    """Draw the live texts at random, with replacement, until the shadow's verdict, so many times."""
    outcomes, rng = outcomes_of(habitat, head), np.random.default_rng(SEED)
    ends = [_end(rng.choice(outcomes, 20 * len(outcomes)), settings) for _ in range(replays)]
    refused = [labels for is_refused, labels in ends if is_refused]
    points = 100 * (float((outcomes == GAINED).mean()) - float((outcomes == LOST).mean()))
    labels = refused or [labels for _, labels in ends]
    return Replayed(points, float((outcomes != EQUAL).mean()), len(refused) / replays, float(np.median(labels)))


def _end(outcomes: np.ndarray, settings: ReleaseSettings) -> tuple[bool, int]:
    """Return whether the shadow refuses, and the labels that it took."""
    evidence = PairedEvidence()
    for at in range(0, len(outcomes), BLOCK):
        evidence = update_shadow(evidence, outcomes[at : at + BLOCK].tolist(), settings)
        verdict = judge_shadow(evidence, settings)
        if verdict != "open":
            return verdict == "worse", evidence.differing
    return False, evidence.differing


def _classes(logits: Floats) -> np.ndarray:
    return np.asarray(logits.argmax(axis=1))
