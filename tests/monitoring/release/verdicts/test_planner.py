"""Check that plans follow the rules that releases follow."""

import numpy as np
import pytest

from monitoring.release.verdicts.planner import judge_counts, outcome_shares, plan_release, simulate_shadow
from monitoring.release.verdicts.shadow import PairedEvidence, judge_shadow, update_shadow
from pipeline.params import Params


@pytest.mark.parametrize("labels", [10, 30])
@pytest.mark.parametrize("lost", [0.0, 0.03])
def test_simulated_verdicts_are_those_of_the_shadow_text_by_text(params: Params, labels: int, lost: float) -> None:
    settings = params.release.model_copy(update={"labels": labels, "min_pairs": 60})
    gained, losses, neither = outcome_shares(0.08, lost)
    rng = np.random.default_rng(labels)
    for _ in range(6):
        outcomes = rng.choice([0, 1, -1, 2], p=[1 - gained - losses - neither, gained, losses, neither], size=3000)
        places = np.flatnonzero(outcomes)[:labels]
        counts = [np.cumsum(outcomes[places] == kind, dtype=float)[None] for kind in (1, -1)]
        simulated = judge_counts(settings, places[None] + 1, *counts)
        evidence, verdict = PairedEvidence(), "open"
        for text in range(3000):
            evidence = update_shadow(evidence, [int(outcomes[text])], settings)
            verdict = judge_shadow(evidence, settings)
            if verdict != "open":
                break
        assert simulated.is_refused[0] == (verdict == "worse")
        assert simulated.is_proved[0] == (verdict == "not_worse")
        assert simulated.labels[0] == evidence.differing


def test_a_plan_is_the_same_every_time(params: Params) -> None:
    plan = plan_release(params.release, disagreement=0.06, accuracy_lost=0.02, requests_per_s=30)
    assert plan == plan_release(params.release, disagreement=0.06, accuracy_lost=0.02, requests_per_s=30)
    assert plan.power >= 0.95 and plan.false_refusals <= 0.03
    assert plan.canary_requests == 20_000 + 4_000 + 800 + 400
    assert plan.seconds == pytest.approx((plan.shadow_texts + 25_200) / 30, abs=0.1)


def test_more_disagreement_takes_more_labels_and_leaves_more_undecided(params: Params) -> None:
    plans = [
        plan_release(params.release, disagreement=share, accuracy_lost=0.02, requests_per_s=1) for share in (0.03, 0.08, 0.2)
    ]
    assert plans[0].labels < plans[1].labels < plans[2].labels
    assert plans[0].undecided < plans[1].undecided < plans[2].undecided
    assert plans[0].refused_on_estimate < plans[1].refused_on_estimate < plans[2].refused_on_estimate


def test_a_copied_share_of_the_texts_takes_longer(params: Params) -> None:
    fewer = params.release.model_copy(update={"shadow_share": 0.5})
    times = [
        plan_release(some, disagreement=0.06, accuracy_lost=0.02, requests_per_s=1).seconds for some in (params.release, fewer)
    ]
    assert times[1] > times[0]


def test_versions_that_differ_little_cannot_lose_much(params: Params) -> None:
    with pytest.raises(ValueError, match=r"differ on 0\.01"):
        plan_release(params.release, disagreement=0.01, accuracy_lost=0.02, requests_per_s=1)


def test_simulated_shares_are_those_asked_for(params: Params) -> None:
    assert sum(outcome_shares(0.07, 0.05)) == pytest.approx(0.07)
    every = simulate_shadow(params.release, 0.0, 0.05, 0.0, releases=50)
    assert every.is_refused.all() and not every.is_low.any()
