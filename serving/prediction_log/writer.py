"""The prediction log's writer: buffers rows in memory, stores them from a thread, counts what a killed process lost.

Knows neither HTTP nor metrics nor the format of a segment.
"""

import fcntl
import mmap
import struct
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import structlog

from pipeline.errors import InputError
from pipeline.params import Log
from serving.prediction import Prediction
from serving.prediction_log.segments import (
    Segment,
    day_folders,
    encode_segment,
    open_store,
    parse_segment,
    segment_names,
    store_file,
    warm_up,
)

RETRY_FIRST_S, RETRY_GROWTH, RETRY_MAX_S = 0.1, 2.0, 10.0
DAY_S = 86_400
ROW_BYTES = 1200  # of a row without its text
COUNTER = struct.Struct("=QQ")  # rows accepted, second of the start

log = structlog.get_logger()


class PredictionLog:
    """The writer of one process: the event loop calls `add`, a thread stores the rows.

    Plain counts for metrics: `rows_written`, `rows_dropped` (the buffer was full), `rows_unstorable` (no column can hold them),
    `segments`, `write_failures`, `rows_lost_before` (by killed sessions; known soon after the start), `waiting`.
    """

    def __init__(self, settings: Log, home: Path, session: str, clock: Callable[[], float]) -> None:
        """Open the log; `session` must never be used again. Raise `InputError` when the URL or the session cannot be used."""
        self.rows_written = self.rows_dropped = self.rows_unstorable = 0
        self.segments = self.write_failures = self.rows_lost_before = 0
        self._settings, self._home, self._session = settings, home, session
        self._fs, self._root = open_store(log_url(settings, home))
        self._bound = settings.buffer_rows
        self._segment_rows = min(settings.segment_rows, settings.buffer_rows)
        self._rows: deque[Prediction] = deque()
        self._batch: list[Prediction] = []  # out of the buffer, not yet stored
        self._segment: Segment | None = None  # encoded from the batch
        self._sequence = 0
        self._accepted = 0  # changed by the event loop only
        self._settled = 0  # changed by the thread only
        self._accepted_bytes, self._settled_bytes = 0, 0  # likewise
        self._closing = self._gave_up = False
        self._wake = threading.Event()
        warm_up()
        self._counter = _open_counter(home, session, started=int(clock()))
        self._thread = threading.Thread(target=self._run, name="prediction-log", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Rows accepted and not yet stored."""
        return self._accepted - self._settled

    def add(self, row: Prediction) -> None:
        """Buffer a row, or drop and count it when the buffer is full; never blocks, never raises."""
        size = row_bytes(row)
        held_bytes = self._accepted_bytes - self._settled_bytes + size
        if self._accepted - self._settled >= self._bound or held_bytes > self._settings.buffer_bytes:
            self.rows_dropped += 1
            return
        self._accepted += 1
        self._accepted_bytes += size
        self._counter.cells[0] = self._accepted  # counted before it is buffered: a kill in between cannot hide a row
        self._rows.append(row)
        if len(self._rows) == self._segment_rows:
            self._wake.set()

    def close(self, *, within_s: float) -> int:
        """Store the waiting rows within `within_s`; return the number given up, which the next start counts as lost.

        Blocks: call it from a thread. Rows added from now on are dropped.
        """
        self._bound = 0
        self._closing = True
        self._wake.set()
        self._thread.join(within_s)
        if self._thread.is_alive():
            self._gave_up = True
            self._wake.set()
        if self.waiting:
            _warn("prediction_log_gave_up", rows=self.waiting, folder=self._root)
        _close_counter(self._counter, remove=not self.waiting)
        return self.waiting

    def _run(self) -> None:
        self.rows_lost_before = count_lost_rows(self._home, log_url(self._settings, self._home))
        delay_s = 0.0  # above 0 while the store is down
        while not self._gave_up and (self.waiting or not self._closing):
            try:
                self._write_next()
            except Exception as error:
                self.write_failures += 1
                if not delay_s:
                    _warn("prediction_log_store_down", error=str(error)[:300], folder=self._root, waiting=self.waiting)
                delay_s = min(max(RETRY_GROWTH * delay_s, RETRY_FIRST_S), RETRY_MAX_S)
                self._wake.clear()
                if not self._gave_up:
                    self._wake.wait(RETRY_FIRST_S if self._closing else delay_s)
            else:
                if delay_s:
                    _warn("prediction_log_store_back", failures=self.write_failures, dropped=self.rows_dropped)
                delay_s = 0.0

    def _write_next(self) -> None:
        """Store the batch that failed before, or the next one; raise what the store raises."""
        if not self._batch:
            self._wake.clear()  # before the check: `add` and `close` change the state before they set the event
            if len(self._rows) < self._segment_rows and not self._closing:
                self._wake.wait(self._settings.flush_s)
            self._batch = [self._rows.popleft() for _ in range(min(len(self._rows), self._segment_rows))]
        if not self._batch:
            return
        if not self._segment:
            self._segment = encode_segment(self._batch, self._settings.text, self._session, self._sequence, self.rows_written)
        segment, rows, size = self._segment, len(self._batch), sum(map(row_bytes, self._batch))
        if segment.rows:
            store_file(self._fs, f"{self._root}/{segment.name}", segment.data)
            self.segments += 1
        self._batch, self._segment, self._sequence = [], None, segment.sequence
        self.rows_written += segment.rows
        self.rows_unstorable += rows - segment.rows
        self._settled += rows
        self._settled_bytes += size


def row_bytes(row: Prediction) -> int:
    """Return an upper estimate of the memory that a row needs.

    An emoji makes every character of its text take 4 bytes, and encoding the text takes up to 4 bytes a character more.
    """
    text = row.text if isinstance(row.text, str) else ""
    return ROW_BYTES + (len(text) if text.isascii() else 8 * len(text))


def log_url(settings: Log, home: Path) -> str:
    """Return the URL of the segments: `log.url`, or `predictions/` in the home of state."""
    return str(home / "predictions") if settings.url == "home" else settings.url


def count_lost_rows(home: Path, url: str) -> int:
    """Return the rows that killed sessions accepted and did not store; each session is counted once, by one process.

    While the store cannot be read, the counters stay for the next start.
    """
    fs, root = open_store(url)
    lost = 0
    for path in sorted(_counters(home).glob("*.count")):
        try:
            lost += _count_lost_by(path, fs, root)
        except Exception as error:
            _warn("prediction_log_not_counted", session=path.stem, error=str(error)[:300])
    if lost:
        _warn("prediction_log_rows_lost", rows=lost)
    return lost


class SessionCounter(NamedTuple):
    """Rows accepted by a running session, in a file that survives a kill -9; its flock shows that the session runs."""

    path: Path
    file: BinaryIO
    cells: memoryview  # of `COUNTER`, mapped


def _counters(home: Path) -> Path:
    return home / "log-sessions"


def _open_counter(home: Path, session: str, started: int) -> SessionCounter:
    path = _counters(home) / f"{session}.count"
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        raise InputError(str(path), "a session of this name runs or was killed", "give every start its own name")
    part = path.with_suffix(".part")
    file = part.open("w+b")
    fcntl.flock(file, fcntl.LOCK_EX)
    file.write(COUNTER.pack(0, started))  # real bytes: a mapped page without disk space would kill the process
    file.flush()
    part.rename(path)  # it appears locked, or another process would count it as a killed session's
    return SessionCounter(path, file, memoryview(mmap.mmap(file.fileno(), COUNTER.size)).cast("Q"))


def _close_counter(counter: SessionCounter, *, remove: bool) -> None:
    """Unlock the file, and remove it when every row is stored; the page stays mapped for a late `add`."""
    if counter.file.closed:
        return
    if remove:
        counter.path.unlink(missing_ok=True)
    fcntl.flock(counter.file, fcntl.LOCK_UN)  # closing would not unlock: the mapping has its own descriptor
    counter.file.close()


def _count_lost_by(path: Path, fs: Any, root: str) -> int:
    with suppress(FileNotFoundError, BlockingIOError), path.open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # refused: the session runs, or another process is counting it
        accepted, started = COUNTER.unpack(file.read(COUNTER.size).ljust(COUNTER.size, b"\0"))
        lost = max(0, accepted - _rows_stored(fs, root, path.stem, started)) if accepted else 0
        path.unlink()  # of two processes here one fails, and counts nothing
        return int(lost)
    return 0


def _rows_stored(fs: Any, root: str, session: str, started: int) -> int:
    """Return the rows of a session up to the end of its last segment, which has the number of earlier rows."""
    for folder in reversed(day_folders(fs, root, started - DAY_S)):  # a clock may step back
        for name in reversed(segment_names(fs, folder, lambda _path: None)):
            table = parse_segment(fs.cat_file(name.path)) if name.session == session else None
            if table is not None:
                return int(table.schema.metadata[b"first_row"]) + int(table.num_rows)
    return 0


def _warn(event: str, **fields: Any) -> None:
    with suppress(Exception):  # a closed standard output must not end the log
        log.warning(event, **fields)
