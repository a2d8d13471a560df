"""The labels that callers got are counted from the newest segment back, as far as asked."""

from pathlib import Path

import pytest

from serving.prediction import Prediction
from serving.prediction_log.label_counts import count_newest_labels
from tests.monitoring.homes import NOON, Gateway


def row(at: float, label: str, role: str = "champion") -> Prediction:
    output = (role, label, 0.5, None)
    return Prediction(at, "1" * 24, f"p-{at}", None, "text", None, 3, 1.0, 1, *output, b"\0" * 8, b"\0" * 4, 1.0, False)


@pytest.fixture
def log(tmp_path: Path) -> str:
    gateway = Gateway(tmp_path, "one")
    gateway.write([row(NOON, "old")] * 3)
    gateway.write([row(NOON + 60, "refund"), row(NOON + 60, "track"), row(NOON + 60, "track", role="shadow")])
    newest = gateway.write([row(NOON + 86_400, "track")])
    newest.with_name(f"one-{9_999_999_999_999:013d}.parquet").write_bytes(b"PAR1 torn")
    return str(tmp_path / "predictions")


def test_the_newest_segments_are_counted_without_copies_and_torn_files(log: str) -> None:
    assert count_newest_labels(log, rows=2) == {"track": 2, "refund": 1}


def test_the_whole_log_is_counted_when_it_is_shorter(log: str) -> None:
    assert count_newest_labels(log, rows=1000) == {"track": 2, "refund": 1, "old": 3}


def test_a_log_that_does_not_exist_has_no_labels(tmp_path: Path) -> None:
    assert count_newest_labels(str(tmp_path / "none"), rows=10) == {}
