"""What the gate promises on counts alone: how often it is wrong about good models and about bad ones, by test rows."""

import re

import numpy as np
import pytest

from monitoring.retrain.gate.checks import (
    Answered,
    Today,
    classes,
    judge,
    macro_f1,
    new_rows,
    old_rows,
    passes_old_rows,
    seed_noise,
)
from monitoring.retrain.gate.paired_test import Pairs, chance_to_pass
from monitoring.retrain.gate.verdict import Verdict
from pipeline import metrics
from pipeline.params import Gate, Params
from tests.conftest import ROOT


@pytest.fixture
def settings(params: Params) -> Gate:
    return params.gate


def rate_in(rows: int, telling: float, difference: float, settings: Gate) -> float:
    return chance_to_pass(rows, telling, difference, lambda gained, lost: passes_old_rows(rows, gained, lost, settings))


@pytest.mark.parametrize("rows", [50, 100, 200, 654, 1000, 3080, 10_000])
@pytest.mark.parametrize("telling", [0.01, 0.04, 0.08, 0.15])
def test_an_equally_good_model_is_refused_on_old_rows_in_half_of_what_is_promised(
    rows: int, telling: float, settings: Gate
) -> None:
    assert 1 - rate_in(rows, telling, 0.0, settings) <= settings.false_refusals / 2 + 1e-9


def test_over_classes_and_old_rows_together_equal_models_are_refused_in_one_percent(settings: Gate) -> None:
    rng, refused, runs = np.random.default_rng(41), 0, 1500
    truth = np.repeat([f"intent {i}" for i in range(20)], 33)
    for _ in range(runs):
        champion = rng.random(len(truth)) < 0.8
        candidate = np.where(rng.random(len(truth)) < 0.15, rng.random(len(truth)) < 0.8, champion)  # as good, some of it luck
        counted = Pairs(len(truth), int((candidate & ~champion).sum()), int((champion & ~candidate).sum()))
        is_let_in = bool(passes_old_rows(len(truth), np.array(counted.gained), np.array(counted.lost), settings))
        refused += not is_let_in or bool(classes(truth, champion, candidate, settings).broken)
    assert refused / runs <= settings.false_refusals
    assert settings.false_refusals <= 0.01  # what the project promises


def test_with_enough_rows_a_model_that_lost_the_margin_is_refused(settings: Gate) -> None:
    for telling in (0.04, 0.08):
        assert rate_in(10_000, telling, -settings.margin, settings) <= settings.margin_alpha + 0.002


def test_where_undecided_is_refused_a_model_that_lost_the_margin_rarely_passes_however_few_rows(settings: Gate) -> None:
    strict = settings.model_copy(update={"undecided": "refuse"})
    assert (
        max(rate_in(rows, 0.08, -settings.margin, strict) for rows in (100, 654, 3080, 10_000)) <= settings.margin_alpha + 0.006
    )


@pytest.mark.parametrize("undecided", ["pass", "refuse"])
def test_the_verdict_on_old_rows_is_the_rule_whose_errors_are_told(settings: Gate, undecided: str) -> None:
    own = settings.model_copy(update={"undecided": undecided})
    gained, lost = (grid.ravel() for grid in np.meshgrid(np.arange(0, 40, 5), np.arange(0, 60, 4)))
    told = [not old_rows(Pairs(500, int(g), int(b)), own).broken for g, b in zip(gained, lost, strict=True)]
    assert told == passes_old_rows(500, gained, lost, own).tolist()
    assert len(set(told)) == 2


def test_few_rows_are_said_to_be_undecided(settings: Gate) -> None:
    few = Pairs(200, gained=6, lost=8)
    assert old_rows(few, settings).held[0].startswith("not found worse on 200 old rows")
    refused = old_rows(few, settings.model_copy(update={"undecided": "refuse"}))
    assert "gate.undecided is refuse" in refused.broken[0]


def test_a_loss_within_the_margin_that_is_proved_small_passes_though_it_is_proved_at_all(settings: Gate) -> None:
    found = old_rows(Pairs(20_000, gained=300, lost=450), settings)
    assert found.numbers["old/p_worse"] < settings.false_refusals / 2
    assert found.held[0].startswith("not worse")


def test_a_verdict_says_what_its_rows_can_tell(settings: Gate) -> None:
    numbers = old_rows(Pairs(654, gained=25, lost=27), settings).numbers
    assert numbers["old/passes_if_equal"] == pytest.approx(rate_in(654, 52 / 654, 0.0, settings))
    assert numbers["old/passes_if_worse_by_margin"] == pytest.approx(rate_in(654, 52 / 654, -settings.margin, settings))


def test_five_gained_rows_are_the_fewest_that_show_a_gain(settings: Gate) -> None:
    assert new_rows(Pairs(12, gained=4, lost=0), (), settings).broken
    assert not new_rows(Pairs(12, gained=5, lost=0), (), settings).broken


def test_a_gain_that_another_seed_could_bring_is_none(settings: Gate) -> None:
    seeds = (0.70, 0.78, 0.74)
    assert seed_noise(seeds, 0.05) == pytest.approx(2.91999 * 0.04 * 2**0.5, rel=1e-4)  # t(2) at 0.95
    assert "another seed" in new_rows(Pairs(100, gained=14, lost=2), seeds, settings).broken[0]
    assert not new_rows(Pairs(100, gained=20, lost=2), seeds, settings).broken
    assert seed_noise(seeds[:2], 0.05) == 0


def test_few_new_rows_count_among_all_rows(settings: Gate) -> None:
    truth = np.array(["a", "b"] * 50)
    is_new = np.arange(100) < settings.min_new_rows - 1
    said = Answered(truth, ("a", "b"), np.ones(100, dtype=np.bool_))
    verdict = judge(Today(truth, is_new, 1.0, 0.5, ()), said, said, settings)
    assert verdict.passed
    assert verdict.numbers["old/rows"] == 100
    more = judge(Today(truth, np.arange(100) < settings.min_new_rows, 1.0, 0.5, ()), said, said, settings)
    assert more.numbers["new/rows"] == settings.min_new_rows
    together = settings.model_copy(update={"new_rows": "not_worse"})
    assert judge(Today(truth, np.ones(100, dtype=np.bool_), 1.0, 0.5, ()), said, said, together).passed


def test_a_verdict_can_be_kept_whatever_the_answers(settings: Gate) -> None:
    rng = np.random.default_rng(42)
    for _ in range(50):
        names = np.array(["a", "b`; DROP TABLE releases;--", "c\nd"])
        truth, first, second = (names[rng.integers(0, 3, 20)] for _ in range(3))
        asked = Today(truth, rng.random(20) < 0.7, 0.3, 0.1, ())
        answered = [Answered(said, tuple(names), np.ones(20, dtype=np.bool_)) for said in (first, second)]
        verdict = judge(asked, answered[0], answered[1], settings)
        assert Verdict.from_json(verdict.as_json()) == verdict
        assert all(re.fullmatch(r"[\w\-./ ]+", name) for name in verdict.numbers)


def test_macro_f1_is_that_of_the_stage_evaluate() -> None:
    rng = np.random.default_rng(43)
    truth, guess = rng.integers(0, 5, 200), rng.integers(0, 6, 200)
    assert macro_f1(truth.astype(str), guess.astype(str)) == pytest.approx(metrics.f1_macro(metrics.confusion(truth, guess, 7)))


def test_without_test_rows_nothing_passes(settings: Gate) -> None:
    nothing = np.zeros(0, dtype=np.str_)
    said = Answered(nothing, ("a",), np.zeros(0, dtype=np.bool_))
    assert not judge(Today(nothing, np.zeros(0, dtype=np.bool_), 0.9, 0.5, ()), said, None, settings).passed


def test_the_table_in_the_docs_is_what_the_rule_does(settings: Gate) -> None:
    table = re.findall(r"^\| ([\d,]+) \| (\d+) % \| (.+) \|$", (ROOT / "docs/gate.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(table) >= 8
    strict = settings.model_copy(update={"undecided": "refuse"})
    for rows, telling, cells in table:
        n, q = int(rows.replace(",", "")), int(telling) / 100
        rates = [1 - rate_in(n, q, 0.0, settings), *(rate_in(n, q, -lost, settings) for lost in (0.01, 0.02, 0.03))]
        rates += [1 - rate_in(n, q, 0.0, strict), rate_in(n, q, -0.02, strict)]
        assert cells == " | ".join(f"{100 * max(0.0, rate):.1f} %" for rate in rates), f"{rows} rows, {telling} %"
