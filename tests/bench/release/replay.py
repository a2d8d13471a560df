"""Replay traffic: texts drawn at random, in the order in which requests come, each from a unit of its own.

Our release meets the texts in the shadow first. The controls meet the same requests in a canary whose steps take equal time,
with a baseline arm of equal size; every answer of both arms has its label at once, which no real release has.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from monitoring.release.verdicts.planner import SimulatedVerdicts, judge_counts
from monitoring.release.verdicts.shadow import EQUAL, GAINED, LOST
from pipeline.params import ReleaseSettings
from tests.bench.release.worlds import Case, Corpus, plant

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Flags = NDArray[np.bool_]
HORIZON = 30_000  # requests in which harm is counted
SHARES, STEP = (0.01, 0.05, 0.25, 0.5), 6_300  # of the controls: requests a step; as many as our four steps take
LOOK = 300  # requests between two looks of the controls
LADDER = STEP * len(SHARES)


class ControlLooks(NamedTuple):
    """What the controls see at each look of each release, all (R, K) and new since the look before."""

    answers: Integers  # of the challenger's arm
    right: Integers
    baseline_answers: Integers
    baseline_right: Integers
    harmed: Integers  # answers of the challenger that are wrong where the champion's is right


class Played(NamedTuple):
    """Releases of one case, replayed."""

    case: Case
    verdicts: SimulatedVerdicts  # of our shadow
    harmed: Integers  # (R,) by our release within the horizon
    promoted_at: Floats  # (R,) requests until our release ends as champion; infinite: refused, or not within the horizon
    looks: ControlLooks
    harmed_after: Integers  # (R,) between the end of the controls' ladder and the horizon, once promoted


class Stream(NamedTuple):
    """The requests of one release (N,)."""

    outcomes: Integers
    is_right: Flags  # the champion's answer
    units: Floats


def replay(corpus: Corpus, case: Case, settings: ReleaseSettings, *, releases: int, seed: int) -> Played:
    """Replay releases of this case."""
    counts = np.zeros((3, releases, settings.labels))
    looks = np.zeros((5, releases, LADDER // LOOK), dtype=np.int64)
    after = np.zeros(releases, dtype=np.int64)
    for number in range(releases):
        stream = make_stream(corpus, case, seed, number)
        counts[:, number] = labelled_counts(stream, settings.labels)
        looks[:, number] = control_looks(stream)
        after[number] = (stream.outcomes[LADDER:] == LOST).sum()
    verdicts = judge_counts(settings, counts[0].astype(np.int64), counts[1], counts[2])
    harmed, promoted_at = np.zeros(releases, dtype=np.int64), np.full(releases, np.inf)
    for number in np.flatnonzero(~verdicts.is_refused):
        stream = make_stream(corpus, case, seed, int(number))
        harmed[number], promoted_at[number] = climb(stream, int(verdicts.texts[number]), settings)
    return Played(case, verdicts, harmed, promoted_at, ControlLooks(*looks), after)


def make_stream(corpus: Corpus, case: Case, seed: int, number: int, requests: int = HORIZON) -> Stream:
    """Return the requests of a release; equal numbers have equal requests."""
    rng = np.random.default_rng([seed, number])
    outcomes = plant(corpus, case, rng)
    texts = rng.integers(len(outcomes), size=requests)
    return Stream(outcomes[texts], corpus.is_right[texts], rng.random(requests))


def labelled_counts(stream: Stream, labels: int) -> Floats:
    """Return texts, gained and lost (3, labels) at each of the first texts with different answers; the last ones are repeated."""
    places = np.flatnonzero(stream.outcomes != EQUAL)[:labels]
    found = stream.outcomes[places]
    counts = np.stack([places + 1, np.cumsum(found == GAINED), np.cumsum(found == LOST)]).astype(np.float64)
    missing = labels - len(places)
    if not missing:
        return counts
    last = counts[:, -1:] if len(places) else np.zeros((3, 1))
    rest = np.repeat(last, missing, axis=1)
    rest[0] = HORIZON
    return np.concatenate([counts, rest], axis=1)


def control_looks(stream: Stream) -> Integers:
    """Return the five counts of `ControlLooks` (5, K)."""
    share = np.repeat(SHARES, STEP)
    units, outcomes, is_right = (values[:LADDER] for values in (stream.units, stream.outcomes, stream.is_right))
    in_challenger, in_baseline = units < share, units >= 1 - share
    challenger_right = (is_right & (outcomes != LOST)) | (outcomes == GAINED)
    counted = (
        in_challenger,
        in_challenger & challenger_right,
        in_baseline,
        in_baseline & is_right,
        in_challenger & (outcomes == LOST),
    )
    return np.stack([flags.reshape(-1, LOOK).sum(axis=1) for flags in counted])


def climb(stream: Stream, start: int, settings: ReleaseSettings) -> tuple[int, float]:
    """Climb our ladder from this request on; return the requests harmed within the horizon, and the request of the promotion."""
    harmed, at = 0, start
    for share in settings.shares:
        units = stream.units[at:]
        enough = np.minimum(np.cumsum(units < share), np.cumsum(units >= 1 - share)) >= settings.step_answers
        length = int(enough.argmax()) + 1 if enough.any() else len(units)
        harmed += int(((units < share) & (stream.outcomes[at:] == LOST))[:length].sum())
        at += length
        if not enough.any():
            return harmed, float("inf")
    return harmed + int((stream.outcomes[at:] == LOST).sum()), float(at)
