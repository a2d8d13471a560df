"""Finds predictions in the log by their id or that of their request or job: newest segments first, one column of each."""

import re
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from serving.prediction_log.segments import newest_segment_files, parse_segment

REQUEST_ID = re.compile(r"[0-9a-f]{24}|[0-9a-f]{32}")  # the gateway's own, of a request or of a job; predictions have others
MAX_ROWS = 64  # returned for one request
VECTORS = ["sketch", "probabilities"]


def find_predictions(url: str, id: str) -> list[dict[str, Any]]:
    """Return the rows of this prediction, request or job without their vectors; [] when there are none.

    The form of an id says what it names: older logs hold request ids that callers chose, and one that looks like the id of a
    prediction must not lead to another. Segments that cannot be read are skipped; a store that is down raises what fsspec raises.
    """
    column = "request_id" if REQUEST_ID.fullmatch(id) else "id"
    for _path, data in newest_segment_files(url, since=0.0, on_skipped=lambda _path: None):
        if rows := _rows(data, column, id):
            return rows
    return []


def _rows(data: bytes, column: str, id: str) -> list[dict[str, Any]]:
    try:
        is_match = pc.equal(pq.ParquetFile(pa.BufferReader(data)).read([column])[column], id)
    except (pa.ArrowException, OSError, KeyError):
        return []
    if not pc.any(is_match).as_py():
        return []
    whole = parse_segment(data)
    if whole is None:
        return []
    rows: list[dict[str, Any]] = whole.drop_columns(VECTORS).filter(is_match).slice(0, MAX_ROWS).to_pylist()
    return rows
