"""Texts that the champion and the challenger of a release have both answered, read from the prediction log as it grows.

The evidence (`pairs`) and the console's label queue both read them here, so that people are asked exactly those texts for which
the evidence waits. A unit counts `monitor.rows_per_unit` times in `monitor.window_rows` copied texts: one customer is one
observation, as in the monitor. Knows no label that a person gave.
"""

from collections import Counter
from functools import reduce
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import structlog

from pipeline.params import Monitor
from serving.prediction_log.segments import SegmentName, read_segments

COPIED_WITHIN_S = 600.0  # a copy is answered right after its original, and logged by the same gateway
log = structlog.get_logger()


class CopiedText(NamedTuple):
    """A text with the answers of both versions."""

    prediction_id: str  # of the champion's answer; the copy has it too, and feedback refers to it
    at: float  # when it was answered, seconds of the epoch
    text: str | None  # None: the log keeps no texts
    text_hash: str
    label: str  # the champion's
    other_label: str  # the challenger's

    @property
    def differs(self) -> bool:
        """Return whether the versions give other labels."""
        return self.label != self.other_label


class LoggedHalf(NamedTuple):
    """One of the two answers, as the log has it."""

    id: str
    time: float
    role: str  # champion, shadow
    unit: str | None
    text: str | None
    text_hash: str
    label: str


class CopiedTexts:
    """The copied texts of one release, each text once, in order of arrival: that in which both answers reached the log."""

    def __init__(self, url: str, *, champion: int, challenger: int, since: float, settings: Monitor) -> None:
        self._url, self._champion, self._challenger, self._since, self._settings = url, champion, challenger, since, settings
        self._read: set[tuple[int, str]] = set()  # sequence and session of segments
        self._halves: dict[str, LoggedHalf] = {}  # by prediction id, the answer that came first
        self._known: set[str] = set()  # hashes of texts
        self._joined = 0  # in the open window
        self._units: Counter[str] = Counter()  # counted in it
        self._texts: list[CopiedText] = []

    def read(self) -> list[CopiedText]:
        """Read the segments that are new, and return all copied texts. A store that is down raises what fsspec raises."""
        for name, table in read_segments(self._url, since=self._since, is_selected=self._is_new, on_skipped=_skipped):
            self._read.add((name.sequence, name.session))
            for half in self._answers(table):
                self._join(half)
        newest = max((half.time for half in self._halves.values()), default=0.0)
        self._halves = {id: half for id, half in self._halves.items() if half.time > newest - COPIED_WITHIN_S}
        return list(self._texts)

    def _is_new(self, name: SegmentName) -> bool:
        return (name.sequence, name.session) not in self._read

    def _answers(self, table: pa.Table) -> list[LoggedHalf]:
        """Return the champion's answers and the challenger's copies."""
        conditions = (
            pc.or_(_is_of(table, self._champion, "champion"), _is_of(table, self._challenger, "shadow")),
            *(pc.is_valid(table[name]) for name in ("id", "label", "text_hash")),
            pc.greater_equal(table["time"], self._since),
        )
        rows = table.select(LoggedHalf._fields).filter(reduce(pc.and_, conditions))
        return [LoggedHalf(**row) for row in rows.to_pylist()]

    def _join(self, half: LoggedHalf) -> None:
        """Keep an answer until the other one comes; the first pair of a text is the one that counts."""
        other = self._halves.pop(half.id, None)
        if other is None or other.role == half.role:
            self._halves[half.id] = half
        elif self._is_observation(half.unit) and half.text_hash not in self._known:
            self._known.add(half.text_hash)
            first, copy = (half, other) if half.role == "champion" else (other, half)
            self._texts.append(CopiedText(first.id, first.time, first.text, first.text_hash, first.label, copy.label))

    def _is_observation(self, unit: str | None) -> bool:
        """Count a pair, and return whether its unit has not had its share of the window."""
        if self._joined == self._settings.window_rows:
            self._joined, self._units = 0, Counter()
        self._joined += 1
        if not unit:
            return True
        self._units[unit] += 1
        return self._units[unit] <= self._settings.rows_per_unit


def _is_of(table: pa.Table, version: int, role: str) -> Any:
    return pc.and_(pc.equal(table["version"], version), pc.equal(table["role"], role))


def _skipped(path: str) -> None:
    log.warning("skipped", path=path)
