"""One answer out of the log: by its id or its request's, the newest first, whatever else lies there."""

from pathlib import Path

import pytest

from serving.prediction_log.search import find
from serving.prediction_log.segments import Row
from tests.monitoring.homes import NOON, Gateway


def row(id: str, request: str, at: float, label: str) -> Row:
    said = ("champion", label, 0.5, None)
    return Row(at, request, id, None, f"text of {id}", None, 3, 1.0, 1, *said, b"\0" * 8, b"\0" * 4, 1.0, False)


@pytest.fixture
def log(tmp_path: Path) -> str:
    gateway = Gateway(tmp_path, "one")
    gateway.write([row("p-0", "r1", NOON, "early"), row("p-1", "r1", NOON, "early"), row("q-0", "r2", NOON, "early")])
    newest = gateway.write([row("s-0", "r2", NOON + 86_400, "late")], text="hash")
    newest.with_name(f"one-{9_999_999_999_999:013d}.parquet").write_bytes(b"PAR1 torn")
    return str(tmp_path / "predictions")


def test_a_prediction_is_found_by_its_id_without_its_vectors(log: str) -> None:
    (found,) = find(log, "p-1")
    assert (found["text"], found["label"]) == ("text of p-1", "early")
    assert not {"sketch", "probabilities"} & set(found)


def test_a_request_brings_all_its_answers_and_the_newest_of_one_name(log: str) -> None:
    assert [one["id"] for one in find(log, "r1")] == ["p-0", "p-1"]
    (found,) = find(log, "r2")
    assert (found["id"], found["text"], len(found["text_hash"])) == ("s-0", None, 64)


def test_what_is_not_there_is_not_found(log: str, tmp_path: Path) -> None:
    assert find(log, "p") == []
    assert find(str(tmp_path / "no log"), "p-0") == []
