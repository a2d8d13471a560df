"""The champion's answers out of segments of the prediction log, as the monitor tests them. It knows no window and no database."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from monitoring.drift.window import Rows, usable

TEXT_CHARS = 500  # of a text that are kept to show it; numpy gives every text the room of the longest
UNIT_CHARS = 64
HASHED = "sha256:"  # stands before the hash where the log keeps no texts


class Answers(NamedTuple):
    """N answers in the order of time; `unit` and `text_hash` say which of them are one observation."""

    rows: Rows
    unit: list[str]
    text_hash: list[str]
    label: list[str]

    def take(self, chosen: NDArray[np.int64]) -> "Answers":
        """These of them."""
        several = (self.unit, self.text_hash, self.label)
        return Answers(self.rows.take(chosen), *([own[i] for i in chosen.tolist()] for own in several))


def counted(tables: Sequence[pa.Table]) -> dict[tuple[int, str], int]:
    """Rows by version and role."""
    found: dict[tuple[int, str], int] = {}
    for table in tables:
        for one in table.group_by(["version", "role"]).aggregate([([], "count_all")]).to_pylist():
            key = int(one["version"] or 0), str(one["role"])
            found[key] = found.get(key, 0) + int(one["count_all"])
    return found


def answers(tables: Sequence[pa.Table], version: int, order: NDArray[np.int64], sketch_size: int) -> Answers:
    """What the version answered as champion. `order` (classes,) brings the log's probabilities into the reference's order.

    Rows of which no statistic can be taken are left out: from before the log had probabilities, of another width, not finite.
    """
    kept = [_of(table, version, 2 * len(order), 2 * sketch_size) for table in tables]
    table = pa.concat_tables(kept).sort_by("time") if kept else None
    if table is None or not table.num_rows:
        return Answers(_rows(table, np.zeros((0, len(order)), np.float16), np.zeros((0, sketch_size), np.float16)), [], [], [])
    found = _rows(table, _matrix(table["probabilities"], len(order))[:, order], _matrix(table["sketch"], sketch_size))
    unit, text_hash, label = (_texts(table[name]) for name in ("unit", "text_hash", "label"))
    return Answers(found, unit, text_hash, label).take(np.flatnonzero(usable(found)))


def _of(table: pa.Table, version: int, probabilities: int, sketch: int) -> pa.Table:
    conditions = (
        pc.equal(table["version"], version),
        pc.equal(table["role"], "champion"),
        pc.equal(pc.binary_length(table["probabilities"]), probabilities),
        pc.equal(pc.binary_length(table["sketch"]), sketch),
        pc.is_valid(table["id"]),
        pc.is_valid(table["time"]),
    )
    whole = conditions[0]
    for other in conditions[1:]:
        whole = pc.and_(whole, other)
    return table.filter(whole).replace_schema_metadata(None)


def _rows(table: pa.Table | None, probabilities: NDArray[np.float16], sketch: NDArray[np.float16]) -> Rows:
    def column(name: str, kind: Any) -> Any:
        if table is None:
            return np.zeros(0, dtype=kind)
        return np.array(table[name].to_numpy(zero_copy_only=False), dtype=kind)

    def words(name: str, chars: int) -> NDArray[np.str_]:
        return np.array([one[:chars] for one in _texts(table[name])] if table is not None else [], dtype=np.str_)

    text = words("text", TEXT_CHARS)
    if table is not None and table["text"].null_count:
        known, hashes = pc.is_valid(table["text"]).to_numpy(zero_copy_only=False), words("text_hash", UNIT_CHARS)
        text = np.where(known, text, np.char.add(HASHED, hashes))
    return Rows(
        time=column("time", np.float64),
        id=words("id", UNIT_CHARS),
        unit=words("unit", UNIT_CHARS),
        text=text,
        pieces=column("pieces", np.int32),
        pieces_per_word=column("pieces_per_word", np.float32),
        probabilities=probabilities.astype(np.float32),
        sketch=sketch,
    )


def _texts(column: pa.ChunkedArray) -> list[str]:
    return [one or "" for one in column.to_pylist()]


def _matrix(column: pa.ChunkedArray, width: int) -> NDArray[np.float16]:
    """(N, width) of fp16 vectors."""
    return np.frombuffer(b"".join(column.to_pylist()), dtype=np.float16).reshape(-1, width)
