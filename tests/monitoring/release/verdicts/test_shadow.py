"""Check the shadow's verdicts on seeded streams, with the exact text at which each is reached."""

import json
from math import log

import numpy as np
import pytest

from monitoring.release.verdicts.bets import STAKE_WEIGHTS, STAKES
from monitoring.release.verdicts.shadow import (
    NEITHER,
    PairedEvidence,
    ShadowVerdict,
    describe_shadow,
    judge_shadow,
    shadow_thresholds,
    update_shadow,
)
from pipeline.params import Params, ReleaseSettings


@pytest.fixture
def settings(params: Params) -> ReleaseSettings:
    return params.release


def stream(seed: int, *, gained: float, lost: float, neither: float = 0.01, texts: int = 3000) -> list[int]:
    """Return outcomes with these shares."""
    shares = [1 - gained - lost - neither, gained, lost, neither]
    return [int(outcome) for outcome in np.random.default_rng(seed).choice([0, 1, -1, NEITHER], p=shares, size=texts)]


def first_verdict(outcomes: list[int], settings: ReleaseSettings, look: int = 1) -> tuple[ShadowVerdict, int, int]:
    """Return the first verdict, with the texts and labels until the look that shows it."""
    evidence = PairedEvidence()
    for start in range(0, len(outcomes), look):
        evidence = update_shadow(evidence, outcomes[start : start + look], settings)
        verdict = judge_shadow(evidence, settings)
        if verdict != "open":
            return verdict, evidence.pairs, evidence.differing
    return "open", len(outcomes), evidence.differing


@pytest.mark.parametrize(
    ("seed", "gained", "lost", "expected"),
    [
        (1, 0.024, 0.024, ("not_worse", 378, 24)),
        (2, 0.014, 0.034, ("worse", 150, 9)),
        (3, 0.005, 0.055, ("worse", 318, 19)),
        (4, 0.0, 0.0, ("not_worse", 300, 3)),
    ],
)
def test_a_verdict_comes_at_this_text(
    seed: int, gained: float, lost: float, expected: tuple[str, int, int], settings: ReleaseSettings
) -> None:
    assert first_verdict(stream(seed, gained=gained, lost=lost), settings) == expected


def test_a_version_without_a_difference_passes_after_the_least_number_of_texts(settings: ReleaseSettings) -> None:
    assert first_verdict([0] * 1000, settings) == ("not_worse", settings.min_pairs, 0)


def test_nine_losses_in_a_row_prove_a_version_worse(settings: ReleaseSettings) -> None:
    assert first_verdict([-1] * 20, settings) == ("worse", 9, 9)
    wealth = [float(STAKE_WEIGHTS @ (1 + STAKES) ** losses) for losses in (8, 9)]
    assert wealth[0] < 1 / (0.5 * settings.false_rollbacks) <= wealth[1]


def test_looks_may_come_at_any_time(settings: ReleaseSettings) -> None:
    outcomes = stream(2, gained=0.02, lost=0.04)[:700]
    one_by_one = PairedEvidence()
    for outcome in outcomes:
        one_by_one = update_shadow(one_by_one, [outcome], settings)
    at_once = update_shadow(PairedEvidence(), outcomes, settings)
    halves = update_shadow(update_shadow(PairedEvidence(), outcomes[:300], settings), outcomes[300:], settings)
    assert one_by_one == pytest.approx(at_once) and halves == pytest.approx(at_once)


def test_a_proof_between_two_looks_counts(settings: ReleaseSettings) -> None:
    lost_then_won = [-1] * 12 + [1] * 40
    assert judge_shadow(update_shadow(PairedEvidence(), lost_then_won, settings), settings) == "worse"


def test_an_undecided_version_is_refused_when_its_estimate_is_below_half_the_margin(settings: ReleaseSettings) -> None:
    few = settings.model_copy(update={"labels": 4})
    losing, even = [-1, -1, 1, -1] + [0] * 150, [-1, 1, 1, -1] + [0] * 150
    assert judge_shadow(update_shadow(PairedEvidence(), losing, few), few) == "worse", "−2 of 154 texts"
    assert judge_shadow(update_shadow(PairedEvidence(), [*losing, *[0] * 100], few), few) == "undecided", "−2 of 254 texts"
    assert judge_shadow(update_shadow(PairedEvidence(), even, few), few) == "undecided"
    assert judge_shadow(update_shadow(PairedEvidence(), even[:3], few), few) == "open"


def test_texts_that_both_have_wrong_use_up_labels_and_say_nothing(settings: ReleaseSettings) -> None:
    evidence = update_shadow(PairedEvidence(), [NEITHER] * settings.labels, settings)
    assert evidence.differing == settings.labels and evidence.estimate == 0 and evidence.top_worse == 0
    assert judge_shadow(evidence, settings) == "undecided"


def test_an_unknown_outcome_is_refused(settings: ReleaseSettings) -> None:
    with pytest.raises(ValueError, match="-2"):
        update_shadow(PairedEvidence(), [0, -2], settings)


def test_no_texts_change_nothing(settings: ReleaseSettings) -> None:
    assert update_shadow(PairedEvidence(), [], settings) == PairedEvidence()
    assert judge_shadow(PairedEvidence(), settings) == "open"


def test_evidence_survives_json(settings: ReleaseSettings) -> None:
    evidence = update_shadow(PairedEvidence(), stream(5, gained=0.02, lost=0.03)[:400], settings)
    assert PairedEvidence.from_json(json.loads(json.dumps(evidence.to_json()))) == evidence
    assert PairedEvidence.from_json({}) == PairedEvidence()


def test_the_thresholds_are_those_of_the_settings(settings: ReleaseSettings) -> None:
    assert shadow_thresholds(settings) == pytest.approx((log(40), log(20)))


def test_a_description_has_the_estimate_inside_its_interval(settings: ReleaseSettings) -> None:
    row = describe_shadow(update_shadow(PairedEvidence(), [0] * 95 + [1, -1, -1, 2, 0], settings))
    assert (row["pairs"], row["differing"], row["labelled"], row["gained"], row["lost"]) == (100, 4, 4, 1, 2)
    assert row["lower"] < row["estimate"] == -0.01 < row["upper"]


def test_an_equally_good_version_is_rarely_refused_and_one_that_lost_the_margin_rarely_passes(settings: ReleaseSettings) -> None:
    equal = [first_verdict(stream(seed, gained=0.024, lost=0.024), settings, 100)[0] for seed in range(60)]
    worse = [first_verdict(stream(seed, gained=0.014, lost=0.034), settings, 100)[0] for seed in range(60)]
    assert equal.count("worse") <= 3 and worse.count("worse") >= 54
