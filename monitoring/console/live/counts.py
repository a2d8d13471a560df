"""Counts of the prediction log over time: by version, role and label, with latency. A thread counts each segment once.

Three resolutions: 30 s for the last hours, 600 s for days that may still get segments, 3600 s for older days. The counts of an
older day are kept in `console/counts/` of the home: a log of months has millions of segments. They can be deleted at any time.
"""

import json
import math
import threading
import time
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import structlog

from pipeline.atomic_write import atomic_write
from pipeline.errors import EvergreenError
from serving.gateway.metrics import SECONDS
from serving.prediction_log.segments import SegmentName, day_folders, open_store, segment_names

FINE_S, OPEN_S, CLOSED_S = 30, 600, 3600  # bins
FINE_FOR_S = 6 * 3600 + 600
DAY_S = 86_400
FORMAT = 1
COLUMNS = ["time", "version", "role", "label", "latency_ms"]
BOUNDS_MS = [1000 * bound for bound in SECONDS]

log = structlog.get_logger()


class Key(NamedTuple):
    """What a prediction is counted under."""

    bin: int  # the start of the bin, seconds of the epoch
    version: int
    role: str
    label: str


class Binned:
    """Counts in bins of one length."""

    def __init__(self, bin_s: int) -> None:
        self.bin_s = bin_s
        self.predictions: Counter[Key] = Counter()
        self.latencies: dict[int, list[int]] = defaultdict(lambda: [0] * (len(SECONDS) + 1))  # by bin, of those that callers got

    def add_all(self, other: "Binned") -> None:
        """Add counts in shorter bins to these."""
        for key, count in other.predictions.items():
            self.predictions[key._replace(bin=key.bin // self.bin_s * self.bin_s)] += count
        for start, buckets in other.latencies.items():
            mine = self.latencies[start // self.bin_s * self.bin_s]
            mine[:] = [a + b for a, b in zip(mine, buckets, strict=True)]

    @property
    def oldest(self) -> float:
        """Return the start of the first bin; infinite without any."""
        return min((key.bin for key in self.predictions), default=math.inf)

    def forget_before(self, moment: float) -> None:
        """Delete the bins that ended before a moment."""
        for key in [key for key in self.predictions if key.bin + self.bin_s < moment]:
            del self.predictions[key]
        for start in [start for start in self.latencies if start + self.bin_s < moment]:
            del self.latencies[start]


class Coverage(NamedTuple):
    """How far the counts go: `since` is the oldest moment counted so far, `is_complete` whether that is all; `fault` why not."""

    since: float
    is_complete: bool
    fault: str


class PredictionCounts:
    """The counts of one log, brought up to date by a thread while a page is looked at."""

    def __init__(self, url: str, folder: Path, late_s: float, clock: Callable[[], float]) -> None:
        self._url, self._folder, self._late_s, self._clock = url, folder, late_s, clock
        self._lock = threading.Lock()
        self._starting = threading.Lock()
        self._fine = Binned(FINE_S)
        self._days: dict[str, Binned] = {}  # by the name of the folder
        self._seen: dict[str, set[str]] = defaultdict(set)  # segments of open days
        self._coverage = Coverage(clock(), is_complete=False, fault="")
        self._thread: threading.Thread | None = None
        self._counted_at = -math.inf

    def update(self, reach_s: float, within_s: float) -> None:
        """Count new segments of the last `reach_s` in the background; return when that is done or the time is over."""
        with self._starting:  # two browsers ask at once, and a second thread would count the same segments again
            thread = self._thread
            if thread is None or not thread.is_alive():
                thread = self._thread = threading.Thread(target=self._count, args=(reach_s,), name="counts", daemon=True)
                thread.start()
        thread.join(within_s)

    def read(self, start: float, step_s: int) -> tuple[Binned, Coverage]:
        """Return the counts since a moment in bins of `step_s`, and how far they go."""
        wanted = Binned(step_s)
        with self._lock:
            parts = [self._fine] if step_s % OPEN_S else list(self._days.values())
            for part in parts:
                wanted.add_all(part)
            coverage = self._coverage
        coverage = coverage._replace(is_complete=coverage.is_complete and coverage.since <= start + step_s)
        wanted.forget_before(start)
        return wanted, coverage

    def _count(self, reach_s: float) -> None:
        """Count the newest segments first."""
        try:
            self._count_days(self._clock() - reach_s)
        except (OSError, EvergreenError) as error:
            self._coverage = self._coverage._replace(fault=f"the prediction log {self._url} cannot be read: {error}")
        except Exception as error:  # a store of fsspec raises its own kinds of error
            log.exception("could not count the prediction log")
            self._coverage = self._coverage._replace(fault=f"the prediction log {self._url} cannot be read: {error!r}")

    def _count_days(self, since: float) -> None:
        fs, root = open_store(self._url)
        fs.invalidate_cache()
        now = self._clock()
        if now < self._counted_at - FINE_S:  # the clock was ahead
            self._start_over(now)
        self._counted_at = now
        is_known = self._coverage.is_complete and self._coverage.since <= since  # then only new segments are missing
        with self._lock:
            self._fine.forget_before(now - FINE_FOR_S)
        for folder in reversed(day_folders(fs, root, since)):
            day = folder.rsplit("/", 1)[-1]
            if not self._is_closed(day, now):
                (self._folder / f"{day}.json.z").unlink(missing_ok=True)  # from a clock that was ahead
                self._count_segments(fs, day, reversed(segment_names(fs, folder, lambda _path: None)))
            elif day not in self._days or self._days[day].bin_s != CLOSED_S:
                self._close_day(fs, folder, day)
            if not is_known:
                self._coverage = Coverage(min(self._coverage.since, _start_of(day)), is_complete=False, fault="")
        self._coverage = Coverage(self._coverage.since if is_known else since, is_complete=True, fault="")

    def _is_closed(self, day: str, now: float) -> bool:
        return _start_of(day) + DAY_S + max(self._late_s, DAY_S) < now  # the range of a day needs its shorter bins

    def _start_over(self, now: float) -> None:
        with self._lock:
            self._fine, self._days = Binned(FINE_S), {}
            self._seen.clear()
            self._coverage = Coverage(now, is_complete=False, fault="")

    def _close_day(self, fs: Any, folder: str, day: str) -> None:
        """Read the counts of a day that gets no more segments, or count it and keep the counts."""
        path = self._folder / f"{day}.json.z"
        counted = _read_counts(path)
        if counted is None:
            self._count_segments(fs, day, reversed(segment_names(fs, folder, lambda _path: None)))
            counted = Binned(CLOSED_S)
            counted.add_all(self._days.get(day, counted))
            _write_counts(path, counted)
        with self._lock:
            self._days[day] = counted
            self._seen.pop(day, None)

    def _count_segments(self, fs: Any, day: str, names: Iterable[SegmentName]) -> None:
        fine_since = self._clock() - FINE_FOR_S
        for name in names:
            if name.path in self._seen[day]:
                continue
            try:
                counted = count_segment(fs.cat_file(name.path))
            except (FileNotFoundError, IsADirectoryError):  # deleted by retention; a folder by that name
                counted = Binned(FINE_S)
            with self._lock:
                self._seen[day].add(name.path)
                self._days.setdefault(day, Binned(OPEN_S)).add_all(counted)
                if name.sequence >= 1000 * fine_since:
                    self._fine.add_all(counted)
            if not self._coverage.is_complete and counted.oldest < self._coverage.since:
                self._coverage = Coverage(counted.oldest, is_complete=False, fault="")
            time.sleep(0)  # lets requests take the interpreter


def count_segment(data: bytes) -> Binned:
    """Count a segment's rows; none of a file that is not a whole segment."""
    counted = Binned(FINE_S)
    try:
        table = pq.ParquetFile(pa.BufferReader(data)).read(columns=COLUMNS, use_threads=False)
    except (pa.ArrowException, OSError):
        return counted
    if table.column_names != COLUMNS:
        return counted
    starts = (np.floor(table["time"].to_numpy() / FINE_S) * FINE_S).astype(np.int64)
    grouped = table.append_column("bin", pa.array(starts)).group_by(["bin", *Key._fields[1:]]).aggregate([([], "count_all")])
    for row in grouped.to_pylist():
        counted.predictions[Key(*(row[name] for name in Key._fields))] += row["count_all"]
    latencies = table["latency_ms"].to_numpy().astype(np.float64)
    is_answer = np.isfinite(latencies) & (table["role"].to_numpy() != "shadow")
    buckets = np.searchsorted(BOUNDS_MS, latencies[is_answer])
    for start, bucket in zip(starts[is_answer].tolist(), buckets.tolist(), strict=True):
        counted.latencies[start][bucket] += 1
    return counted


def quantile_s(buckets: list[int], q: float) -> float | None:
    """Return a quantile in seconds as Prometheus' histogram_quantile does; None without counts."""
    total, below = sum(buckets), 0
    if not total:
        return None
    for number, count in enumerate(buckets[:-1]):
        if below + count >= q * total:
            low = SECONDS[number - 1] if number else 0.0
            return low + (SECONDS[number] - low) * (q * total - below) / count
        below += count
    return float(SECONDS[-1])


def _start_of(day: str) -> float:
    return datetime.fromisoformat(day.removeprefix("date=")).replace(tzinfo=UTC).timestamp()


def _write_counts(path: Path, counted: Binned) -> None:
    grouped: dict[str, dict[int, int]] = defaultdict(dict)
    for key, count in counted.predictions.items():
        grouped[json.dumps(key[1:])][key.bin] = count
    content = {"format": FORMAT, "bounds": list(SECONDS), "predictions": grouped, "latencies": counted.latencies}
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as part:
        part.write_bytes(zlib.compress(json.dumps(content).encode()))


def _read_counts(path: Path) -> Binned | None:
    """Return the counts of a day, None where there are none that this code has written."""
    try:
        content = json.loads(zlib.decompress(path.read_bytes()))
        if content["format"] != FORMAT or content["bounds"] != list(SECONDS):
            return None
        counted = Binned(CLOSED_S)
        for group, bins in content["predictions"].items():
            version, role, label = json.loads(group)
            counted.predictions.update({Key(int(start), version, role, label): count for start, count in bins.items()})
        counted.latencies.update({int(start): buckets for start, buckets in content["latencies"].items()})
    except (OSError, ValueError, KeyError, zlib.error):
        return None
    return counted
