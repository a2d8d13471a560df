"""Reads parquet in batches, under budgets for rows and for the bytes that a small file can unpack to."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.data.columns import Row
from pipeline.data.text_lines import read_head, too_large
from pipeline.errors import InputError
from pipeline.params import Data

BATCH_ROWS = 1024


def read_parquet(path: Path, data: Data) -> Iterator[Row]:
    """Yield the rows of a parquet file.

    Raise `InputError` before a page is read when the file's own sizes are over a limit. Repeated values are stored once in a file
    and stay so in a batch, whose size is measured before it becomes Python values.
    """
    read_head(path)
    try:
        names = _texts(pq.ParquetFile(path), path, data)
        yield from _read(pq.ParquetFile(path, read_dictionary=names), path, data)
    except (pa.ArrowException, OSError) as error:
        raise InputError(str(path), f"not a readable parquet file: {error}", "write it again") from None


def _texts(file: pq.ParquetFile, path: Path, data: Data) -> list[str]:
    """Return the columns of texts and bytes; raise `InputError` when the file's sizes are over a limit."""
    metadata = file.metadata
    if metadata.num_rows > data.max_rows:
        raise too_many_rows(path, f"{metadata.num_rows} rows", data)
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    chunks = [group.column(number) for group in groups for number in range(group.num_columns)]
    size = sum(max(chunk.total_uncompressed_size, chunk.num_values) for chunk in chunks)
    if size > data.max_file_bytes:
        raise too_large(path, size, data)
    columns = [file.schema.column(number) for number in range(len(file.schema))]
    return [column.path for column in columns if column.physical_type == "BYTE_ARRAY"]


def _read(file: pq.ParquetFile, path: Path, data: Data) -> Iterator[Row]:
    number = size = 0
    for batch in file.iter_batches(batch_size=BATCH_ROWS):
        for column in batch.columns:
            size += _unpacked_bytes(column)
        if size > data.max_file_bytes:
            raise too_large(path, size, data)
        for fields in batch.to_pylist():
            number += 1
            yield Row(number, fields)


def _unpacked_bytes(array: pa.Array) -> int:
    """Return the bytes that an array holds once each repeated value is a value of its own."""
    if isinstance(array, pa.DictionaryArray):
        lengths = pc.binary_length(array.dictionary)
        return int(pc.sum(pc.take(lengths, array.indices)).as_py() or 0) + len(array)
    if isinstance(array, pa.StructArray):
        return sum(_unpacked_bytes(child) for child in array.flatten())
    if isinstance(array, pa.ListArray | pa.LargeListArray | pa.FixedSizeListArray | pa.MapArray):
        children = (array.keys, array.items) if isinstance(array, pa.MapArray) else (array.flatten(),)
        return sum(_unpacked_bytes(child) for child in children) + len(array)
    return int(array.nbytes)


def too_many_rows(path: Path, measured: str, data: Data) -> InputError:
    """Return the error for a file of more than `data.max_rows` rows."""
    what = f"it has {measured}, data.max_rows is {data.max_rows}"
    return InputError(str(path), what, "use a part of it, or raise data.max_rows")
