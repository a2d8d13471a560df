"""One answer in the prediction log, found by its own id or its request's: newest segments first, and only two columns of each."""

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from serving.prediction_log.segments import day_folders, names, open_store, parse

MOST_ROWS = 64  # of one request that are given back
WITHOUT = ("sketch", "probabilities")


def find(url: str, id: str) -> list[dict[str, Any]]:
    """Rows of this prediction or this request as they stand in the log, less the vectors; [] when there are none.

    Raises what fsspec raises where the store is down; segments that cannot be read are passed over.
    """
    fs, root = open_store(url)
    for folder in reversed(day_folders(fs, root, 0.0)):
        for name in reversed(names(fs, folder, lambda _path: None)):
            try:
                data = fs.cat_file(name.path)
            except (FileNotFoundError, IsADirectoryError):  # retention was faster; a folder by that name
                continue
            if rows := _rows(data, id):
                return rows
    return []


def _rows(data: bytes, id: str) -> list[dict[str, Any]]:
    try:
        table = pq.ParquetFile(pa.BufferReader(data)).read(["id", "request_id"])
        is_it = pc.or_(pc.equal(table["id"], id), pc.equal(table["request_id"], id))
    except (pa.ArrowException, OSError, KeyError):
        return []
    if not pc.any(is_it).as_py():
        return []
    whole = parse(data)
    if whole is None:
        return []
    found: list[dict[str, Any]] = whole.drop_columns(list(WITHOUT)).filter(is_it).slice(0, MOST_ROWS).to_pylist()
    return found
