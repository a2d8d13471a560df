"""The champion's predictions, read from segments of the prediction log. Knows no window and no database."""

from collections.abc import Sequence
from functools import reduce
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from monitoring.drift.window import PredictionRows, usable

TEXT_CHARS = 500  # kept of a text to show it; numpy gives every text the space of the longest
UNIT_CHARS = 64
HASH_PREFIX = "sha256:"  # of a text's hash where the log keeps no texts


class LoggedPredictions(NamedTuple):
    """N predictions ordered by time; `unit` and `text_hash` decide which of them are one observation."""

    rows: PredictionRows
    unit: list[str]
    text_hash: list[str]
    label: list[str]

    def take(self, chosen: NDArray[np.int64]) -> "LoggedPredictions":
        """Return the chosen rows."""
        lists = (self.unit, self.text_hash, self.label)
        return LoggedPredictions(self.rows.take(chosen), *([values[i] for i in chosen.tolist()] for values in lists))


def count_by_version_and_role(tables: Sequence[pa.Table]) -> dict[tuple[int, str], int]:
    """Count rows by version and role."""
    counts: dict[tuple[int, str], int] = {}
    for table in tables:
        for group in table.group_by(["version", "role"]).aggregate([([], "count_all")]).to_pylist():
            key = int(group["version"] or 0), str(group["role"])
            counts[key] = counts.get(key, 0) + int(group["count_all"])
    return counts


def champion_predictions(
    tables: Sequence[pa.Table], version: int, order: NDArray[np.int64], sketch_size: int
) -> LoggedPredictions:
    """Return what the version predicted as champion. `order` (classes,) maps the log's probabilities to the reference's order.

    Rows without a statistic are left out: logged before the log had probabilities, of another width, or not finite.
    """
    classes = len(order)
    selected = [_select(table, version, 2 * classes, 2 * sketch_size) for table in tables]
    table = pa.concat_tables(selected).sort_by("time") if selected else None
    if table is None or not table.num_rows:
        none = _rows(table, np.zeros((0, classes), np.float16), np.zeros((0, sketch_size), np.float16))
        return LoggedPredictions(none, [], [], [])
    rows = _rows(table, _matrix(table["probabilities"], classes)[:, order], _matrix(table["sketch"], sketch_size))
    unit, text_hash, label = (_strings(table[name]) for name in ("unit", "text_hash", "label"))
    return LoggedPredictions(rows, unit, text_hash, label).take(np.flatnonzero(usable(rows)))


def _select(table: pa.Table, version: int, probability_bytes: int, sketch_bytes: int) -> pa.Table:
    conditions = (
        pc.equal(table["version"], version),
        pc.equal(table["role"], "champion"),
        pc.equal(pc.binary_length(table["probabilities"]), probability_bytes),
        pc.equal(pc.binary_length(table["sketch"]), sketch_bytes),
        pc.is_valid(table["id"]),
        pc.is_valid(table["time"]),
    )
    return table.filter(reduce(pc.and_, conditions)).replace_schema_metadata(None)


def _rows(table: pa.Table | None, probabilities: NDArray[np.float16], sketch: NDArray[np.float16]) -> PredictionRows:
    def numbers(name: str, dtype: Any) -> Any:
        if table is None:
            return np.zeros(0, dtype=dtype)
        return np.array(table[name].to_numpy(zero_copy_only=False), dtype=dtype)

    def strings(name: str, chars: int) -> NDArray[np.str_]:
        return np.array([value[:chars] for value in _strings(table[name])] if table is not None else [], dtype=np.str_)

    text = strings("text", TEXT_CHARS)
    if table is not None and table["text"].null_count:
        has_text, hashes = pc.is_valid(table["text"]).to_numpy(zero_copy_only=False), strings("text_hash", UNIT_CHARS)
        text = np.where(has_text, text, np.char.add(HASH_PREFIX, hashes))
    return PredictionRows(
        time=numbers("time", np.float64),
        id=strings("id", UNIT_CHARS),
        unit=strings("unit", UNIT_CHARS),
        text=text,
        pieces=numbers("pieces", np.int32),
        pieces_per_word=numbers("pieces_per_word", np.float32),
        probabilities=probabilities.astype(np.float32),
        sketch=sketch,
    )


def _strings(column: pa.ChunkedArray) -> list[str]:
    return [value or "" for value in column.to_pylist()]


def _matrix(column: pa.ChunkedArray, width: int) -> NDArray[np.float16]:
    """Return fp16 vectors as (N, width)."""
    return np.frombuffer(b"".join(column.to_pylist()), dtype=np.float16).reshape(-1, width)
