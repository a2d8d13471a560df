"""Answers of two versions in the prediction log, newest first, without their sketches. Compares nothing."""

from collections.abc import Callable, Iterator, Sequence
from functools import reduce
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import structlog

from monitoring.drift.window import admit
from monitoring.flywheel.disagreement.pairs import LoggedAnswer
from monitoring.flywheel.disagreement.task import ModelAnswer
from serving.prediction_log.segments import newest_segment_files, parse_segment

COLUMNS = ["time", "id", "unit", "text", "text_hash", "version", "role", "label", "probabilities", "latency_ms", "cache_hit"]
log = structlog.get_logger()


class LoggedAnswers(NamedTuple):
    """Answers of the champion and of a challenger, oldest first."""

    champion: list[LoggedAnswer]
    challenger: list[LoggedAnswer]  # to units that the challenger serves
    shadow: dict[str, LoggedAnswer]  # of the challenger, by the prediction that was copied


def read_answers(url: str, champion: int, challenger: int | None, *, since: float, at_most: int) -> LoggedAnswers:
    """Read the newest answers since a time (seconds of the epoch), until there are `at_most` of the champion's."""
    tables, champions = [], 0
    for table in _newest_tables(url, since, lambda path: log.warning("skipped", path=path)):
        chosen = _select(table, [champion, *([] if challenger is None else [challenger])], since)
        tables.append(chosen)
        champions += pc.sum(_is_of(chosen, champion, "champion")).as_py() or 0
        if champions >= at_most:
            break
    if not tables:
        return LoggedAnswers([], [], {})
    table = pa.concat_tables(tables).sort_by("time")
    copies = _answers(table, challenger, "shadow")
    return LoggedAnswers(
        _answers(table, champion, "champion")[-at_most:],
        _answers(table, challenger, "challenger"),
        {copy.prediction_id: copy for copy in copies},
    )


def observations(answers: Sequence[LoggedAnswer], rows_per_unit: int) -> list[LoggedAnswer]:
    """Return the newest answer to each text, at most `rows_per_unit` of a unit; oldest first.

    So neither a bot that repeats a text nor a single customer decides what the share of disagreement is.
    """
    newest = list({row.text_hash: row for row in answers}.values())
    newest.sort(key=lambda row: row.at, reverse=True)
    admitted = admit([row.unit for row in newest], [row.text_hash for row in newest], {}, rows_per_unit).admitted
    return [newest[row] for row in reversed(np.flatnonzero(admitted).tolist())]


def _newest_tables(url: str, since: float, on_skipped: Callable[[str], None]) -> Iterator[pa.Table]:
    for path, data in newest_segment_files(url, since=since, on_skipped=on_skipped):
        table = parse_segment(data)
        if table is None:
            on_skipped(path)
        else:
            yield table


def _select(table: pa.Table, versions: Sequence[int], since: float) -> pa.Table:
    conditions = (
        pc.is_in(table["version"], value_set=pa.array(versions, pa.int32())),
        pc.is_valid(table["id"]),
        pc.is_valid(table["label"]),
        pc.is_valid(table["text_hash"]),
        pc.is_valid(table["probabilities"]),
        pc.greater_equal(table["time"], since),
    )
    return table.select(COLUMNS).filter(reduce(pc.and_, conditions)).replace_schema_metadata(None)


def _is_of(table: pa.Table, version: int, role: str) -> Any:
    return pc.and_(pc.equal(table["version"], version), pc.equal(table["role"], role))


def _answers(table: pa.Table, version: int | None, role: str) -> list[LoggedAnswer]:
    if version is None:
        return []
    return [
        LoggedAnswer(
            prediction_id=row["id"],
            at=row["time"],
            unit=row["unit"] or "",
            text=row["text"],
            text_hash=row["text_hash"],
            answer=ModelAnswer(row["label"], np.frombuffer(row["probabilities"], np.float16).astype(np.float32)),
            latency_ms=row["latency_ms"] or 0.0,
            cache_hit=bool(row["cache_hit"]),
        )
        for row in table.filter(_is_of(table, version, role)).to_pylist()
    ]
