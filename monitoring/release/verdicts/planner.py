"""Say beforehand what a release will need and what it will catch: the shadow's own rules on simulated releases, with a seed."""

from math import ceil
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from monitoring.release.verdicts.bets import log_e_above
from monitoring.release.verdicts.shadow import TOO_LOW, shadow_thresholds
from pipeline.params import ReleaseSettings

RELEASES, SEED = 1000, 17
NEITHER_SHARE = 0.2  # of the texts with different answers, where both are wrong
Integers = NDArray[np.int64]
Flags = NDArray[np.bool_]


class ReleasePlan(NamedTuple):
    """What to expect of a release. Labels and texts are medians."""

    power: float  # P(a version that loses this accuracy is refused in the shadow)
    false_refusals: float  # P(an equally good version is refused)
    refused_on_estimate: float  # of them, those that no test has proved worse
    undecided: float  # P(an equally good version is neither proved worse nor within the margin when the labels are spent)
    labels: int  # until the shadow's verdict on an equally good version
    labels_of_worse: int  # likewise, on the version that loses this accuracy
    shadow_texts: int  # compared until the verdict on an equally good version
    canary_requests: int  # until the last step ends
    seconds: float  # until an equally good version is champion, at this rate


class SimulatedVerdicts(NamedTuple):
    """The shadow's verdicts on many releases (R,)."""

    is_refused: Flags
    is_proved: Flags  # not worse, by the margin
    is_low: Flags  # refused for its estimate alone, with the labels spent
    labels: Integers
    texts: Integers


def plan_release(settings: ReleaseSettings, *, disagreement: float, accuracy_lost: float, requests_per_s: float) -> ReleasePlan:
    """Return what a release will need whose versions differ on this share of texts.

    Raises `ValueError` for an accuracy that so few differences cannot cost.
    """
    equal = simulate_shadow(settings, *outcome_shares(disagreement, 0.0))
    worse = simulate_shadow(settings, *outcome_shares(disagreement, accuracy_lost))
    texts = float(np.median(equal.texts))
    canary = sum(ceil(settings.step_answers / share) for share in settings.shares)
    return ReleasePlan(
        float(worse.is_refused.mean()),
        float(equal.is_refused.mean()),
        float(equal.is_low.mean()),
        float((~equal.is_proved & ~equal.is_refused).mean()),
        int(np.median(equal.labels)),
        int(np.median(worse.labels)),
        int(texts),
        canary,
        (texts / settings.shadow_share + canary) / requests_per_s,
    )


def outcome_shares(disagreement: float, accuracy_lost: float) -> tuple[float, float, float]:
    """Return the shares of all texts that the challenger gains, loses, and on which the answers differ and are both wrong.

    >>> [round(share, 3) for share in outcome_shares(0.1, 0.02)]
    [0.03, 0.05, 0.02]
    """
    if not 0 < disagreement <= 1 or abs(accuracy_lost) > disagreement:
        raise ValueError(f"versions that differ on {disagreement:g} of the texts cannot differ by {accuracy_lost:g} in accuracy")
    told_apart = max(abs(accuracy_lost), disagreement * (1 - NEITHER_SHARE))
    return (told_apart - accuracy_lost) / 2, (told_apart + accuracy_lost) / 2, disagreement - told_apart


def simulate_shadow(
    settings: ReleaseSettings, gained: float, lost: float, neither: float, *, releases: int = RELEASES, seed: int = SEED
) -> SimulatedVerdicts:
    """Return the verdicts on releases whose texts have these shares of outcomes, independently.

    A verdict can only change at a text with different answers, or just before it, because equal answers raise the proof of "not
    worse" and leave the other alone.
    """
    rng, differing = np.random.default_rng(seed), gained + lost + neither
    outcome = rng.choice(3, size=(releases, settings.labels), p=np.array([gained, lost, neither]) / differing)
    texts = np.cumsum(rng.geometric(differing, size=outcome.shape), axis=1)  # up to and with each of these texts
    counts = [np.cumsum(outcome == kind, axis=1, dtype=np.float64) for kind in range(2)]
    return judge_counts(settings, texts, *counts)


def judge_counts(
    settings: ReleaseSettings, texts: Integers, gained: NDArray[np.float64], lost: NDArray[np.float64]
) -> SimulatedVerdicts:
    """Judge releases (R,) from the counts (R, labels) at each of their texts with different answers, as `judge_shadow` does.

    Parameters
        texts: texts so far, with this one.
        gained, lost: of them, those that only the challenger, or only the champion, has right.
    """
    needed, margin, spent = shadow_thresholds(settings), settings.margin, texts.shape[1]
    before = [np.pad(count, ((0, 0), (1, 0))) for count in (gained, lost)]  # each text's outcome; at last, after all of them
    until = np.concatenate([texts - 1.0, texts[:, -1:]], axis=1)
    proofs = log_e_above(-margin, until - before[0] - before[1], *before)
    first_pass = _first((proofs >= needed.not_worse) & (until >= settings.min_pairs))
    first_fail = _first(log_e_above(0.0, texts - gained - lost, lost, gained) >= needed.worse)
    is_proved = first_pass <= first_fail  # a proof before a text comes before what that text shows
    is_open = ~is_proved & (first_fail == spent)
    is_low = is_open & ((gained[:, -1] - lost[:, -1]) / texts[:, -1] < -TOO_LOW * margin)
    is_refused = is_low | (~is_proved & ~is_open)
    labels = np.where(is_proved, first_pass, np.minimum(first_fail + 1, spent))
    at = np.minimum(np.where(is_proved, first_pass, first_fail), spent - 1)
    return SimulatedVerdicts(is_refused, is_proved, is_low, labels, texts[np.arange(len(texts)), at])


def _first(flags: Flags) -> Integers:
    """Return the first true column of each row, the number of columns where there is none."""
    return np.where(flags.any(axis=1), flags.argmax(axis=1), flags.shape[1])
