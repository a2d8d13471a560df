"""From held-out rows to the rule that serves: which rows fit it, which judge it, and what is said when it is not reached."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from pipeline.abstention import ABSTAIN_FILE, NEVER, read_abstention
from pipeline.data.records import write_json
from pipeline.data.split_sides import hash_to_unit
from pipeline.errors import RefusedError
from pipeline.params import Abstain, Params
from pipeline.selective.out_of_scope import answered_at_95, area_under_roc
from pipeline.selective.report import UNKNOWN, AbstentionReport, report_abstention
from pipeline.selective.selection import SelectiveResult
from pipeline.selective.threshold import ScoredRows
from pipeline.stages.evaluate import refuse_unreachable

NOTHING = np.zeros(0)


def draw(rows: int, seed: int) -> ScoredRows:
    """Return rows of which the confident ones are right: errors are 0.5 (1 - c)²."""
    rng = np.random.default_rng(seed)
    confidence = rng.random(rows)
    return ScoredRows(confidence, rng.random(rows) < 1 - 0.5 * (1 - confidence) ** 2)


@pytest.fixture(scope="module")
def settings(params: Params) -> Abstain:
    return params.abstain.model_copy(update={"target": "accuracy", "value": 0.9, "fallback": "a person"})


def report(settings: Abstain, rows: int = 800, outside: Any = NOTHING, **changes: Any) -> AbstentionReport:
    changed = settings.model_copy(update=changes)
    return report_abstention(draw(200, 1), draw(rows, 2), [f"row {n}" for n in range(rows)], outside, changed)


def test_shipped_params_ask_for_no_abstention(params: Params) -> None:
    assert params.abstain.target == "none"
    found = report(params.abstain)
    assert (found.abstention, found.scores(), found.lines()) == (NEVER, {}, [UNKNOWN])


def test_the_rows_that_judge_are_not_those_that_fit(settings: Abstain) -> None:
    found = report(settings)
    assert found.fit is not None
    assert found.judged is not None
    assert found.fit.rows + found.judged.rows == 800
    assert 330 < found.fit.rows < 470
    assert found.abstention.threshold > 0.2
    assert found.judged.accuracy.low < 1 - (1 - found.abstention.threshold) ** 2 / 6 < found.judged.accuracy.high
    assert found.judged.coverage.low < 1 - found.abstention.threshold < found.judged.coverage.high


def test_a_flipped_answer_is_one_of_the_rows_that_fit_or_of_those_that_judge_and_never_both(settings: Abstain) -> None:
    rows, keys = draw(800, 2), [f"row {n}" for n in range(800)]
    before = report(settings)
    confident = np.flatnonzero(rows.confidence > 0.9)
    for row in confident[:12]:
        flipped = rows.correct.copy()
        flipped[row] = not flipped[row]
        after = report_abstention(draw(200, 1), ScoredRows(rows.confidence, flipped), keys, NOTHING, settings)
        assert after.judged is not None
        assert before.judged is not None
        assert (after.fit == before.fit) == (after.judged.accuracy_of_all != before.judged.accuracy_of_all)


def test_the_seed_of_the_split_draws_other_halves(settings: Abstain) -> None:
    words = [f"row {number}" for number in range(3000)]
    test = [word for word in words if hash_to_unit(f"{settings.seed}\0{word}") < 0.3]  # as the split assigns them
    rows = draw(len(test), 2)
    found = report_abstention(draw(200, 1), rows, test, NOTHING, settings)
    assert found.judged is not None
    assert 0.4 < found.judged.rows / len(test) < 0.6


def test_a_threshold_that_answers_no_judging_row_is_said_and_written(settings: Abstain, tmp_path: Path) -> None:
    found = report(settings, rows=6, target="coverage", value=0.01)
    assert found.judged is not None
    assert found.judged.coverage.value == 0
    assert "accuracy of the answers unknown, because none is answered, of all rows" in found.lines()[1]
    write_json(tmp_path / ABSTAIN_FILE, found.facts())
    assert json.loads((tmp_path / ABSTAIN_FILE).read_text())["judged"]["accuracy"] == {"value": None, "low": 0.0, "high": 1.0}


def test_a_threshold_that_no_row_judges_is_said_and_written(settings: Abstain, tmp_path: Path) -> None:
    fits_all = settings.model_copy(update={"fit_share": 1.0})
    found = report_abstention(draw(200, 1), draw(600, 2), ["one customer"] * 600, NOTHING, fits_all)
    assert found.lines()[1].startswith("no test row is left to judge it: lower abstain.fit_share")
    write_json(tmp_path / ABSTAIN_FILE, found.facts())


def test_rows_of_one_key_stay_together(settings: Abstain) -> None:
    rows = draw(600, 2)
    found = report_abstention(draw(200, 1), rows, ["one customer"] * 600, NOTHING, settings)
    assert found.fit is not None
    assert found.judged is not None
    assert sorted((found.fit.rows, found.judged.rows)) == [0, 600]


def test_a_target_out_of_reach_is_said_with_what_is_proved_and_what_would_help(settings: Abstain) -> None:
    found = report(settings, rows=60, value=0.97)
    assert found.abstention == NEVER
    assert "no threshold is proved to give answers of which 97.0% are right" in found.problem
    assert "which proves" in found.problem
    assert found.lines()[0] == found.problem
    with pytest.raises(RefusedError, match=r"(?s)no threshold is proved .* what to do: lower abstain.value"):
        refuse_unreachable(SelectiveResult({}, found), settings)
    refuse_unreachable(SelectiveResult({}, found), settings.model_copy(update={"unreachable": "answer"}))
    refuse_unreachable(SelectiveResult({}, report(settings)), settings)


def test_a_target_that_all_answers_reach_needs_no_threshold(settings: Abstain) -> None:
    found = report(settings, value=0.5)
    assert (found.abstention, found.problem) == (NEVER, "")
    assert found.lines()[0].startswith("answers all: with probability 95% its answers are right in at least 50.0%")
    assert found.judged is not None
    assert found.judged.coverage.value == 1.0


def test_a_coverage_is_fitted_and_judged(settings: Abstain) -> None:
    found = report(settings, target="coverage", value=0.7)
    assert found.judged is not None
    assert found.abstention.threshold == pytest.approx(0.3, abs=0.06)
    assert found.judged.coverage.low < 0.7 < found.judged.coverage.high
    assert found.abstention.expected_share == 1 - found.judged.coverage.low


def test_out_of_scope_texts_are_counted_at_the_threshold(settings: Abstain) -> None:
    outside = np.linspace(0, 0.999, 200)
    found = report(settings, outside=outside)
    assert found.out_of_scope is not None
    assert found.out_of_scope.abstained.value == pytest.approx(np.mean(outside < found.abstention.threshold))
    assert f"of 200 out-of-scope texts it abstains from {found.out_of_scope.abstained.value:.1%}" in found.lines()[-1]
    groups = found.scores()
    assert set(groups) == {"abstain", "out_of_scope"}
    assert all(isinstance(value, float) for scores in groups.values() for value in scores.values())


def test_auroc_is_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    inside, outside = rng.integers(0, 20, 80) / 20, rng.integers(0, 15, 50) / 20
    truth = np.repeat([1, 0], [80, 50])
    assert area_under_roc(inside, outside) == pytest.approx(roc_auc_score(truth, np.concatenate([inside, outside])))


def test_a_model_that_knows_answers_no_out_of_scope_text_where_it_answers_95_percent() -> None:
    assert answered_at_95(np.linspace(0.5, 1, 40), np.linspace(0, 0.5, 30)) == 0.0


def test_the_file_is_read_back_as_the_rule(settings: Abstain, tmp_path: Path) -> None:
    found = report(settings, outside=np.array([0.1, 0.9]))
    write_json(tmp_path / ABSTAIN_FILE, found.facts())
    assert read_abstention(tmp_path) == found.abstention
    assert json.loads((tmp_path / ABSTAIN_FILE).read_text())["judged"]["accuracy"]["low"] > 0.8
    assert read_abstention(tmp_path / "older") == NEVER
