"""The counts of the prediction log: each row once, whatever the order in which segments come, and the same after a restart."""

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from monitoring.console.live.counts import PredictionCounts, count_segment, quantile_s
from serving.gateway.metrics import SECONDS
from serving.prediction import Prediction
from serving.prediction_log.segments import encode_segment
from tests.monitoring.console.story import HOUR, NOW, STEP_S, tell

DAY = 24 * HOUR


def row(at: float, version: int = 1, role: str = "champion", label: str = "refund", latency_ms: float = 12.0) -> Prediction:
    return Prediction(at, "r", "i", None, "t", None, 3, 1.0, version, role, label, 0.9, None, b"", b"", latency_ms, False)  # type: ignore[arg-type]


def write(home: Path, rows: list[Prediction], session: str = "s") -> Path:
    """Write rows as one segment."""
    segment = encode_segment(rows, "keep", session, 0, 0)
    path = home / "predictions" / segment.name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(segment.data)
    return path


def counts(home: Path, clock: Callable[[], float] = lambda: NOW, late_s: float = DAY) -> PredictionCounts:
    return PredictionCounts(str(home / "predictions"), home / "counts", late_s, clock)


def total(counted: PredictionCounts, seconds: float, step_s: int) -> int:
    """Bring the counts up to date and return the number of predictions in the range."""
    counted.update(seconds, 60.0)
    binned, coverage = counted.read(NOW - seconds, step_s)
    assert coverage.is_complete, coverage
    return sum(binned.predictions.values())


@pytest.mark.parametrize("step_s", [30, 180, 600, 3600])
def test_each_prediction_is_counted_once_at_every_resolution(step_s: int, tmp_path: Path) -> None:
    tell(tmp_path)
    logged = int(5.7 * HOUR / STEP_S)  # six hours without the time in which the gateway was away
    counted = counts(tmp_path)
    assert abs(total(counted, 6 * HOUR, step_s) - logged) <= 2
    assert total(counted, 6 * HOUR, step_s) == total(counts(tmp_path), 6 * HOUR, step_s)  # again, and after a restart


def test_a_new_segment_is_counted_when_it_comes(tmp_path: Path) -> None:
    write(tmp_path, [row(NOW - 100)])
    counted = counts(tmp_path)
    assert total(counted, HOUR, 30) == 1
    write(tmp_path, [row(NOW - 90), row(NOW - 3000)], "another gateway")
    assert total(counted, HOUR, 30) == 3


def test_counts_of_an_old_day_outlive_its_segments(tmp_path: Path) -> None:
    old = write(tmp_path, [row(NOW - 5 * DAY + 60 * number, label="Füße 🎈") for number in range(10)])
    assert total(counts(tmp_path), 7 * DAY, 3600) == 10
    old.unlink()
    assert total(counts(tmp_path), 7 * DAY, 3600) == 10
    (kept,) = (tmp_path / "counts").iterdir()
    kept.write_bytes(b"damaged")
    assert total(counts(tmp_path), 7 * DAY, 3600) == 0


def test_a_damaged_segment_loses_no_other(tmp_path: Path) -> None:
    write(tmp_path, [row(NOW - 100)]).with_name(f"x-{int(NOW * 1000):013d}.parquet").write_bytes(b"PAR1 no segment")
    assert total(counts(tmp_path), HOUR, 30) == 1


def test_a_log_that_cannot_be_read_is_a_fault_and_no_empty_log(tmp_path: Path) -> None:
    counted = PredictionCounts("nosuchstore://bucket/log", tmp_path / "counts", DAY, lambda: NOW)
    counted.update(HOUR, 60.0)
    _, coverage = counted.read(NOW - HOUR, 30)
    assert "cannot be read" in coverage.fault
    assert not coverage.is_complete


def test_shadow_copies_have_no_latency_that_callers_noticed() -> None:
    rows = [row(NOW, latency_ms=9.0), row(NOW, 2, "shadow", latency_ms=900.0)]
    counted = count_segment(encode_segment(rows, "keep", "s", 0, 0).data)
    (buckets,) = counted.latencies.values()
    assert sum(buckets) == 1
    assert {(key.version, key.role) for key in counted.predictions} == {(1, "champion"), (2, "shadow")}


def test_quantiles_are_within_a_bucket_of_the_truth() -> None:
    seconds = np.random.default_rng(1).lognormal(-4, 0.7, 2000)
    buckets = np.bincount(np.searchsorted(SECONDS, seconds), minlength=len(SECONDS) + 1).tolist()
    for q in (0.5, 0.99):
        found, truth = quantile_s(buckets, q), float(np.quantile(seconds, q))
        index = int(np.searchsorted(SECONDS, truth))
        assert found is not None
        assert SECONDS[index - 1] <= found <= SECONDS[index]
    assert quantile_s([0] * len(buckets), 0.5) is None


def test_a_longer_range_is_complete_only_when_it_is_counted(tmp_path: Path) -> None:
    write(tmp_path, [row(NOW - 100)])
    counted = counts(tmp_path)
    assert total(counted, HOUR, 30) == 1
    assert not counted.read(NOW - 7 * DAY, 3600)[1].is_complete
    assert total(counted, 7 * DAY, 3600) == 1
    assert counted.read(NOW - HOUR, 30)[1].is_complete


def test_browsers_that_ask_at_once_share_one_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that has been made and does not run yet is no reason to make another one."""
    write(tmp_path, [row(NOW - 100)])
    counted, begun, overlaps = counts(tmp_path), list[threading.Thread](), list[threading.Thread]()
    other = threading.Thread(target=counted.update, args=(HOUR, 60.0))

    class InterruptedThread(threading.Thread):
        def start(self) -> None:
            overlaps.extend(thread for thread in begun if thread.ident is None or thread.is_alive())
            begun.append(self)
            if len(begun) == 1:
                other.start()
                other.join(0.1)  # it waits for this one
            super().start()

    monkeypatch.setattr(threading, "Thread", InterruptedThread)
    counted.update(HOUR, 60.0)
    other.join()
    assert begun
    assert not overlaps


@pytest.mark.parametrize(("hours", "step_s"), [(6, 180), (24, 600)])
def test_the_last_day_has_short_bins_after_a_restart_however_early_a_day_may_close(
    hours: int, step_s: int, tmp_path: Path
) -> None:
    now = NOW - NOW % DAY + 2 * HOUR
    write(tmp_path, [row(now - 3 * HOUR + 60 * number) for number in range(60)])
    for _ in range(2):
        counted = counts(tmp_path, lambda: now, late_s=HOUR)
        counted.update(hours * HOUR, 60.0)
        binned, _ = counted.read(now - hours * HOUR, step_s)
        assert sum(binned.predictions.values()) == 60
        assert len(binned.predictions) == HOUR // step_s


def test_a_clock_that_was_ahead_leaves_no_trace(tmp_path: Path) -> None:
    write(tmp_path, [row(NOW - 100)])
    clock = [NOW]
    counted = counts(tmp_path, lambda: clock[0])
    for days in (0, 3, 0, 0.5, 0):
        clock[0] = NOW + days * DAY
        counted.update(7 * DAY, 60.0)
    assert total(counted, HOUR, 30) == total(counted, 7 * DAY, 3600) == 1
    write(tmp_path, [row(NOW - 50)], "later")
    assert total(counted, 7 * DAY, 3600) == 2
    clock[0] = NOW + 4 * DAY
    after = counts(tmp_path, lambda: clock[0])
    after.update(7 * DAY, 60.0)
    assert sum(after.read(NOW - HOUR, 3600)[0].predictions.values()) == 2
