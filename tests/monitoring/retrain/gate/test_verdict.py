"""A verdict is stored as JSON and read back unchanged."""

import pytest

from monitoring.retrain.gate.verdict import Verdict


def test_a_verdict_is_read_back_as_it_was_written() -> None:
    verdict = Verdict(False, ("worse on the old slice: 0.91 → 0.84",), {"old/accuracy": 0.84, "old/p": 0.003})
    assert Verdict.from_json(verdict.as_json()) == verdict


def test_a_nan_is_refused_when_it_is_written() -> None:
    with pytest.raises(ValueError, match="JSON"):
        Verdict(True, (), {"accuracy": float("nan")}).as_json()
