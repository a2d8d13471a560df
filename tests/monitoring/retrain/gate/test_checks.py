"""The gate's error rates on counts alone: how often it is wrong about good and bad models, by number of test rows."""

import re
from typing import Any

import numpy as np
import pytest

from monitoring.detectors.paired_test import PairCounts, pass_probability
from monitoring.retrain.gate.checks import (
    check_classes,
    check_new_rows,
    check_old_rows,
    check_overruled,
    f1_macro,
    levels,
    old_rows_pass,
    run_checks,
    seed_noise,
)
from monitoring.retrain.gate.evidence import GateEvidence, OverruledClass, Predictions
from monitoring.retrain.gate.verdict import Verdict
from pipeline import metrics
from pipeline.params import Gate
from tests.conftest import ROOT


def level_of(settings: Gate) -> float:
    return levels(settings, tests_new_rows=False).old_rows


def evidence_of(truth: np.ndarray, is_new: np.ndarray, accuracy: float = 1.0, **more: Any) -> GateEvidence:
    """Return evidence whose labels nobody changed; the frozen control scores 0.1."""
    nobody = np.zeros(len(truth), dtype=np.bool_)
    return GateEvidence(truth, truth, is_new, nobody, 0, (), accuracy, 0.1, ())._replace(**more)


def pass_rate(rows: int, discordant: float, difference: float, settings: Gate) -> float:
    return pass_probability(
        rows, discordant, difference, lambda gained, lost: old_rows_pass(rows, gained, lost, settings, level_of(settings))
    )


@pytest.mark.parametrize("rows", [50, 100, 200, 654, 1000, 3080, 10_000])
@pytest.mark.parametrize("discordant", [0.01, 0.04, 0.08, 0.15])
def test_an_equally_good_model_is_refused_on_old_rows_in_half_of_what_is_promised(
    rows: int, discordant: float, settings: Gate
) -> None:
    assert 1 - pass_rate(rows, discordant, 0.0, settings) <= settings.false_refusals / 2 + 1e-9


def test_over_classes_and_old_rows_together_equal_models_are_refused_in_one_percent(settings: Gate) -> None:
    rng, refused, runs, shares = np.random.default_rng(41), 0, 1500, levels(settings, tests_new_rows=False)
    truth = np.repeat([f"intent {i}" for i in range(20)], 33)
    for _ in range(runs):
        champion = rng.random(len(truth)) < 0.8
        candidate = np.where(rng.random(len(truth)) < 0.15, rng.random(len(truth)) < 0.8, champion)  # as good, some of it luck
        counted = PairCounts(len(truth), int((candidate & ~champion).sum()), int((champion & ~candidate).sum()))
        is_passed = bool(
            old_rows_pass(len(truth), np.array(counted.gained), np.array(counted.lost), settings, level_of(settings))
        )
        refused += not is_passed or bool(check_classes(truth, champion, candidate, settings, shares.classes).failures)
    assert refused / runs <= settings.false_refusals
    assert settings.false_refusals <= 0.01  # what the project promises


def test_with_enough_rows_a_model_that_lost_the_margin_is_refused(settings: Gate) -> None:
    for discordant in (0.04, 0.08):
        assert pass_rate(10_000, discordant, -settings.margin, settings) <= settings.margin_alpha + 0.002


def test_where_undecided_is_refused_a_model_that_lost_the_margin_rarely_passes_however_few_rows(settings: Gate) -> None:
    strict = settings.model_copy(update={"undecided": "refuse"})
    assert (
        max(pass_rate(rows, 0.08, -settings.margin, strict) for rows in (100, 654, 3080, 10_000)) <= settings.margin_alpha + 0.006
    )


@pytest.mark.parametrize("undecided", ["pass", "refuse"])
def test_the_check_on_old_rows_applies_the_rule_whose_error_rates_are_reported(settings: Gate, undecided: str) -> None:
    changed = settings.model_copy(update={"undecided": undecided})
    gained, lost = (grid.ravel() for grid in np.meshgrid(np.arange(0, 40, 5), np.arange(0, 60, 4)))
    passes = [
        not check_old_rows(PairCounts(500, int(g), int(b)), changed, level_of(changed)).failures
        for g, b in zip(gained, lost, strict=True)
    ]
    assert passes == old_rows_pass(500, gained, lost, changed, level_of(changed)).tolist()
    assert len(set(passes)) == 2


def test_few_rows_are_reported_as_undecided(settings: Gate) -> None:
    few = PairCounts(200, gained=6, lost=8)
    assert check_old_rows(few, settings, level_of(settings)).passes[0].startswith("not found worse on 200 old rows")
    refused = check_old_rows(few, settings.model_copy(update={"undecided": "refuse"}), level_of(settings))
    assert "gate.undecided is refuse" in refused.failures[0]


def test_a_proved_loss_passes_when_it_is_proved_to_be_within_the_margin(settings: Gate) -> None:
    result = check_old_rows(PairCounts(20_000, gained=300, lost=450), settings, level_of(settings))
    assert result.numbers["old/p_worse"] < settings.false_refusals / 2
    assert result.passes[0].startswith("not worse")


def test_a_verdict_reports_what_its_rows_can_prove(settings: Gate) -> None:
    numbers = check_old_rows(PairCounts(654, gained=25, lost=27), settings, level_of(settings)).numbers
    assert numbers["old/passes_if_equal"] == pytest.approx(pass_rate(654, 52 / 654, 0.0, settings))
    assert numbers["old/passes_if_worse_by_margin"] == pytest.approx(pass_rate(654, 52 / 654, -settings.margin, settings))


def test_five_gained_rows_are_the_fewest_that_show_a_gain(settings: Gate) -> None:
    assert check_new_rows(PairCounts(12, gained=4, lost=0), (), settings).failures
    assert not check_new_rows(PairCounts(12, gained=5, lost=0), (), settings).failures


def test_a_gain_that_another_seed_could_bring_does_not_count(settings: Gate) -> None:
    seeds = (0.70, 0.78, 0.74)
    assert seed_noise(seeds, 0.05) == pytest.approx(2.91999 * 0.04 * 2**0.5, rel=1e-4)  # t(2) at 0.95
    assert "another seed" in check_new_rows(PairCounts(100, gained=14, lost=2), seeds, settings).failures[0]
    assert not check_new_rows(PairCounts(100, gained=20, lost=2), seeds, settings).failures
    assert seed_noise(seeds[:2], 0.05) == 0


def test_few_new_rows_are_reported_and_not_tested(settings: Gate) -> None:
    truth = np.array(["a", "b"] * 50)
    is_new = np.arange(100) < settings.min_new_rows - 1
    predictions = Predictions(truth, ("a", "b"), np.ones(100, dtype=np.bool_))
    verdict = run_checks(evidence_of(truth, is_new), predictions, predictions, settings)
    assert verdict.passed
    assert (verdict.numbers["old/rows"], verdict.numbers["new/rows"]) == (89, 11)
    more = run_checks(evidence_of(truth, np.arange(100) < settings.min_new_rows), predictions, predictions, settings)
    assert more.numbers["new/rows"] == settings.min_new_rows
    assert not more.passed
    together = settings.model_copy(update={"new_rows": "not_worse"})
    assert run_checks(evidence_of(truth, np.ones(100, dtype=np.bool_)), predictions, predictions, together).passed


@pytest.mark.parametrize("new_rows", ["better", "not_worse"])
def test_however_many_new_rows_there_are_old_rows_decide_alone(settings: Gate, new_rows: str) -> None:
    """A poisoner who labels new test texts as the poisoned model answers them gains on every one of them."""
    truth = np.array(["a", "b"] * 1000)
    is_new = np.arange(2000) >= 200
    poisoned, champion = truth.copy(), truth.copy()
    poisoned[:60] = "a"  # 30 old rows lost
    champion[200:] = "a"  # 900 new rows gained
    changed = settings.model_copy(update={"new_rows": new_rows})
    known = np.ones(2000, dtype=np.bool_)
    verdict = run_checks(
        evidence_of(truth, is_new, accuracy=0.985),
        Predictions(poisoned, ("a", "b"), known),
        Predictions(champion, ("a", "b"), known),
        changed,
    )
    assert any(reason.startswith("worse than the champion on 200 old rows") for reason in verdict.reasons)


def test_old_rows_are_scored_with_the_labels_of_the_champions_measurement(settings: Gate) -> None:
    measured, swapped = (
        np.array(["a", "b", "c"] * 100),
        np.array(["b", "a", "c"] * 100),
    )  # two classes, swapped in the test rows too
    known = np.ones(300, dtype=np.bool_)
    evidence = evidence_of(swapped, ~known, measured=measured, is_settled=np.arange(300) < 10)
    models = (Predictions(labels, ("a", "b", "c"), known) for labels in (swapped, measured))
    verdict = run_checks(evidence, *models, settings)
    assert verdict.reasons[0].startswith("worse than the champion on 300 old rows, 0 gained and 200 lost")
    assert (verdict.numbers["old/lost"], verdict.numbers["old_today/gained"]) == (200, 200)
    assert (verdict.numbers["labels/changed"], verdict.numbers["labels/settled"]) == (200, 7)


def test_a_pass_says_what_todays_labels_would_have_said(settings: Gate) -> None:
    measured = np.array(["a", "b"] * 100)
    today = np.where(np.arange(200) == 0, "b", measured)
    known = np.ones(200, dtype=np.bool_)
    same = Predictions(measured, ("a", "b"), known)
    verdict = run_checks(evidence_of(today, ~known, measured=measured, accuracy=0.995, unknown_labels=3), same, same, settings)
    assert verdict.passed
    assert any("1 old rows have another label than when the champion was measured (0 by settled" in r for r in verdict.reasons)
    assert any("3 old rows are scored with today's labels" in reason for reason in verdict.reasons)


@pytest.mark.parametrize(("overruled", "is_refused"), [(0, False), (10, False), (11, True), (100, True)])
def test_a_class_that_people_overrule_too_far_is_named(settings: Gate, overruled: int, is_refused: bool) -> None:
    result = check_overruled([OverruledClass("refund", 100, overruled), OverruledClass("track", 4, 2)], settings)
    assert bool(result.failures) == is_refused
    assert not is_refused or f"`refund` ({overruled} of 100)" in result.failures[0]


def test_the_levels_of_all_checks_add_up_to_what_is_promised(settings: Gate) -> None:
    assert all(sum(levels(settings, tests_new_rows=flag)) == pytest.approx(settings.false_refusals) for flag in (True, False))


def test_a_verdict_can_be_stored_whatever_the_predictions(settings: Gate) -> None:
    rng = np.random.default_rng(42)
    for _ in range(50):
        names = np.array(["a", "b`; DROP TABLE releases;--", "c\nd"])
        truth, first, second = (names[rng.integers(0, 3, 20)] for _ in range(3))
        evidence = evidence_of(truth, rng.random(20) < 0.7, 0.3)
        predictions = [Predictions(labels, tuple(names), np.ones(20, dtype=np.bool_)) for labels in (first, second)]
        verdict = run_checks(evidence, predictions[0], predictions[1], settings)
        assert Verdict.from_json(verdict.as_json()) == verdict
        assert all(re.fullmatch(r"[\w\-./ ]+", name) for name in verdict.numbers)


def test_macro_f1_of_labels_is_that_of_stage_evaluate() -> None:
    rng = np.random.default_rng(43)
    truth, guess = rng.integers(0, 5, 200), rng.integers(0, 6, 200)
    assert f1_macro(truth.astype(str), guess.astype(str)) == pytest.approx(metrics.f1_macro(metrics.confusion(truth, guess, 7)))


def test_without_test_rows_nothing_passes(settings: Gate) -> None:
    nothing = np.zeros(0, dtype=np.str_)
    predictions = Predictions(nothing, ("a",), np.zeros(0, dtype=np.bool_))
    assert not run_checks(evidence_of(nothing, np.zeros(0, dtype=np.bool_), 0.9), predictions, None, settings).passed


def test_the_table_in_the_docs_is_what_the_rule_does(settings: Gate) -> None:
    table = re.findall(r"^\| ([\d,]+) \| (\d+) % \| (.+) \|$", (ROOT / "docs/gate.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(table) >= 8
    strict = settings.model_copy(update={"undecided": "refuse"})
    for rows, discordant, cells in table:
        n, q = int(rows.replace(",", "")), int(discordant) / 100
        rates = [1 - pass_rate(n, q, 0.0, settings), *(pass_rate(n, q, -lost, settings) for lost in (0.01, 0.02, 0.03))]
        rates += [1 - pass_rate(n, q, 0.0, strict), pass_rate(n, q, -0.02, strict)]
        assert cells == " | ".join(f"{100 * max(0.0, rate):.1f} %" for rate in rates), f"{rows} rows, {discordant} %"
