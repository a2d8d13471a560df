"""Finds who was answered, and with what, for many predictions at once: a few columns of the segments since the oldest of them."""

from collections.abc import Collection
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from serving.prediction_ids import issued_at
from serving.prediction_log.segments import newest_segment_files

COLUMNS = ["id", "unit", "request_id", "version", "label", "role"]


class FoundAnswer(NamedTuple):
    """What the log says of an answer that a caller got."""

    unit: str | None  # sticky key
    request_id: str  # or the id of a job
    version: int
    label: str  # the model's


def find_answers(url: str, ids: Collection[str]) -> dict[str, FoundAnswer]:
    """Return the logged answers among these ids, without copies for a challenger. The id says how far back to read.

    Segments that cannot be read are skipped; a store that is down raises what fsspec raises.
    """
    times = [time for time in map(issued_at, ids) if time is not None]
    found: dict[str, FoundAnswer] = {}
    if not times:
        return found
    wanted = pa.array(list(ids), pa.string())
    for _path, data in newest_segment_files(url, since=min(times), on_skipped=lambda _path: None):
        found |= _answers(data, wanted)
        if len(found) == len(set(ids)):
            break
    return found


def _answers(data: bytes, wanted: Any) -> dict[str, FoundAnswer]:
    try:
        table = pq.ParquetFile(pa.BufferReader(data)).read(COLUMNS)
        chosen = table.filter(pc.and_(pc.is_in(table["id"], wanted), pc.not_equal(table["role"], "shadow")))
    except (pa.ArrowException, OSError, KeyError):
        return {}
    columns = (chosen[name].to_pylist() for name in COLUMNS[:-1])
    return {id: FoundAnswer(*row) for id, *row in zip(*columns, strict=True)}
