"""Texts that a round takes though no model doubts them: those of classes with few labels, and some to confirm."""

from pathlib import Path

import numpy as np
import pytest

from monitoring.flywheel.candidates.criteria import Criteria
from monitoring.flywheel.candidates.log_pass import LogPass, pass_over_log
from monitoring.flywheel.make_round import few_labels
from pipeline.params import Params
from serving.prediction import Prediction
from serving.prediction_log.writer import log_url
from tests.monitoring.flywheel.worlds import CLASSES, WIDTH, Customers, flywheel_home, logged, write_log
from tests.monitoring.homes import NOON

SURE = 0.9


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return flywheel_home(tmp_path, Customers(3))


def answers(home: Path) -> list[Prediction]:
    """Write 40 answers on texts of all classes."""
    rows = logged(Customers(4).ask(40, np.arange(40) % CLASSES), at=NOON)
    write_log(home, rows)
    return rows


def collect(home: Path, params: Params, rows: list[Prediction], few: frozenset[str], at_most_sure: int) -> LogPass:
    """Collect candidates; the second model agrees about every answer."""
    second = {row.id: row.label for row in rows}
    criteria = Criteria(1, CLASSES, WIDTH, 0.0, None, second, frozenset(), frozenset(), few, SURE, at_most_sure)
    return pass_over_log(log_url(params.log, home), criteria, since=0.0, at_most=100)


def test_sure_answers_are_candidates_up_to_a_limit(home: Path, params: Params) -> None:
    rows = answers(home)
    sure = {row.text for row in rows if row.confidence >= SURE}
    assert len(sure) > 3
    taken = collect(home, params, rows, frozenset(), 3).texts
    assert len(taken) == 3 and {row.text for row in taken} < sure
    assert {row.reasons for row in taken} == {("sure",)}
    assert collect(home, params, rows, frozenset(), 0).texts == []


def test_every_text_of_a_class_with_few_labels_is_a_candidate(home: Path, params: Params) -> None:
    rows = answers(home)
    taken = collect(home, params, rows, frozenset({"class_2"}), 0).texts
    assert {row.text for row in taken} == {row.text for row in rows if row.label == "class_2"}
    assert all("few labels" in row.reasons for row in taken)


def test_classes_have_few_labels_only_where_the_data_are_known() -> None:
    assert few_labels(("a", "b", "c"), {"a": 20, "b": 3}, 15) == {"b", "c"}
    assert few_labels(("a", "b"), {}, 15) == frozenset()
