"""Play whole releases of good versions through the shipped rules, guardrails included: how often is one refused or rolled back?

Both arms share the load, which slows all answers by turns, and an outage in which a third of the answers fail.
"""

from collections import Counter
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from monitoring.release.verdicts.guardrails import (
    ArmLook,
    Guardrail,
    GuardrailEvidence,
    Look,
    broken_guardrail,
    first_guardrails,
    update_guardrails,
)
from monitoring.release.verdicts.ladder import Move, Standing, decide_move
from monitoring.release.verdicts.shadow import EQUAL, GAINED, LOST, PairedEvidence, judge_shadow, update_shadow
from pipeline.params import ReleaseSettings
from tests.bench.release.replay import Stream, make_stream
from tests.bench.release.worlds import Case, Corpus

Flags = NDArray[np.bool_]
REQUESTS, LOOK = 40_000, 500  # at most; between two looks
FAILED, OUTAGE, OUTAGE_LENGTH = 0.002, 0.3, 300  # shares of answers that fail; requests
CACHED, JUDGED = 0.3, 0.05  # shares of answers
BYTES = 4e8


class Ending(NamedTuple):
    """How a release ended."""

    move: Move  # wait: the requests were over
    broken: Guardrail | None
    requests: int


class Weather(NamedTuple):
    """What happens to each request, whichever arm answers it (REQUESTS,)."""

    buckets: NDArray[np.int64]
    has_failed: Flags
    is_cached: Flags
    is_judged: Flags


def play(corpus: Corpus, case: Case, settings: ReleaseSettings, *, seed: int, number: int) -> Ending:
    """Play a release until it ends."""
    stream = make_stream(corpus, case, seed, number, REQUESTS)
    rng = np.random.default_rng([seed, number, 1])
    weather = make_weather(rng)
    shadow, at = PairedEvidence(), 0
    standing = Standing("shadow")
    guardrails: GuardrailEvidence | None = None
    for start in range(0, REQUESTS, LOOK):
        at = start + LOOK
        requests = slice(start, at)
        broken: Guardrail | None = None
        if guardrails is None:
            shadow = update_shadow(shadow, _until_spent(shadow, stream.outcomes[requests], settings), settings)
        else:
            look = make_look(stream, weather, requests, settings.shares[standing.rung], BYTES * (1 + 0.1 * rng.random()))
            guardrails = update_guardrails(guardrails, look, settings)
            broken = broken_guardrail(guardrails, settings)
            standing = standing._replace(
                answered=standing.answered + look.challenger.answered,
                baseline_answered=standing.baseline_answered + look.baseline.answered,
            )
        move = decide_move(standing, judge_shadow(shadow, settings), broken, settings, wish="none")
        if move in ("refuse", "roll_back", "promote"):
            return Ending(move, broken, at)
        if move == "start_canary":
            guardrails, standing = first_guardrails(shadow, settings), Standing("canary")
        if move == "step_up":
            standing = Standing("canary", standing.rung + 1)
    return Ending("wait", None, at)


def make_weather(rng: np.random.Generator) -> Weather:
    """Return latencies that double and halve with the load, rare failures, and one outage."""
    places = np.arange(REQUESTS)
    load_ms = 8 * 2 ** np.sin(2 * np.pi * (places / 5_000 + rng.random()))
    latency_ms = load_ms * rng.lognormal(0.0, 0.4, REQUESTS)
    fails = np.full(REQUESTS, FAILED)
    begin = int(rng.integers(REQUESTS - OUTAGE_LENGTH))
    fails[begin : begin + OUTAGE_LENGTH] = OUTAGE
    buckets = np.floor(np.log(latency_ms) / np.log(1.1)).astype(np.int64)
    return Weather(buckets, rng.random(REQUESTS) < fails, rng.random(REQUESTS) < CACHED, rng.random(REQUESTS) < JUDGED)


def make_look(stream: Stream, weather: Weather, requests: slice, share: float, memory: float) -> Look:
    """Return what these requests show of both arms."""
    outcomes, is_right, units = (values[requests] for values in stream)
    challenger_right = (is_right & (outcomes != LOST)) | (outcomes == GAINED)
    in_challenger, in_baseline = units < share, units >= 1 - share
    has_failed, is_judged = weather.has_failed[requests], weather.is_judged[requests]
    sides = ((in_challenger, challenger_right), (in_baseline, is_right))
    arms = [_arm(weather, requests, inside & ~has_failed, inside & has_failed) for inside, _ in sides]
    judged = [(int((inside & is_judged & right).sum()), int((inside & is_judged).sum())) for inside, right in sides]
    copied = ~in_challenger
    differing = int((copied & (outcomes != EQUAL)).sum())
    return Look(arms[0], arms[1], int(copied.sum()), differing, judged[0], judged[1], memory, BYTES)


def false_refusals(endings: list[Ending]) -> tuple[float, Counter[str]]:
    """Return the share of releases that were refused or rolled back, and why."""
    reasons = Counter(ending.broken or "shadow" for ending in endings if ending.move in ("refuse", "roll_back"))
    return sum(reasons.values()) / len(endings), reasons


def _arm(weather: Weather, requests: slice, answered: Flags, failed: Flags) -> ArmLook:
    timed = weather.buckets[requests][answered & ~weather.is_cached[requests]]
    return ArmLook(int(answered.sum()), int(failed.sum()), 0, Counter(timed.tolist()))


def _until_spent(shadow: PairedEvidence, outcomes: NDArray[np.int64], settings: ReleaseSettings) -> list[int]:
    """Return the outcomes up to the last text that gets a label."""
    differing = shadow.differing + np.cumsum(outcomes != EQUAL)
    return outcomes[differing <= settings.labels].tolist()
