"""Texts of labelled predictions: looked up in the prediction log once, and kept in the home, because labels outlive the log."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import structlog
from filelock import FileLock

from monitoring.labels.entries import FeedbackEntry
from pipeline.atomic_write import atomic_write
from pipeline.params import Params
from serving.prediction_ids import issued_at
from serving.prediction_log.segments import SegmentName, read_segments
from serving.prediction_log.writer import log_url

TEXTS, LOCK = "retrain/texts.jsonl", "retrain/texts.lock"
log = structlog.get_logger()


def texts_of(params: Params, home: Path, entries: Sequence[FeedbackEntry]) -> dict[str, str]:
    """Return the text of each prediction with feedback, by its id, and keep exactly these texts in the home."""
    wanted = {entry.prediction_id for entry in entries}
    with texts_lock(home):
        kept = read_texts(home / TEXTS)
        missing = [entry for entry in entries if entry.prediction_id not in kept]
        texts = {id: text for id, text in kept.items() if id in wanted} | find_texts(params, home, missing)
        if texts != kept:
            write_texts(home / TEXTS, texts)
    return texts


def find_texts(params: Params, home: Path, entries: Iterable[FeedbackEntry]) -> dict[str, str]:
    """Return the text of each prediction with feedback, where the log still has it and stores texts."""
    wanted = {entry.prediction_id: _time_of(entry, params) for entry in entries}
    if not wanted:
        return {}
    periods = _merge((begin, end + params.monitor.late_s) for begin, end in wanted.values())

    def is_selected(name: SegmentName) -> bool:
        return any(begin <= name.sequence / 1000 <= end for begin, end in periods)

    texts: dict[str, str] = {}
    ids = pa.array(list(wanted))
    segments = read_segments(
        log_url(params.log, home),
        since=periods[0][0],
        is_selected=is_selected,
        on_skipped=lambda path: log.warning("skipped", path=path),
    )
    for _name, table in segments:
        matches = table.filter(pc.is_in(table["id"], value_set=ids))
        pairs = zip(matches["id"].to_pylist(), matches["text"].to_pylist(), strict=True)
        texts |= {id: text for id, text in pairs if text is not None}
        if len(texts) == len(wanted):
            break
    return texts


def texts_lock(home: Path) -> FileLock:
    """Return the lock for files of texts: controller, console, flywheel and commands read, add to and write them."""
    path = home / LOCK
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(path)


def read_texts(path: Path) -> dict[str, str]:
    """Read a file of prediction ids and texts; empty without a file."""
    if not path.is_file():
        return {}
    rows = [json.loads(line) for line in path.read_text(encoding="ascii").splitlines() if line]
    return {row["id"]: row["text"] for row in rows}


def write_texts(path: Path, texts: Mapping[str, str]) -> None:
    """Write one text a line, readable for the owner only."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as part:
        part.write_text("".join(f"{json.dumps({'id': id, 'text': text})}\n" for id, text in texts.items()), encoding="ascii")
        part.chmod(0o600)


def _time_of(entry: FeedbackEntry, params: Params) -> tuple[float, float]:
    """Return the period in which the answer was given; ids of earlier releases do not tell."""
    issued = issued_at(entry.prediction_id)
    return (issued, issued + 1) if issued else (entry.received_at - params.retrain.feedback_reach_s, entry.received_at)


def _merge(periods: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the union of periods, ordered and disjoint."""
    merged: list[tuple[float, float]] = []
    for begin, end in sorted(periods):
        if merged and begin <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((begin, end))
    return merged
