"""The prediction log: no accepted row is lost uncounted, no fault stops it, a reader sees whole segments only."""

import fcntl
import os
import random
import struct
import subprocess
import sys
import tempfile
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from pipeline.errors import InputError
from pipeline.params import Log, Params
from serving.prediction import Prediction
from serving.prediction_log.segments import SCHEMA, hash_text, read_segments, read_tables
from serving.prediction_log.writer import PredictionLog, count_lost_rows, log_url, row_bytes

NOON = 1_750_000_000.0 - 1_750_000_000 % 86_400 + 43_200
MIDNIGHT = NOON + 43_200
NEVER_S = 1000.0
CHILD = """
import json, os, sys, time
from pathlib import Path
from pipeline.params import Log
from serving.prediction import Prediction
from serving.prediction_log.writer import PredictionLog
home, session, rows = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
log = PredictionLog(Log(**json.loads(sys.argv[4])), home, session, time.time)
for n in range(rows):
    while log.waiting > 500:
        time.sleep(0.001)
    row = ("text", None, 1, 1.0, 1, "champion", "a", 0.5, "b", bytes(128), bytes(40), 1.0, False)
    log.add(Prediction(time.time(), "r", str(n), None, *row))
    os.write(1, b".")
time.sleep(600)
"""

FULL_DISK = """
import json, resource, sys, time
from pathlib import Path
from pipeline.params import Log
from serving.prediction import Prediction
from serving.prediction_log.writer import PredictionLog
home = Path(sys.argv[1])
log = PredictionLog(Log(**json.loads(sys.argv[2])), home, "one", time.time)
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))
for n in range(10):
    row = ("text", None, 1, 1.0, 1, "champion", "a", 0.5, "b", bytes(128), bytes(40), 1.0, False)
    log.add(Prediction(time.time(), "r", str(n), None, *row))
while not log.write_failures:
    time.sleep(0.001)
paths = [str(path) for path in (home / "predictions").glob("date=*/*")]
print(f"\\n{paths}\\n", end="")  # in one write: the writer's thread prints a warning at the same time
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
sys.exit(log.close(within_s=20))
"""


class FrailStore(MemoryFileSystem):
    """A store in memory that can be made to fail, or to hang."""

    protocol = "frail"
    cachable = False
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    failures_left = 0
    gate = threading.Event()

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return "/" + path.removeprefix("frail://").strip("/")

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **options: Any) -> None:
        FrailStore.gate.wait(30)
        self._maybe_fail()
        super().pipe_file(path, value, mode, **options)

    def ls(self, path: str, detail: bool = True, **options: Any) -> Any:
        self._maybe_fail()
        return super().ls(path, detail, **options)

    def _maybe_fail(self) -> None:
        if FrailStore.failures_left > 0:
            FrailStore.failures_left -= 1
            raise OSError("the store is down")


@pytest.fixture
def frail() -> Iterator[type[FrailStore]]:
    """An empty store that works."""
    fsspec.register_implementation("frail", FrailStore, clobber=True)
    FrailStore.store.clear()
    FrailStore.failures_left = 0
    FrailStore.gate.set()
    yield FrailStore
    FrailStore.failures_left = 0
    FrailStore.gate.set()


@pytest.fixture
def settings(params: Params) -> Log:
    """Settings under which nothing is written before 10 rows wait or the log is closed."""
    return params.log.model_copy(update={"segment_rows": 10, "flush_s": NEVER_S, "buffer_rows": 1000})


def row(n: int, moment: float = NOON) -> Prediction:
    text = f"Where is parcel {n}?"
    return Prediction(
        moment,
        f"r{n}",
        f"p{n}",
        "anna",
        text,
        hash_text(text),
        7,
        1.5,
        3,
        "champion",
        "track",
        0.75,
        "lost",
        b"\1" * 128,
        b"\2" * 40,
        2.5,
        False,
    )


@contextmanager
def logging(settings: Log, home: Path, session: str = "one") -> Iterator[PredictionLog]:
    log = PredictionLog(settings, home, session, lambda: NOON)
    try:
        yield log
    finally:
        log.close(within_s=20)


def until(condition: Callable[[], object]) -> None:
    """Poll until the condition holds."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.002)


def tables(url: str | Path, since: float = 0, sessions: set[str] | None = None) -> list[pa.Table]:
    """Return all segments; every file must be one."""
    skipped: list[str] = []
    is_selected = (lambda _name: True) if sessions is None else (lambda name: name.session in sessions)
    segments = list(read_segments(str(url), since=since, is_selected=is_selected, on_skipped=skipped.append))
    assert skipped == []
    return [table for _name, table in segments]


def rows_in(url: str | Path, since: float = 0, sessions: set[str] | None = None) -> list[Prediction]:
    return [Prediction(**fields) for table in tables(url, since, sessions) for fields in table.to_pylist()]


def write_segment(folder: Path, settings: Log, rows: int = 40) -> Path:
    """Write a log of one segment; return its path."""
    with logging(settings.model_copy(update={"segment_rows": 1000}), folder) as log:
        for n in range(rows):
            log.add(row(n))
    [path] = (folder / "predictions").glob("date=*/*.parquet")
    return path


@contextmanager
def child(home: Path, settings: Log, session: str, rows: int) -> Iterator[subprocess.Popen[bytes]]:
    """Start a process that logs `rows` rows, writes a dot for each, and waits to be killed."""
    command = [sys.executable, "-c", CHILD, str(home), session, str(rows), settings.model_dump_json()]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[3])
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def read_dots(process: subprocess.Popen[bytes], wanted: int) -> int:
    """Read until the process has logged `wanted` rows."""
    seen = 0
    while seen < wanted:
        dots = os.read(process.stdout.fileno(), 65536)
        assert dots, "the child ended by itself"
        seen += len(dots)
    return seen


words = st.text(max_size=40)
small = st.floats(width=32, allow_nan=False)
any_row = st.builds(
    Prediction,
    time=st.floats(0, 9e9),
    request_id=words,
    id=words,
    unit=st.none() | words,
    text=words,
    text_hash=st.text(min_size=1, max_size=64),
    pieces=st.integers(0, 2**31 - 1),
    pieces_per_word=small,
    version=st.integers(1, 2**31 - 1),
    role=st.sampled_from(["champion", "challenger", "shadow"]),
    label=words,
    confidence=small,
    runner_up=st.none() | words,
    sketch=st.binary(max_size=256),
    probabilities=st.binary(max_size=64),
    latency_ms=small,
    cache_hit=st.booleans(),
)


@given(rows=st.lists(any_row, max_size=35))
@hypothesis_settings(max_examples=40, deadline=None)
def test_rows_are_read_back_in_order(params: Params, rows: list[Prediction]) -> None:
    few = params.log.model_copy(update={"segment_rows": 10, "flush_s": NEVER_S})
    with tempfile.TemporaryDirectory() as folder:
        with logging(few, Path(folder)) as log:
            for prediction in rows:
                log.add(prediction)
        assert rows_in(f"{folder}/predictions") == rows
        assert log.rows_written == len(rows)
        assert log.rows_dropped == log.rows_unstorable == log.waiting == 0


def test_rows_are_written_when_a_segment_is_full(tmp_path: Path, settings: Log) -> None:
    with logging(settings, tmp_path) as log:
        for n in range(25):
            log.add(row(n))
        until(lambda: log.segments == 2)
        assert (log.rows_written, log.waiting) == (20, 5)
        assert rows_in(tmp_path / "predictions") == [row(n) for n in range(20)]


def test_a_single_row_is_written_after_the_flush_time(tmp_path: Path, settings: Log) -> None:
    with logging(settings.model_copy(update={"flush_s": 0.05}), tmp_path) as log:
        log.add(row(1))
        until(lambda: log.rows_written == 1)
        assert rows_in(tmp_path / "predictions") == [row(1)]


def test_a_clean_close_loses_nothing_and_leaves_no_counter(tmp_path: Path, settings: Log) -> None:
    with logging(settings, tmp_path) as log:
        for n in range(777):
            log.add(row(n))
        assert log.close(within_s=20) == 0
        log.add(row(777))
    assert rows_in(tmp_path / "predictions") == [row(n) for n in range(777)]
    assert log.rows_dropped == 1
    assert list((tmp_path / "log-sessions").iterdir()) == []
    assert count_lost_rows(tmp_path, log_url(settings, tmp_path)) == 0


def test_segments_go_to_any_fsspec_store(tmp_path: Path, settings: Log) -> None:
    url = f"memory://{tmp_path.name}/log"
    with logging(settings.model_copy(update={"url": url}), tmp_path) as log:
        for n in range(15):
            log.add(row(n))
    assert rows_in(url) == [row(n) for n in range(15)]
    assert not (tmp_path / "predictions").exists()


@pytest.mark.parametrize(("policy", "text"), [("keep", "Where is parcel 1?"), ("hash", None)])
def test_the_policy_can_omit_the_text_but_not_its_hash(tmp_path: Path, settings: Log, policy: str, text: str | None) -> None:
    with logging(settings.model_copy(update={"text": policy}), tmp_path) as log:
        log.add(row(1)._replace(text_hash=None))
        log.add(row(2)._replace(text=None, text_hash="known"))
        log.add(row(3)._replace(text=None, text_hash=None))
    first, second, third = rows_in(tmp_path / "predictions")
    assert (first.text, first.text_hash) == (text, "b4e553268f726733f65f728420e4ec2e459921b7a17e183aa5de7a17c4244462")
    assert (second.text, second.text_hash) == (None, "known")
    assert (third.text, third.text_hash) == (None, None)


@pytest.mark.parametrize(
    "wrong",
    [
        {"text": "\ud800"},
        {"unit": "\udfff"},
        {"time": float("nan")},
        {"time": float("inf")},
        {"time": None},
        {"version": "three"},
        {"pieces": 2**40},
        {"text_hash": None, "text": 5},
    ],
    ids=str,
)
def test_a_row_that_cannot_be_stored_is_counted_and_affects_no_other(
    tmp_path: Path, settings: Log, wrong: dict[str, Any]
) -> None:
    with logging(settings, tmp_path) as log:
        for n in range(30):
            log.add(row(n)._replace(**wrong) if n == 13 else row(n))
    assert rows_in(tmp_path / "predictions") == [row(n) for n in range(30) if n != 13]
    assert (log.rows_written, log.rows_unstorable, log.waiting) == (29, 1, 0)


def test_rows_beyond_the_buffer_are_dropped_and_counted(tmp_path: Path, settings: Log, frail: type[FrailStore]) -> None:
    frail.failures_left = 10**9
    with logging(settings.model_copy(update={"url": "frail://log", "buffer_rows": 25}), tmp_path) as log:
        for n in range(25):
            log.add(row(n))
        until(lambda: log.write_failures)  # ten rows have left the buffer, and still count
        for n in range(25, 100):
            log.add(row(n))
        assert (log.waiting, log.rows_dropped) == (25, 75)
        frail.failures_left = 0
    assert rows_in("frail://log") == [row(n) for n in range(25)]


@pytest.mark.parametrize(("text", "accepted"), [("a" * 4000, 19), ("\U0001f600" * 4000, 3)])
def test_the_buffer_is_bounded_in_bytes_too(
    tmp_path: Path, settings: Log, frail: type[FrailStore], text: str, accepted: int
) -> None:
    frail.failures_left = 10**9
    with logging(settings.model_copy(update={"url": "frail://log", "segment_rows": 1, "buffer_bytes": 100_000}), tmp_path) as log:
        for n in range(accepted):
            log.add(row(n)._replace(text=text))
        log.add(row(accepted)._replace(text=text))
        assert (log.waiting, log.rows_dropped) == (accepted, 1)
        frail.failures_left = 0
        until(lambda: not log.waiting)
        log.add(row(accepted)._replace(text=text))
        assert log.rows_dropped == 1
    assert len(rows_in("frail://log")) == accepted + 1


def test_a_row_needs_no_more_memory_than_is_counted() -> None:
    def made(number: int, text: str) -> Prediction:
        fresh = {"request_id": f"{number:024x}", "id": f"{number:024x}-0", "sketch": bytes(128), "probabilities": bytes(154)}
        return row(number)._replace(text=text, unit=f"unit {number}", latency_ms=number / 7, **fresh)

    for text in ("a" * 4000, "é" * 4000, "\U0001f600" * 4000):
        tracemalloc.start()
        rows = [made(number, f"{text}{number}") for number in range(200)]
        pa.array([row.text for row in rows])  # encodes each text, and Python keeps the encoded form
        used = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        assert used <= sum(map(row_bytes, rows))


def test_a_buffer_smaller_than_a_segment_still_empties(tmp_path: Path, settings: Log) -> None:
    with logging(settings.model_copy(update={"segment_rows": 1000, "buffer_rows": 5}), tmp_path) as log:
        for n in range(5):
            log.add(row(n))
        until(lambda: log.rows_written == 5)
    assert (log.rows_dropped, log.segments) == (0, 1)


def test_an_outage_is_logged_once_and_costs_no_row(tmp_path: Path, settings: Log, frail: type[FrailStore]) -> None:
    with capture_logs() as lines, logging(settings.model_copy(update={"url": "frail://log"}), tmp_path) as log:
        frail.failures_left = 3
        for n in range(45):
            log.add(row(n))
        until(lambda: log.rows_written == 40)
    assert rows_in("frail://log") == [row(n) for n in range(45)]
    assert (log.write_failures, log.segments) == (3, 5)
    assert [line["event"] for line in lines] == ["prediction_log_store_down", "prediction_log_store_back"]


def test_a_local_folder_that_cannot_be_written_is_an_outage_too(tmp_path: Path, settings: Log) -> None:
    (tmp_path / "predictions").write_text("in the way")
    with logging(settings, tmp_path) as log:
        for n in range(10):
            log.add(row(n))
        until(lambda: log.write_failures)
        (tmp_path / "predictions").unlink()
    assert rows_in(tmp_path / "predictions") == [row(n) for n in range(10)]


def test_a_disk_that_fills_in_the_middle_of_a_segment_leaves_nothing_half_written(tmp_path: Path, settings: Log) -> None:
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path), settings.model_dump_json()]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[3])
    assert done.returncode == 0, done.stderr
    assert "[]" in done.stdout.splitlines(), "a file was there while the disk was full"
    assert [prediction.id for prediction in rows_in(tmp_path / "predictions")] == [str(n) for n in range(10)]


@pytest.mark.parametrize("fault", ["down", "hanging"])
def test_close_gives_up_in_time_and_the_next_start_counts(
    tmp_path: Path, settings: Log, frail: type[FrailStore], fault: str
) -> None:
    if fault == "down":
        frail.failures_left = 10**9
    else:
        frail.gate.clear()
    with logging(settings.model_copy(update={"url": "frail://log"}), tmp_path) as log:
        for n in range(15):
            log.add(row(n))
        began = time.monotonic()
        assert log.close(within_s=0.3) == 15
        assert time.monotonic() - began < 5
        if fault == "down":
            until(lambda: all(thread.name != "prediction-log" for thread in threading.enumerate()))
        frail.failures_left = 0
        assert count_lost_rows(tmp_path, "frail://log") == 15
        assert count_lost_rows(tmp_path, "frail://log") == 0
        frail.gate.set()


def test_close_does_not_wait_for_the_end_of_a_long_pause(
    tmp_path: Path, settings: Log, frail: type[FrailStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.prediction_log.writer.RETRY_GROWTH", 1000.0)
    monkeypatch.setattr("serving.prediction_log.writer.RETRY_MAX_S", 60.0)
    frail.failures_left = 2
    with logging(settings.model_copy(update={"url": "frail://log"}), tmp_path) as log:
        for n in range(10):
            log.add(row(n))
        until(lambda: log.write_failures == 2)
        assert log.close(within_s=10) == 0
    assert len(rows_in("frail://log")) == 10


def test_after_kill_9_the_rows_still_buffered_are_counted(tmp_path: Path, settings: Log) -> None:
    url = log_url(settings, tmp_path)
    with child(tmp_path, settings.model_copy(update={"segment_rows": 100}), "dead", 250) as process:
        read_dots(process, 250)
        until(lambda: len(rows_in(url)) == 200)
        assert count_lost_rows(tmp_path, url) == 0, "it runs"
    assert count_lost_rows(tmp_path, url) == 50
    assert count_lost_rows(tmp_path, url) == 0, "counted once"
    assert len(rows_in(url)) == 200


@pytest.mark.parametrize("dots", [1, 900, 4000])
def test_after_kill_9_at_any_moment_lost_is_accepted_less_stored(tmp_path: Path, settings: Log, dots: int) -> None:
    url = log_url(settings, tmp_path)
    with child(tmp_path, settings.model_copy(update={"segment_rows": 50}), "dead", 10**6) as process:
        seen = read_dots(process, dots)
        process.kill()
        seen += len(process.stdout.read())
    accepted, _started = struct.unpack("=QQ", (tmp_path / "log-sessions/dead.count").read_bytes())
    stored = [int(prediction.id) for prediction in rows_in(url)]
    assert accepted in (seen, seen + 1)  # the dot is written after the row
    assert stored == list(range(len(stored)))
    with logging(settings, tmp_path, "next") as log:
        until(lambda: not (tmp_path / "log-sessions/dead.count").exists())
        assert count_lost_rows(tmp_path, url) == 0
    assert log.rows_lost_before == accepted - len(stored) <= 501


def test_two_sessions_share_a_home(tmp_path: Path, settings: Log) -> None:
    url = log_url(settings, tmp_path)
    with logging(settings, tmp_path, "gateway-1") as first, logging(settings, tmp_path, "gateway-1-b") as second:
        for n in range(30):
            (first if n % 2 else second).add(row(n))
        assert count_lost_rows(tmp_path, url) == 0
    assert rows_in(url, sessions={"gateway-1"}) == [row(n) for n in range(30) if n % 2]
    assert rows_in(url, sessions={"gateway-1-b"}) == [row(n) for n in range(30) if not n % 2]
    assert len(rows_in(url)) == 30


def test_eight_starts_at_once_count_a_dead_session_once(tmp_path: Path, settings: Log) -> None:
    (tmp_path / "log-sessions").mkdir()
    for name in ("a", "b.c", "d"):
        (tmp_path / f"log-sessions/{name}.count").write_bytes(struct.pack("=QQ", 5, int(NOON)))
    with ThreadPoolExecutor(8) as pool:
        counted = list(pool.map(lambda _: count_lost_rows(tmp_path, log_url(settings, tmp_path)), range(8)))
    assert sum(counted) == 15


def test_a_session_counted_between_finding_and_locking_is_not_counted_again(
    tmp_path: Path, settings: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = log_url(settings, tmp_path)
    (tmp_path / "log-sessions").mkdir()
    (tmp_path / "log-sessions/dead.count").write_bytes(struct.pack("=QQ", 5, int(NOON)))
    counted = []

    def lock_late(file: BinaryIO, how: int) -> None:
        monkeypatch.undo()
        counted.append(count_lost_rows(tmp_path, url))
        fcntl.flock(file, how)

    monkeypatch.setattr("fcntl.flock", lock_late)
    counted.append(count_lost_rows(tmp_path, url))
    assert counted == [5, 0]


@pytest.mark.parametrize("content", [b"", b"\5", b"\5" * 15])
def test_a_counter_cut_short_stops_no_start(tmp_path: Path, settings: Log, content: bytes) -> None:
    (tmp_path / "log-sessions").mkdir()
    (tmp_path / "log-sessions/dead.count").write_bytes(content)
    count_lost_rows(tmp_path, log_url(settings, tmp_path))
    assert list((tmp_path / "log-sessions").iterdir()) == []


def test_while_the_store_is_down_no_dead_session_is_counted(tmp_path: Path, settings: Log, frail: type[FrailStore]) -> None:
    (tmp_path / "log-sessions").mkdir()
    (tmp_path / "log-sessions/dead.count").write_bytes(struct.pack("=QQ", 5, int(NOON)))
    frail.failures_left = 1
    assert count_lost_rows(tmp_path, "frail://log") == 0
    assert count_lost_rows(tmp_path, "frail://log") == 5


def test_the_rows_of_a_damaged_last_segment_count_as_lost(tmp_path: Path, settings: Log, frail: type[FrailStore]) -> None:
    with logging(settings, tmp_path) as log:
        for n in range(30):
            log.add(row(n))
        until(lambda: log.segments == 3)
        counter = (tmp_path / "log-sessions/one.count").read_bytes()
    sorted((tmp_path / "predictions").glob("date=*/*.parquet"))[-1].write_bytes(b"damaged")
    (tmp_path / "log-sessions/one.count").write_bytes(counter)
    assert count_lost_rows(tmp_path, log_url(settings, tmp_path)) == 10


def test_a_session_name_in_use_is_refused(tmp_path: Path, settings: Log) -> None:
    with logging(settings, tmp_path), pytest.raises(InputError, match="a session of this name"):
        PredictionLog(settings, tmp_path, "one", time.time)


@pytest.mark.parametrize("url", ["nowhere://log", "s3a-typo://bucket/log"])
def test_an_unknown_kind_of_store_is_refused_at_the_start(tmp_path: Path, settings: Log, url: str) -> None:
    with pytest.raises(InputError, match=r"log\.url"):
        PredictionLog(settings.model_copy(update={"url": url}), tmp_path, "one", time.time)


def test_segments_come_in_time_order_across_sessions_and_days(tmp_path: Path, settings: Log) -> None:
    with logging(settings, tmp_path, "zoe") as zoe, logging(settings, tmp_path, "amy") as amy:
        for n in range(100):
            (zoe if n // 10 % 2 else amy).add(row(n, MIDNIGHT + n - 50))
    rows = rows_in(tmp_path / "predictions")
    assert [int(prediction.id[1:]) for prediction in rows] == list(range(100))
    assert len(list((tmp_path / "predictions").iterdir())) == 2


@given(since=st.floats(MIDNIGHT - 60, MIDNIGHT + 60), seed=st.integers(0, 9))
@hypothesis_settings(max_examples=30, deadline=None)
def test_no_row_since_a_moment_is_missed_and_older_segments_are_left_out(params: Params, since: float, seed: int) -> None:
    jumbled = random.Random(seed)  # noqa: S311
    rows = [row(n, MIDNIGHT + n - 50 + jumbled.uniform(-20, 20)) for n in range(100)]
    with tempfile.TemporaryDirectory() as folder:
        with logging(params.log.model_copy(update={"segment_rows": 10, "flush_s": NEVER_S}), Path(folder)) as log:
            for prediction in rows:
                log.add(prediction)
        segments = tables(f"{folder}/predictions", since)
    read = {Prediction(**fields) for table in segments for fields in table.to_pylist()}
    assert {prediction for prediction in rows if prediction.time >= since} <= read
    assert len(segments) <= sum(max(prediction.time for prediction in rows[: 10 * k + 10]) >= since - 0.1 for k in range(10))


def test_a_segment_is_named_by_its_session_and_first_row(tmp_path: Path, settings: Log) -> None:
    with logging(settings, tmp_path) as log:
        for n in range(25):
            log.add(row(n))
    marks = [table.schema.metadata for table in tables(tmp_path / "predictions")]
    assert [(mark[b"session"], int(mark[b"first_row"])) for mark in marks] == [(b"one", 0), (b"one", 10), (b"one", 20)]


def test_damaged_and_foreign_files_are_skipped_and_counted(tmp_path: Path, settings: Log) -> None:
    path = write_segment(tmp_path, settings)
    whole, stem = path.read_bytes(), path.stem.rsplit("-", 1)[0]
    noise = random.Random(1)  # noqa: S311
    corrupt = [whole[:length] for length in range(0, len(whole), 100)]
    corrupt += [noise.randbytes(length) for length in (1, 12, 1000, 100_000)]
    corrupt += [b"PAR1" + noise.randbytes(1000) + struct.pack("<I", 900) + b"PAR1"]
    for number, content in enumerate(corrupt):
        (path.parent / f"{stem}-{number:013d}.parquet").write_bytes(content)
    pq.write_table(pa.table({"time": [1.0]}), path.parent / "theirs-0000000000001.parquet")
    (path.parent / "notes.txt").write_text("bought milk")
    (path.parent / "a-0000000000001.parquet").mkdir()
    (path.parent / ".hidden").write_text("")
    (path.parent / "b-0000000000001.parquet.part").write_bytes(whole)
    (path.parents[1] / "elsewhere").mkdir()
    skipped: list[str] = []
    [table] = read_tables(str(path.parents[1]), since=0, on_skipped=skipped.append)
    assert table.num_rows == 40
    assert len(skipped) == len(set(skipped)) == len(corrupt) + 3


def test_a_byte_changed_among_the_values_never_changes_a_row(tmp_path: Path, settings: Log) -> None:
    path = write_segment(tmp_path, settings)
    whole = path.read_bytes()
    values_end = len(whole) - 8 - struct.unpack("<I", whole[-8:-4])[0]
    expected = rows_in(path.parents[1])
    skipped: list[str] = []
    for position in range(4, values_end, 7):
        corrupt = bytearray(whole)
        corrupt[position] ^= 0x55
        path.write_bytes(corrupt)
        for table in read_tables(str(path.parents[1]), since=0, on_skipped=skipped.append):
            assert [Prediction(**fields) for fields in table.to_pylist()] == expected
    assert len(skipped) > 100


def test_columns_of_other_releases_are_added_as_nulls_or_left_out(tmp_path: Path, settings: Log) -> None:
    path = write_segment(tmp_path, settings)
    table = pq.read_table(path, partitioning=None)
    pq.write_table(table.drop_columns(["cache_hit"]).append_column("mood", pa.array(["fine"] * 40)), path)
    [segment] = tables(path.parents[1])
    assert segment.schema.equals(SCHEMA)
    assert segment["cache_hit"].null_count == 40
    assert segment.drop_columns(["cache_hit"]) == table.drop_columns(["cache_hit"])


@pytest.mark.parametrize("change", ["a later format", "another type"])
def test_a_segment_of_another_format_is_skipped(tmp_path: Path, settings: Log, change: str) -> None:
    path = write_segment(tmp_path, settings)
    table = pq.read_table(path, partitioning=None)
    if change == "a later format":
        table = table.replace_schema_metadata(table.schema.metadata | {b"format": b"2"})
    else:
        table = table.set_column(0, "time", pa.array(["noon"] * 40))
    pq.write_table(table, path)
    skipped: list[str] = []
    assert list(read_tables(str(path.parents[1]), since=0, on_skipped=skipped.append)) == []
    assert skipped == [str(path)]


def test_a_log_that_was_never_written_is_empty(tmp_path: Path) -> None:
    assert rows_in(tmp_path / "nothing") == rows_in("memory://nothing-there") == []


def test_a_concurrent_reader_sees_whole_segments_only(tmp_path: Path, settings: Log) -> None:
    url = log_url(settings, tmp_path)
    with logging(settings, tmp_path) as log:
        for n in range(600):
            log.add(row(n))
        while log.rows_written < 600:
            seen = rows_in(url)  # a damaged file would fail here
            assert seen == [row(n) for n in range(len(seen))]
            assert len(seen) % 10 == 0
    assert len(rows_in(url)) == 600


def test_segments_deleted_by_retention_during_a_read_are_skipped(tmp_path: Path, settings: Log) -> None:
    with logging(settings, tmp_path) as log:
        for n in range(30):
            log.add(row(n))
    url = log_url(settings, tmp_path)
    reader = read_tables(url, since=0, on_skipped=pytest.fail)
    next(reader)
    sorted(Path(url).glob("date=*/*"))[1].unlink()
    assert [table["id"][0].as_py() for table in reader] == ["p20"]


def test_earlier_days_are_not_even_listed(tmp_path: Path, settings: Log) -> None:
    path = write_segment(tmp_path, settings)
    (path.parent / "notes.txt").write_text("bought milk")
    assert list(read_tables(str(path.parents[1]), since=NOON + 86_400, on_skipped=pytest.fail)) == []


def test_a_reader_of_a_store_that_is_down_fails(frail: type[FrailStore]) -> None:
    frail.failures_left = 1
    with pytest.raises(OSError, match="down"):
        list(read_tables("frail://log", since=0, on_skipped=pytest.fail))


def test_adding_a_row_costs_the_event_loop_less_than_ten_microseconds(tmp_path: Path, params: Params) -> None:
    rows = [row(n) for n in range(5000)]
    seconds = []
    with logging(params.log, tmp_path) as log:
        for _ in range(5):
            began = time.perf_counter()
            for prediction in rows:
                log.add(prediction)
            seconds.append(time.perf_counter() - began)
    assert log.rows_written == 25_000
    assert min(seconds) / len(rows) < 10e-6
