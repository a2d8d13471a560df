"""Reads new segments of the prediction log: each once, in any order in which the segments of several gateways appear.

A gateway's process is a session, and its segments appear in the order of their sequence, so a session is read completely up to
its last segment. A new session, or one that was interrupted, may have segments older than those read from others; these are
looked for `late_s` back.
"""

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import pyarrow as pa

from serving.prediction_log.segments import SegmentName, open_store, read_segments


class SessionPosition(NamedTuple):
    """Position in a session's segments."""

    sequence: int  # of the last segment read
    rows: int  # that the session had written by then


class Cursor(NamedTuple):
    """Position in the log. `high` is the latest sequence of all sessions; `skipped` are files by path, with their size then."""

    high: int
    sessions: dict[str, SessionPosition]
    skipped: dict[str, int]


class Batch(NamedTuple):
    """New tables, the next position, files skipped for the first time, and the time (s) of the oldest segment left."""

    tables: list[pa.Table]
    cursor: Cursor
    skipped: list[str]
    waiting_since: float | None  # None: nothing waits


def read_new(url: str, cursor: Cursor, *, at_most: int, late_s: float) -> Batch:
    """Read segments after the cursor until there are `at_most` rows; raises what the store raises.

    An unreadable segment is skipped, and read later if its file has another size.
    """
    log_pass = _LogPass(url, cursor, late_s)
    tables: list[pa.Table] = []
    rows, waiting_since = 0, None
    for name, table in log_pass.segments():
        if rows >= at_most:
            waiting_since = name.sequence / 1000
            break
        new = log_pass.take(name, table)
        rows += new.num_rows
        tables += [new] if new.num_rows else []
    return Batch(tables, log_pass.cursor(is_complete=waiting_since is None), log_pass.newly_skipped, waiting_since)


def cursor_to_json(cursor: Cursor) -> str:
    """Serialise the cursor as JSON."""
    return json.dumps([cursor.high, cursor.sessions, cursor.skipped], ensure_ascii=False)


def cursor_from_json(text: str) -> Cursor:
    """Parse a cursor that `cursor_to_json` wrote."""
    high, sessions, skipped = json.loads(text)
    return Cursor(high, {name: SessionPosition(*position) for name, position in sessions.items()}, skipped)


class _LogPass:
    """One pass over the log; the cursor it started from stays unchanged."""

    def __init__(self, url: str, cursor: Cursor, late_s: float) -> None:
        self._url, self._late_ms = url, int(late_s * 1000)
        self._fs: Any = open_store(url)[0]
        self._high, self._sessions, self._skipped_before = cursor.high, dict(cursor.sessions), cursor.skipped
        self._since = self._oldest(cursor.high)
        self._skipped: dict[str, int] = {}  # files that this pass met and did not read
        self._repaired: set[str] = set()
        self.newly_skipped: list[str] = []

    def segments(self) -> Iterator[tuple[SegmentName, pa.Table]]:
        return read_segments(self._url, since=self._since / 1000, is_selected=self._is_wanted, on_skipped=self._skip)

    def take(self, name: SegmentName, table: pa.Table) -> pa.Table:
        """Return the rows of the segment that no other file held before."""
        first = int(table.schema.metadata[b"first_row"])
        position = self._sessions.get(name.session, SessionPosition(0, 0))
        if name.path in self._skipped_before:  # readable by now, though later segments of the session were read already
            self._repaired.add(name.path)
            known = 0
        else:
            known = min(max(0, position.rows - first), table.num_rows)
        self._high = max(self._high, name.sequence)
        self._sessions[name.session] = SessionPosition(
            max(position.sequence, name.sequence), max(position.rows, first + table.num_rows)
        )
        return table.slice(known)

    def cursor(self, *, is_complete: bool) -> Cursor:
        """Return the next position, without sessions that have nothing within `late_s` any more."""
        oldest = self._oldest(self._high)
        sessions = {name: position for name, position in self._sessions.items() if position.sequence >= oldest}
        skipped = self._skipped if is_complete else {**self._skipped_before, **self._skipped}
        return Cursor(self._high, sessions, {path: size for path, size in skipped.items() if path not in self._repaired})

    def _oldest(self, high: int) -> int:
        return max(0, high - self._late_ms)

    def _is_wanted(self, name: SegmentName) -> bool:
        if name.path in self._skipped_before:
            size = self._size(name.path)
            self._skipped[name.path] = size
            return size != self._skipped_before[name.path]
        position = self._sessions.get(name.session)
        return position is None or name.sequence > position.sequence

    def _skip(self, path: str) -> None:
        """Note each unreadable file once while its size stays."""
        size = self._size(path)
        if self._skipped_before.get(path) != size:
            self.newly_skipped.append(path)
        self._skipped[path] = size

    def _size(self, path: str) -> int:
        try:
            return int(self._fs.size(path) or 0)
        except FileNotFoundError:
            return -1
