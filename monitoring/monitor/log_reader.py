"""Reads the prediction log on from where it stopped: each segment once, in whatever order those of several gateways arrive.

A gateway's process is a session, and its segments appear in the order of their sequence: so far as a session was read, all of it
was. A session that is new, or was away, may have segments older than what others had read; they are looked for `late_s` back.
"""

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import pyarrow as pa

from serving.prediction_log.segments import Name, open_store, segments


class Read(NamedTuple):
    """How far a session was read."""

    sequence: int  # of its last segment
    rows: int  # that it had written by then


class Cursor(NamedTuple):
    """How far the log was read. `high` is the latest sequence of all; `skipped` are files by path, and their sizes then."""

    high: int
    sessions: dict[str, Read]
    skipped: dict[str, int]


class Batch(NamedTuple):
    """What came new: tables, where to go on, files that were skipped for the first time, the moment (s) of what still waits."""

    tables: list[pa.Table]
    cursor: Cursor
    skipped: list[str]
    waiting_since: float | None  # None: nothing waits


BEGIN = Cursor(0, {}, {})


def read_on(url: str, cursor: Cursor, *, at_most: int, late_s: float) -> Batch:
    """Segments that were not read yet, until there are `at_most` rows; raises what the store raises.

    A segment that cannot be read is skipped, and read after all once its file has another size.
    """
    reading = _Reading(url, cursor, late_s)
    tables: list[pa.Table] = []
    rows, waiting_since = 0, None
    for name, table in reading.segments():
        if rows >= at_most:
            waiting_since = name.sequence / 1000
            break
        new = reading.take(name, table)
        rows += new.num_rows
        tables += [new] if new.num_rows else []
    return Batch(tables, reading.cursor(whole=waiting_since is None), reading.found, waiting_since)


def as_text(cursor: Cursor) -> str:
    """JSON."""
    return json.dumps([cursor.high, cursor.sessions, cursor.skipped], ensure_ascii=False)


def from_text(text: str) -> Cursor:
    """What `as_text` wrote."""
    high, sessions, skipped = json.loads(text)
    return Cursor(high, {name: Read(*own) for name, own in sessions.items()}, skipped)


class _Reading:
    """One pass over the log; the cursor it began with stays as it was."""

    def __init__(self, url: str, cursor: Cursor, late_s: float) -> None:
        self._url, self._late_ms = url, int(late_s * 1000)
        self._fs: Any = open_store(url)[0]
        self._high, self._sessions, self._known = cursor.high, dict(cursor.sessions), cursor.skipped
        self._since = self._oldest(cursor.high)
        self._still: dict[str, int] = {}  # skipped files that this pass met
        self._mended: set[str] = set()
        self.found: list[str] = []

    def segments(self) -> Iterator[tuple[Name, pa.Table]]:
        return segments(self._url, since=self._since / 1000, wanted=self._is_wanted, on_skipped=self._skip)

    def take(self, name: Name, table: pa.Table) -> pa.Table:
        """Rows of the segment that were not read before; none of what another file held already."""
        first = int(table.schema.metadata[b"first_row"])
        before = self._sessions.get(name.session, Read(0, 0))
        if name.path in self._known:  # whole by now; the session has been read on meanwhile
            self._mended.add(name.path)
            again = 0
        else:
            again = min(max(0, before.rows - first), table.num_rows)
        self._high = max(self._high, name.sequence)
        self._sessions[name.session] = Read(max(before.sequence, name.sequence), max(before.rows, first + table.num_rows))
        return table.slice(again)

    def cursor(self, *, whole: bool) -> Cursor:
        """Where to go on; sessions that have nothing within `late_s` any more need not be remembered."""
        oldest = self._oldest(self._high)
        sessions = {name: own for name, own in self._sessions.items() if own.sequence >= oldest}
        skipped = self._still if whole else {**self._known, **self._still}
        return Cursor(self._high, sessions, {path: size for path, size in skipped.items() if path not in self._mended})

    def _oldest(self, high: int) -> int:
        return max(0, high - self._late_ms)

    def _is_wanted(self, name: Name) -> bool:
        if name.path in self._known:
            size = self._size(name.path)
            self._still[name.path] = size
            return size != self._known[name.path]
        before = self._sessions.get(name.session)
        return before is None or name.sequence > before.sequence

    def _skip(self, path: str) -> None:
        """Each file once, while its size stays."""
        size = self._size(path)
        if self._known.get(path) != size:
            self.found.append(path)
        self._still[path] = size

    def _size(self, path: str) -> int:
        try:
            return int(self._fs.size(path) or 0)
        except FileNotFoundError:
            return -1
