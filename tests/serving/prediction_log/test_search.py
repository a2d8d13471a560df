"""Predictions are found in the log by their id or their request's, newest first, whatever else is in the folder."""

from pathlib import Path

import pytest

from serving.prediction import Prediction
from serving.prediction_log.search import find_predictions
from tests.monitoring.homes import NOON, Gateway


def row(id: str, request: str, at: float, label: str) -> Prediction:
    output = ("champion", label, 0.5, None)
    return Prediction(at, request, id, None, f"text of {id}", None, 3, 1.0, 1, *output, b"\0" * 8, b"\0" * 4, 1.0, False)


FIRST, SECOND = "1" * 24, "2" * 24  # requests


@pytest.fixture
def log(tmp_path: Path) -> str:
    gateway = Gateway(tmp_path, "one")
    gateway.write([row("p-0", FIRST, NOON, "early"), row("p-1", FIRST, NOON, "early"), row("q-0", SECOND, NOON, "early")])
    newest = gateway.write([row("s-0", SECOND, NOON + 86_400, "late")], text="hash")
    newest.with_name(f"one-{9_999_999_999_999:013d}.parquet").write_bytes(b"PAR1 torn")
    return str(tmp_path / "predictions")


def test_a_prediction_is_found_by_its_id_without_its_vectors(log: str) -> None:
    (prediction,) = find_predictions(log, "p-1")
    assert (prediction["text"], prediction["label"]) == ("text of p-1", "early")
    assert not {"sketch", "probabilities"} & set(prediction)


def test_a_request_has_all_its_predictions_and_the_newest_segment_wins(log: str) -> None:
    assert [prediction["id"] for prediction in find_predictions(log, FIRST)] == ["p-0", "p-1"]
    (prediction,) = find_predictions(log, SECOND)
    assert (prediction["id"], prediction["text"], len(prediction["text_hash"])) == ("s-0", None, 64)


def test_an_unknown_id_is_not_found(log: str, tmp_path: Path) -> None:
    assert find_predictions(log, "p") == []
    assert find_predictions(str(tmp_path / "no log"), "p-0") == []


@pytest.mark.parametrize("chosen", ["5f1c9a3e7b2d4c6a8e0f1a2b-0", "victim"])
def test_a_request_id_that_a_caller_chose_leads_to_no_prediction_of_another(tmp_path: Path, chosen: str) -> None:
    gateway = Gateway(tmp_path, "one")
    gateway.write([row("5f1c9a3e7b2d4c6a8e0f1a2b-0", FIRST, NOON, "the victim's")])
    gateway.write([row("7a7a7a7a7a7a7a7a7a7a7a7a-0", chosen, NOON + 60, "forged")])  # logged by an older gateway
    labels = [prediction["label"] for prediction in find_predictions(str(tmp_path / "predictions"), chosen)]
    assert labels == (["the victim's"] if "-" in chosen else [])
