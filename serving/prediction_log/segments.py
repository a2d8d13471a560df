"""Segments of the prediction log: predictions as Parquet files on an fsspec URL, written and read back.

A segment is `date=YYYY-MM-DD/<session>-<sequence>.parquet`. Its sequence is the millisecond of its latest row, or one more than
the session's last: the names alone give the time order, no row is later than its name, and the folder is the day of that moment.
Segments never change; columns are only added.
"""

import hashlib
import math
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from pipeline.atomic_write import atomic_write
from pipeline.errors import InputError
from serving.prediction import Prediction

FORMAT = b"1"
SLICE_ROWS = 100  # converted at a time; between two slices the event loop can take the interpreter
MAX_TIME = 1e10  # seconds of the epoch; 13 digits of milliseconds

SCHEMA = pa.schema(  # a column for each field of `Prediction`
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
        "abstained": pa.bool_(),
    }
)
DICTIONARY_COLUMNS = ["version", "role", "label", "runner_up"]  # the other columns hardly repeat


def hash_text(text: str) -> str:
    """Return the SHA-256 of a cleaned text, 64 hex digits."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def read_tables(url: str, *, since: float, on_skipped: Callable[[str], None]) -> Iterator[pa.Table]:
    """Yield the whole segments that may have rows of `since` (seconds of the epoch) or later, ordered by their latest rows.

    Each table has the columns of `SCHEMA` (null where a segment is older than a column) and the metadata `session` and
    `first_row`, which together identify a segment. One segment is in memory at a time. Paths of files that are not whole segments
    go to `on_skipped`; a store that is down raises what fsspec raises.
    """
    for _name, table in read_segments(url, since=since, is_selected=lambda _name: True, on_skipped=on_skipped):
        yield table


def read_segments(
    url: str, *, since: float, is_selected: Callable[["SegmentName"], bool], on_skipped: Callable[[str], None]
) -> Iterator[tuple["SegmentName", pa.Table]]:
    """Yield what `read_tables` does, each table with its name; segments that are not selected are not opened."""
    fs, root = open_store(url)
    fs.invalidate_cache()
    for folder in day_folders(fs, root, since):
        for name in segment_names(fs, folder, on_skipped):
            if name.sequence < since * 1000 or not is_selected(name):
                continue
            try:
                table = parse_segment(fs.cat_file(name.path))
            except FileNotFoundError:  # deleted by retention
                continue
            except IsADirectoryError:
                table = None
            if table is None:
                on_skipped(name.path)
            else:
                yield name, table


def newest_segment_files(url: str, *, since: float, on_skipped: Callable[[str], None]) -> Iterator[tuple[str, bytes]]:
    """Yield path and bytes of the segments that may have rows of `since` or later, the newest first; one is in memory at a time.

    A store that is down raises what fsspec raises.
    """
    fs, root = open_store(url)
    fs.invalidate_cache()
    for folder in reversed(day_folders(fs, root, since)):
        for name in reversed(segment_names(fs, folder, on_skipped)):
            if name.sequence < since * 1000:
                return
            with suppress(FileNotFoundError, IsADirectoryError):  # deleted by retention; a folder by that name
                yield name.path, fs.cat_file(name.path)


class Segment(NamedTuple):
    """Rows encoded for the store; rows that no column can hold are left out."""

    name: str  # below the log's folder
    data: bytes
    rows: int
    sequence: int


class SegmentName(NamedTuple):
    """The parts of a segment's path; sorts by time."""

    sequence: int
    session: str
    path: str


def open_store(url: str) -> tuple[Any, str]:
    """Return file system and root folder of an fsspec URL; raise `InputError` when it cannot be opened."""
    try:
        fs, root = fsspec.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise InputError(
            "params.yaml, log.url", f"`{url}` cannot be opened: {error}", "install that package, or name a folder"
        ) from None
    return fs, root.rstrip("/")


def warm_up() -> None:
    """Build one array: pyarrow's first one searches for pandas, which holds the interpreter for most of a second."""
    pa.array([""])


def store_file(fs: Any, path: str, data: bytes) -> None:
    """Store a file that readers see only once it is whole: locally by a rename, elsewhere by a single put."""
    if isinstance(fs, LocalFileSystem):
        with atomic_write(Path(path)) as part:
            part.write_bytes(data)
    else:
        fs.pipe_file(path, data)


def encode_segment(rows: Sequence[Prediction], text: str, session: str, last_sequence: int, first_row: int) -> Segment:
    """Encode rows as a Parquet segment; `text` is the policy of `log.text`, `first_row` counts the session's earlier rows."""
    batches: list[Any] = []
    for start in range(0, len(rows), SLICE_ROWS):
        batches += _convert(rows[start : start + SLICE_ROWS], text)
        time.sleep(0)  # lets the event loop take the interpreter
    metadata = {b"format": FORMAT, b"session": session.encode(), b"first_row": str(first_row).encode()}
    table = pa.Table.from_batches(batches, SCHEMA).replace_schema_metadata(metadata)
    if not table.num_rows:
        return Segment("", b"", 0, last_sequence)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", use_dictionary=DICTIONARY_COLUMNS, write_page_checksum=True)
    sequence = max(last_sequence + 1, math.ceil(pc.max(table["time"]).as_py() * 1000))
    name = f"{_day(sequence)}/{session}-{sequence:013d}.parquet"
    return Segment(name, sink.getvalue().to_pybytes(), table.num_rows, sequence)


def _convert(rows: Sequence[Prediction], text: str) -> list[Any]:
    """Convert rows to record batches without those that no column can hold (half a surrogate pair, a wrong type)."""
    try:
        return [_batch(rows, text)]
    except Exception:  # whatever it is, the rows next to it must survive
        half = len(rows) // 2
        return _convert(rows[:half], text) + _convert(rows[half:], text) if half else []


def _batch(rows: Sequence[Prediction], text: str) -> Any:
    columns: dict[str, Sequence[Any]] = dict(zip(Prediction._fields, zip(*rows, strict=True), strict=True))
    if not all(0 <= moment < MAX_TIME for moment in columns["time"]):
        raise ValueError("a time out of range")
    columns["text_hash"] = [row.text_hash or (None if row.text is None else hash_text(row.text)) for row in rows]
    if text == "hash":
        columns["text"] = [None] * len(rows)
    return pa.RecordBatch.from_arrays([pa.array(columns[field.name], field.type) for field in SCHEMA], schema=SCHEMA)


def parse_segment(data: bytes) -> Any:
    """Return the segment's table, None when the bytes are not a whole segment of ours."""
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
    except Exception:  # pyarrow raises more kinds of error on corrupt bytes than it documents
        return None


def _day(milliseconds: int) -> str:
    return f"date={datetime.fromtimestamp(milliseconds // 1000, UTC):%Y-%m-%d}"


def day_folders(fs: Any, root: str, since: float) -> list[str]:
    """Return the folders of the day of `since` (seconds of the epoch) and of later days, in order."""
    first = _day(int(min(max(since, 0), MAX_TIME) * 1000))
    return [path for path in _ls(fs, root) if first <= path.rsplit("/", 1)[-1] and _DAY.fullmatch(path.rsplit("/", 1)[-1])]


def segment_names(fs: Any, folder: str, on_skipped: Callable[[str], None]) -> list[SegmentName]:
    """Return the segments of a day in time order, without hidden and half-written files."""
    names = []
    for path in _ls(fs, folder):
        name = path.rsplit("/", 1)[-1]
        if match := _NAME.fullmatch(name):
            names.append(SegmentName(int(match["sequence"]), match["session"], path))
        elif not name.startswith(".") and not name.endswith(".part"):
            on_skipped(path)
    return sorted(names)


def _ls(fs: Any, folder: str) -> list[str]:
    try:
        return sorted(path for path in fs.ls(folder, detail=False) if path.rstrip("/") != folder)
    except FileNotFoundError:
        return []


_DAY = re.compile(r"date=\d{4}-\d{2}-\d{2}")
_NAME = re.compile(r"(?P<session>.+)-(?P<sequence>\d{13})\.parquet")
