"""Counts the labels of the newest predictions in the log; reads two columns of its newest segments."""

from collections import Counter

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from serving.prediction_log.segments import day_folders, open_store, segment_names


def count_newest_labels(url: str, rows: int) -> Counter[str]:
    """Count the labels that callers got, in whole segments from the newest back until there are at least this many rows.

    Copies for the challenger do not count, and segments that cannot be read are skipped; a store that is down raises what fsspec
    raises.
    """
    counts: Counter[str] = Counter()
    fs, root = open_store(url)
    for folder in reversed(day_folders(fs, root, 0.0)):
        for name in reversed(segment_names(fs, folder, lambda _path: None)):
            if counts.total() >= rows:
                return counts
            try:
                table = pq.ParquetFile(pa.BufferReader(fs.cat_file(name.path))).read(["label", "role"])
            except (pa.ArrowException, OSError, KeyError):
                continue
            counts.update(table.filter(pc.not_equal(table["role"], "shadow"))["label"].to_pylist())
    return counts
