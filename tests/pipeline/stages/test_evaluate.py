"""The results of stage `evaluate` in a small project, against scikit-learn on the same rows."""

import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn import metrics as sk

from pipeline.abstention import NEVER, read_abstention
from pipeline.data.records import Example, labels_of
from pipeline.metrics import fit_temperature, negative_log_likelihood
from pipeline.network.trained_model import TrainedModel
from pipeline.row_predictions import PREDICTIONS_FILE, read_predictions
from pipeline.selective.report import UNKNOWN
from pipeline.stages.evaluate import logits_of
from tests.conftest import SMALL_LABELS, Project

SCORES = {"accuracy", "f1_macro", "f1_micro"}
COVERAGE = {"area_under_risk_coverage", *(f"accuracy_at_coverage_{percent}" for percent in (80, 90, 95))}


@pytest.fixture(scope="module")
def folder(made: Project) -> Path:
    return made / "artifacts/evaluation"


@pytest.fixture(scope="module")
def scores(folder: Path) -> dict[str, dict[str, float]]:
    return json.loads((folder / "metrics.json").read_text())


@pytest.fixture(scope="module")
def report(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "report.json").read_text())


@pytest.fixture(scope="module")
def answers(folder: Path) -> tuple[list[str], list[str]]:
    """Return actual and predicted labels, as `dvc plots` reads them."""
    with (folder / "confusion.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [row["actual"] for row in rows], [row["predicted"] for row in rows]


def test_the_metrics_hold_the_keys_of_the_contract(scores: dict[str, dict[str, float]]) -> None:
    calibration = {"nll", "nll_calibrated", "ece", "ece_calibrated"}
    assert {side: set(values) for side, values in scores.items()} == {
        "test": SCORES | calibration | COVERAGE,
        "control": SCORES | COVERAGE,
        "val": SCORES | {"nll"},
        "temperature": {"value", "rows", "right", "gain", "gain_error"},
    }


def test_test_scores_are_those_of_scikit_learn_on_the_table(
    scores: dict[str, dict[str, float]], answers: tuple[list[str], list[str]]
) -> None:
    assert scores["test"]["accuracy"] == pytest.approx(sk.accuracy_score(*answers))
    assert scores["test"]["f1_macro"] == pytest.approx(sk.f1_score(*answers, average="macro"))
    assert scores["test"]["f1_micro"] == pytest.approx(sk.f1_score(*answers, average="micro"))


def test_the_table_holds_the_test_rows_in_order(answers: tuple[list[str], list[str]], sides: dict[str, list[Example]]) -> None:
    assert answers[0] == labels_of(sides["test"])


def test_the_small_model_has_learnt_its_classes(scores: dict[str, dict[str, float]]) -> None:
    assert scores["test"]["accuracy"] > 0.8  # chance is about 0.3
    assert scores["control"]["accuracy"] > 0.8


def test_the_written_model_gives_the_written_scores(
    trained: TrainedModel, sides: dict[str, list[Example]], made: Project, scores: dict[str, dict[str, float]], folder: Path
) -> None:
    settings = made.params.evaluate
    temperature = json.loads((folder / "temperature.json").read_text())["temperature"]
    for side in ("val", "test"):
        logits = logits_of(trained, [row.text for row in sides[side]], settings.batch_size)
        truth = np.array([trained.labels.index(label) for label in labels_of(sides[side])])
        assert np.mean(logits.argmax(axis=1) == truth) == pytest.approx(scores[side]["accuracy"])
        assert negative_log_likelihood(logits, truth) == pytest.approx(scores[side]["nll"], rel=1e-4)
    assert negative_log_likelihood(logits, truth, temperature) == pytest.approx(scores["test"]["nll_calibrated"], rel=1e-4)


def test_the_temperature_is_fitted_to_the_validation_rows_and_says_to_how_many(
    trained: TrainedModel, sides: dict[str, list[Example]], folder: Path, scores: dict[str, dict[str, float]]
) -> None:
    assert scores["temperature"]["rows"] == len(sides["val"])
    temperature = json.loads((folder / "temperature.json").read_text())["temperature"]
    logits = logits_of(trained, [row.text for row in sides["val"]], 64)
    truth = np.array([trained.labels.index(label) for label in labels_of(sides["val"])])
    assert temperature == pytest.approx(fit_temperature(logits, truth).value, rel=1e-3)


def test_the_coverage_curve_is_that_of_the_stored_predictions(scores: dict[str, dict[str, float]], folder: Path) -> None:
    rows = sorted(read_predictions(folder / PREDICTIONS_FILE, "the test"), key=lambda row: -row.confidence)
    answered = rows[: int(np.ceil(0.8 * len(rows)))]
    right = np.mean([row.label == row.predicted for row in answered])
    assert scores["test"]["accuracy_at_coverage_80"] == pytest.approx(right, abs=1 / len(answered))  # ties
    assert scores["test"]["area_under_risk_coverage"] <= 1 - scores["test"]["accuracy"]  # confidence tells something


def test_without_a_target_the_model_answers_all_and_says_what_is_unknown(folder: Path, report: dict[str, Any]) -> None:
    assert read_abstention(folder) == NEVER
    assert report["abstain"]["lines"] == [UNKNOWN]


def test_every_class_has_an_interval_around_its_f1(report: dict[str, Any], answers: tuple[list[str], list[str]]) -> None:
    assert sorted(report["classes"]) == sorted(SMALL_LABELS)
    expected = sk.f1_score(*answers, average=None, labels=sorted(SMALL_LABELS))
    for label, value in zip(sorted(SMALL_LABELS), expected, strict=True):
        scores = report["classes"][label]
        assert scores["f1"]["value"] == pytest.approx(value)
        assert scores["f1"]["low"] <= scores["f1"]["value"] <= scores["f1"]["high"]
        assert scores["rows"] == answers[0].count(label)


def test_the_gain_over_the_control_is_the_difference_of_the_scores(
    report: dict[str, Any], scores: dict[str, dict[str, float]]
) -> None:
    for name in ("accuracy", "f1_macro"):
        gain = report["intervals"][f"{name}_above_control"]
        assert gain["value"] == pytest.approx(scores["test"][name] - scores["control"][name])
        assert gain["low"] <= gain["value"] <= gain["high"]


def test_confused_pairs_count_mistakes_and_show_their_texts(
    report: dict[str, Any], answers: tuple[list[str], list[str]], sides: dict[str, list[Example]], made: Project
) -> None:
    mistakes = Counter((t, p) for t, p in zip(*answers, strict=True) if t != p)
    pairs = report["confused_pairs"]
    assert [pair["rows"] for pair in pairs] == sorted(mistakes.values(), reverse=True)[: made.params.evaluate.confused_pairs]
    assert all(mistakes[pair["true"], pair["predicted"]] == pair["rows"] for pair in pairs)
    labels = {row.text: (row.label, predicted) for row, predicted in zip(sides["test"], answers[1], strict=True)}
    assert all(labels[text] == (pair["true"], pair["predicted"]) for pair in pairs for text in pair["texts"])
    assert all(len(pair["texts"]) == min(3, pair["rows"]) for pair in pairs)
