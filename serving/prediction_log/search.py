"""Finds predictions in the log by their id or their request's: newest segments first, two columns of each."""

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from serving.prediction_log.segments import day_folders, open_store, parse_segment, segment_names

MAX_ROWS = 64  # returned for one request
VECTORS = ["sketch", "probabilities"]


def find_predictions(url: str, id: str) -> list[dict[str, Any]]:
    """Return the rows of this prediction or this request without their vectors; [] when there are none.

    Segments that cannot be read are skipped; a store that is down raises what fsspec raises.
    """
    fs, root = open_store(url)
    for folder in reversed(day_folders(fs, root, 0.0)):
        for name in reversed(segment_names(fs, folder, lambda _path: None)):
            try:
                data = fs.cat_file(name.path)
            except (FileNotFoundError, IsADirectoryError):  # deleted by retention; a folder by that name
                continue
            if rows := _rows(data, id):
                return rows
    return []


def _rows(data: bytes, id: str) -> list[dict[str, Any]]:
    try:
        table = pq.ParquetFile(pa.BufferReader(data)).read(["id", "request_id"])
        is_match = pc.or_(pc.equal(table["id"], id), pc.equal(table["request_id"], id))
    except (pa.ArrowException, OSError, KeyError):
        return []
    if not pc.any(is_match).as_py():
        return []
    whole = parse_segment(data)
    if whole is None:
        return []
    rows: list[dict[str, Any]] = whole.drop_columns(VECTORS).filter(is_match).slice(0, MAX_ROWS).to_pylist()
    return rows
