"""Check every guardrail on seeded looks, with the exact look at which it breaks, and on arms that are equal."""

import json
from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from monitoring.release.verdicts.guardrails import (
    GUARDRAILS,
    ArmLook,
    GuardrailEvidence,
    Look,
    broken_guardrail,
    describe_guardrails,
    first_guardrails,
    guardrail_threshold,
    slow_after,
    update_guardrails,
)
from monitoring.release.verdicts.shadow import PairedEvidence
from pipeline.params import Params, ReleaseSettings

SHADOW = PairedEvidence(pairs=500, differing=30, gained=12, lost=12)


class Arm:
    """An arm whose answers fail, break, slow down and err at these rates."""

    def __init__(self, *, failed: float = 0.0, broken: float = 0.0, times_slower: float = 1.0, wrong: float = 0.1) -> None:
        self.failed, self.broken, self.times_slower, self.wrong = failed, broken, times_slower, wrong

    def look(self, rng: np.random.Generator, load: float = 1.0) -> tuple[ArmLook, tuple[int, int]]:
        """Return about ten answers, and the labels of half of them."""
        answers = int(rng.poisson(10))
        failed = int(rng.binomial(answers, self.failed))
        latencies = Counter(np.round(10 * np.log(load * self.times_slower * rng.lognormal(2, 0.3, answers))).astype(int).tolist())
        judged = answers // 2
        right = judged - int(rng.binomial(judged, self.wrong))
        return ArmLook(answers - failed, failed, int(rng.binomial(answers - failed, self.broken)), latencies), (right, judged)


def looks(
    seed: int, challenger: Arm, *, baseline: Arm | None = None, differing: float = 0.06, memory: float = 1.0, count: int = 100
) -> Iterator[Look]:
    """Yield looks; the challenger's process grows by this factor every ten looks."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        load = 3.0 if number // 10 % 2 else 1.0  # of both arms
        (arm, judged), (other, other_judged) = challenger.look(rng, load), (baseline or Arm()).look(rng, load)
        compared = int(rng.poisson(20))
        yield Look(
            arm, other, compared, int(rng.binomial(compared, differing)), judged, other_judged, 4e8 * memory ** (number / 10), 4e8
        )


def first_broken(stream: Iterator[Look], settings: ReleaseSettings) -> tuple[str | None, int]:
    """Return what broke, and after how many looks."""
    evidence = first_guardrails(SHADOW, settings)
    number = 0
    for number, look in enumerate(stream, start=1):
        evidence = update_guardrails(evidence, look, settings)
        broken = broken_guardrail(evidence, settings)
        if broken:
            return broken, number
    return None, number


@pytest.fixture
def settings(params: Params) -> ReleaseSettings:
    return params.release


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: looks(1, Arm(failed=1.0)), ("errors", 2)),
        (lambda: looks(1, Arm(failed=0.1)), ("errors", 13)),
        (lambda: looks(1, Arm(broken=1.0)), ("broken_answers", 2)),
        (lambda: looks(1, Arm(broken=0.1)), ("broken_answers", 17)),
        (lambda: looks(1, Arm(times_slower=3.0)), ("latency", 5)),
        (lambda: looks(1, Arm(times_slower=1.5)), ("latency", 35)),
        (lambda: looks(1, Arm(), differing=0.3), ("disagreement", 4)),
        (lambda: looks(1, Arm(wrong=0.5)), ("feedback", 11)),
        (lambda: looks(1, Arm(), memory=1.3), ("memory", 21)),
    ],
)
def test_a_guardrail_breaks_at_this_look(
    make: Callable[[], Iterator[Look]], expected: tuple[str, int], settings: ReleaseSettings
) -> None:
    assert first_broken(make(), settings) == expected


@pytest.mark.parametrize("seed", range(8))
def test_equal_arms_break_nothing_while_the_load_of_both_triples_by_turns(seed: int, settings: ReleaseSettings) -> None:
    assert first_broken(looks(seed, Arm(failed=0.003), baseline=Arm(failed=0.003)), settings) == (None, 100)


def test_an_outage_of_both_arms_breaks_nothing(settings: ReleaseSettings) -> None:
    out = Arm(failed=0.5)
    assert first_broken(looks(7, out, baseline=out), settings) == (None, 100)


def test_a_challenger_within_what_is_allowed_breaks_nothing(settings: ReleaseSettings) -> None:
    assert first_broken(looks(8, Arm(failed=0.008, broken=0.008, wrong=0.14), differing=0.1), settings) == (None, 100)


def test_looks_without_answers_say_nothing(settings: ReleaseSettings) -> None:
    evidence = first_guardrails(SHADOW, settings)
    for _ in range(5):
        evidence = update_guardrails(evidence, Look(), settings)
    assert broken_guardrail(evidence, settings) is None
    rows = describe_guardrails(evidence, settings)
    assert [rows[name]["log_e"] for name in GUARDRAILS] == pytest.approx([0.0] * len(GUARDRAILS))
    assert rows["errors"]["seen"] is None and rows["memory"]["allowed"] is None


def test_answers_of_one_arm_wait_for_those_of_the_other(settings: ReleaseSettings) -> None:
    evidence = first_guardrails(SHADOW, settings)
    evidence = update_guardrails(evidence, Look(challenger=ArmLook(answered=0, failed=50)), settings)
    assert broken_guardrail(evidence, settings) is None, "without a baseline nobody knows whether it is the challenger"
    evidence = update_guardrails(evidence, Look(baseline=ArmLook(answered=50)), settings)
    assert broken_guardrail(evidence, settings) == "errors"


def test_a_broken_guardrail_stays_broken(settings: ReleaseSettings) -> None:
    evidence = first_guardrails(SHADOW, settings)
    evidence = update_guardrails(evidence, Look(ArmLook(0, 40), ArmLook(40, 0)), settings)
    for _ in range(20):
        evidence = update_guardrails(evidence, Look(ArmLook(40, 0), ArmLook(40, 0)), settings)
    assert broken_guardrail(evidence, settings) == "errors"


def test_memory_must_stay_above_its_limit_for_five_looks(settings: ReleaseSettings) -> None:
    evidence = first_guardrails(SHADOW, settings)
    for memory in (1.0, 1.6, 1.6, 1.6, 1.6, 1.4, 1.6, 1.6, 1.6, 1.6):
        evidence = update_guardrails(evidence, Look(memory=memory, first_memory=1.0), settings)
    assert broken_guardrail(evidence, settings) is None, "a peak is no leak"
    evidence = update_guardrails(evidence, Look(memory=None, first_memory=1.0), settings)
    evidence = update_guardrails(evidence, Look(memory=1.6, first_memory=1.0), settings)
    assert broken_guardrail(evidence, settings) == "memory"


def test_the_percentile_comes_from_earlier_looks_and_latencies_before_it_are_not_judged(settings: ReleaseSettings) -> None:
    fast, slow = {10: 100}, {20: 100}
    evidence = update_guardrails(
        first_guardrails(SHADOW, settings), Look(ArmLook(100, latencies=slow), ArmLook(100, latencies=fast)), settings
    )
    assert evidence.latency.pairs == 0 and slow_after(evidence.baseline_latencies) == 10
    evidence = update_guardrails(evidence, Look(ArmLook(100, latencies=slow), ArmLook(100, latencies=slow)), settings)
    assert evidence.latency.shares == (1.0, 1.0), "both became slow together"
    assert broken_guardrail(evidence, settings) is None


def test_the_forecast_of_the_shadow_bounds_its_disagreement(settings: ReleaseSettings) -> None:
    assert 0.06 < first_guardrails(SHADOW, settings).forecast < 0.13
    assert first_guardrails(PairedEvidence(), settings).forecast == pytest.approx(1), "no shadow, no forecast"
    identical = first_guardrails(PairedEvidence(pairs=300), settings).forecast
    assert 0 < identical < 0.04


def test_the_alphas_of_the_guardrails_and_the_shadow_sum_to_the_settings(settings: ReleaseSettings) -> None:
    shares = {name: np.exp(-guardrail_threshold(name, settings)) for name in GUARDRAILS if name != "memory"}
    assert shares["disagreement"] == pytest.approx(shares["errors"] / 2), "its forecast may be wrong as often"
    assert 6 * shares["errors"] + 0.5 * settings.false_rollbacks == pytest.approx(settings.false_rollbacks)


def test_evidence_survives_json(settings: ReleaseSettings) -> None:
    evidence: GuardrailEvidence = first_guardrails(SHADOW, settings)
    for look in looks(3, Arm(failed=0.02), count=12):
        evidence = update_guardrails(evidence, look, settings)
        stored = GuardrailEvidence.from_json(json.loads(json.dumps(evidence.to_json())))
        assert stored == evidence
    assert describe_guardrails(stored, settings) == describe_guardrails(evidence, settings)


def test_a_description_sets_what_was_seen_against_what_is_allowed(settings: ReleaseSettings) -> None:
    evidence = update_guardrails(
        first_guardrails(SHADOW, settings),
        Look(ArmLook(96, 4, 0), ArmLook(99, 1, 0), 50, 5, (8, 10), (9, 10), 5e8, 4e8),
        settings,
    )
    rows = describe_guardrails(evidence, settings)
    assert list(rows) == list(GUARDRAILS)
    assert (rows["errors"]["seen"], rows["errors"]["allowed"], rows["errors"]["answers"]) == pytest.approx((0.04, 0.02, 100))
    assert (rows["feedback"]["seen"], rows["feedback"]["allowed"]) == pytest.approx((0.2, 0.15))
    assert rows["disagreement"]["seen"] == 0.1 and rows["memory"]["allowed"] == 6e8
    assert all(row["log_e"] < row["log_threshold"] for row in rows.values())
