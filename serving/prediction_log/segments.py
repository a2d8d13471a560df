"""Segments of the prediction log: what a row is, how rows become a Parquet file on an fsspec URL, and how they are read back.

A segment is `date=YYYY-MM-DD/<session>-<sequence>.parquet`. Its sequence is the millisecond of its latest row, or one more than
the session's last: names alone give the time order, no row is later than its name, and the folder is the day of that moment.
Segments are never changed; their columns are only ever added to.
"""

import hashlib
import math
import re
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from pipeline.atomic_write import atomic_write
from pipeline.errors import InputError

FORMAT = b"1"
SLICE_ROWS = 100  # converted in one go; between two slices the event loop may have the interpreter
LATEST = 1e10  # seconds of the epoch that 13 digits of milliseconds can name


class Row(NamedTuple):
    """One answer. A row is stored under the policy of `log.text`: with `hash` its text stays behind."""

    time: float  # seconds of the epoch
    request_id: str
    id: str  # the prediction's own, to which feedback refers
    unit: str | None  # sticky key
    text: str | None  # cleaned
    text_hash: str | None  # `hash_text` of the text; None: the writer takes it, off the critical path
    pieces: int
    pieces_per_word: float
    version: int
    role: Literal["champion", "challenger", "shadow"]
    label: str
    confidence: float
    runner_up: str | None  # None: the model knows one class only
    sketch: bytes  # fp16, as the backend returned it
    probabilities: bytes  # fp16, calibrated, in the order of the version's labels.txt
    latency_ms: float
    cache_hit: bool


SCHEMA = pa.schema(
    {
        "time": pa.float64(),
        "request_id": pa.string(),
        "id": pa.string(),
        "unit": pa.string(),
        "text": pa.string(),
        "text_hash": pa.string(),
        "pieces": pa.int32(),
        "pieces_per_word": pa.float32(),
        "version": pa.int32(),
        "role": pa.string(),
        "label": pa.string(),
        "confidence": pa.float32(),
        "runner_up": pa.string(),
        "sketch": pa.binary(),
        "probabilities": pa.binary(),
        "latency_ms": pa.float32(),
        "cache_hit": pa.bool_(),
    }
)
REPEATING = ["version", "role", "label", "runner_up"]  # worth a dictionary; the other columns hardly repeat


def hash_text(text: str) -> str:
    """64 hex digits of the SHA-256 of a cleaned text."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def read(
    url: str, *, since: float, sessions: Collection[str] | None = None, on_skipped: Callable[[str], None]
) -> Iterator[pa.Table]:
    """Whole segments that may hold rows of `since` (seconds of the epoch) or later, in the order of their latest rows.

    Each table has the columns of `SCHEMA` (null where a segment was written before a column was thought of) and in its metadata
    `session` and `first_row`, which together name a segment. One segment is in memory at a time. Paths of files that are not
    whole segments go to `on_skipped`; a store that is down raises what fsspec raises.
    """
    wanted = (lambda _name: True) if sessions is None else (lambda name: name.session in sessions)
    for _name, table in segments(url, since=since, wanted=wanted, on_skipped=on_skipped):
        yield table


def segments(
    url: str, *, since: float, wanted: Callable[["Name"], bool], on_skipped: Callable[[str], None]
) -> Iterator[tuple["Name", pa.Table]]:
    """As `read`, each with its name; what is not `wanted` is not opened."""
    fs, root = open_store(url)
    fs.invalidate_cache()
    for folder in day_folders(fs, root, since):
        for name in names(fs, folder, on_skipped):
            if name.sequence < since * 1000 or not wanted(name):
                continue
            try:
                table = parse(fs.cat_file(name.path))
            except FileNotFoundError:  # retention was faster
                continue
            except IsADirectoryError:
                table = None
            if table is None:
                on_skipped(name.path)
            else:
                yield name, table


class Segment(NamedTuple):
    """Rows made ready for the store: possibly fewer than were taken, possibly none."""

    name: str  # below the log's folder
    data: bytes
    rows: int
    sequence: int


class Name(NamedTuple):
    """A segment as its path tells it; sorts by time."""

    sequence: int
    session: str
    path: str


def open_store(url: str) -> tuple[Any, str]:
    try:
        fs, root = fsspec.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise InputError(
            "params.yaml, log.url", f"`{url}` cannot be opened: {error}", "install that package, or name a folder"
        ) from None
    return fs, root.rstrip("/")


def prepare() -> None:
    """Let pyarrow look for pandas now, as it does at its first array: that takes the interpreter for most of a second."""
    pa.array([""])


def put(fs: Any, path: str, data: bytes) -> None:
    """A local file is written aside and moved; elsewhere one put is what shows a file only when it is whole."""
    if isinstance(fs, LocalFileSystem):
        with atomic_write(Path(path)) as part:
            part.write_bytes(data)
    else:
        fs.pipe_file(path, data)


def make_segment(rows: Sequence[Row], text: str, session: str, last_sequence: int, first_row: int) -> Segment:
    batches: list[Any] = []
    for start in range(0, len(rows), SLICE_ROWS):
        batches += _convert(rows[start : start + SLICE_ROWS], text)
        time.sleep(0)  # hands the interpreter over to the event loop
    metadata = {b"format": FORMAT, b"session": session.encode(), b"first_row": str(first_row).encode()}
    table = pa.Table.from_batches(batches, SCHEMA).replace_schema_metadata(metadata)
    if not table.num_rows:
        return Segment("", b"", 0, last_sequence)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", use_dictionary=REPEATING, write_page_checksum=True)
    sequence = max(last_sequence + 1, math.ceil(pc.max(table["time"]).as_py() * 1000))
    name = f"{_day(sequence)}/{session}-{sequence:013d}.parquet"
    return Segment(name, sink.getvalue().to_pybytes(), table.num_rows, sequence)


def _convert(rows: Sequence[Row], text: str) -> list[Any]:
    """Record batches of the rows; one that no column can hold (half a surrogate pair, a wrong type) is left out."""
    try:
        return [_batch(rows, text)]
    except Exception:  # whatever it is, it must not take its neighbours along
        half = len(rows) // 2
        return _convert(rows[:half], text) + _convert(rows[half:], text) if half else []


def _batch(rows: Sequence[Row], text: str) -> Any:
    columns: dict[str, Sequence[Any]] = dict(zip(Row._fields, zip(*rows, strict=True), strict=True))
    if not all(0 <= moment < LATEST for moment in columns["time"]):
        raise ValueError("a time out of range")
    columns["text_hash"] = [row.text_hash or (None if row.text is None else hash_text(row.text)) for row in rows]
    if text == "hash":
        columns["text"] = [None] * len(rows)
    return pa.RecordBatch.from_arrays([pa.array(columns[field.name], field.type) for field in SCHEMA], schema=SCHEMA)


def parse(data: bytes) -> Any:
    """The segment's table, None when the bytes are not a whole segment of ours."""
    try:
        table = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True).read(use_threads=False)
        metadata = table.schema.metadata
        if metadata[b"format"] != FORMAT or not metadata[b"session"] or int(metadata[b"first_row"]) < 0:
            return None
        missing = [field for field in SCHEMA if field.name not in table.column_names]
        for field in missing:
            table = table.append_column(field, pa.nulls(table.num_rows, field.type))
        table = table.select(SCHEMA.names)
        return table if table.schema.equals(SCHEMA) else None
    except Exception:  # pyarrow answers spoilt bytes with more kinds of error than it documents
        return None


def _day(milliseconds: int) -> str:
    return f"date={datetime.fromtimestamp(milliseconds // 1000, UTC):%Y-%m-%d}"


def day_folders(fs: Any, root: str, since: float) -> list[str]:
    first = _day(int(min(max(since, 0), LATEST) * 1000))
    return [path for path in _ls(fs, root) if first <= path.rsplit("/", 1)[-1] and _DAY.fullmatch(path.rsplit("/", 1)[-1])]


def names(fs: Any, folder: str, on_skipped: Callable[[str], None]) -> list[Name]:
    """Segments of a day in time order; hidden files and those half written are passed over."""
    found = []
    for path in _ls(fs, folder):
        name = path.rsplit("/", 1)[-1]
        if match := _NAME.fullmatch(name):
            found.append(Name(int(match["sequence"]), match["session"], path))
        elif not name.startswith(".") and not name.endswith(".part"):
            on_skipped(path)
    return sorted(found)


def _ls(fs: Any, folder: str) -> list[str]:
    try:
        return sorted(path for path in fs.ls(folder, detail=False) if path.rstrip("/") != folder)
    except FileNotFoundError:
        return []


_DAY = re.compile(r"date=\d{4}-\d{2}-\d{2}")
_NAME = re.compile(r"(?P<session>.+)-(?P<sequence>\d{13})\.parquet")
