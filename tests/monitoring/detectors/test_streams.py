"""Detectors on seeded streams, with the exact index of their alarm; river's where river is installed."""

import numpy as np
import pytest

from monitoring.detectors.adwin import alarms
from monitoring.detectors.page_hinkley import START, step


def errors(seed: int) -> np.ndarray:
    """3,000 outcomes at .10, then 3,000 at .15."""
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.random(3000) < 0.10, rng.random(3000) < 0.15]).astype(np.float64)


def first_page_hinkley(values: np.ndarray, slack: float, threshold: float) -> int | None:
    state = START
    for index, value in enumerate(values):
        state = step(state, float(value), slack)
        if index >= 29 and state.statistic > threshold:
            return index
    return None


def test_page_hinkley_by_hand() -> None:
    state = START
    for value in (0.0, 0.0, 3.0):
        state = step(state, value, 0.5)
    assert state.mean == 1
    assert state.total == pytest.approx(-0.5 - 0.5 + 1.5)
    assert state.statistic == pytest.approx(1.5)


@pytest.mark.parametrize(("seed", "index"), [(0, 3911), (1, 3772), (2, 3791)])
def test_page_hinkley_alarms_at(seed: int, index: int) -> None:
    assert first_page_hinkley(errors(seed), 0.005, 50.0) == index


def test_page_hinkley_alarms_where_rivers_does() -> None:
    drift = pytest.importorskip("river.drift", reason="river is only in the environment of the benches")
    detector = drift.PageHinkley(min_instances=30, delta=0.005, threshold=50.0, alpha=1.0, mode="up")
    found = []
    for index, value in enumerate(errors(0)):
        detector.update(value)
        if detector.drift_detected:
            found.append(index)
    assert found[0] == first_page_hinkley(errors(0), 0.005, 50.0)


def test_adwin_is_rivers() -> None:
    pytest.importorskip("river.drift", reason="river is only in the environment of the benches")
    stream = np.concatenate([np.zeros(500), np.ones(500)])
    found = alarms(stream, 0.002)
    assert len(found) == 1
    assert 500 <= found[0] <= 600
