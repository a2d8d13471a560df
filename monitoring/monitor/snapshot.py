"""Serialise the watched version's state: numbers as arrays, the rest as JSON, nothing pickled."""

import io
import json
from typing import Any

import numpy as np

from monitoring.drift.accuracy import AccuracyEstimate, AccuracyInterval
from monitoring.drift.histogram_distances import HistogramDistance
from monitoring.drift.signals import Evidence, WordShift
from monitoring.drift.stream import SignalView, WatchedVersion
from monitoring.drift.window import PredictionRows

STRING_COLUMNS = ("id", "unit", "text")  # of `PredictionRows`
ROWS, EVIDENCE = ("open_rows", "last_rows"), ("bags", "wealth")


def to_bytes(watched: WatchedVersion) -> bytes:
    """Serialise the state as a compressed .npz."""
    arrays: dict[str, Any] = {}
    state: dict[str, Any] = {
        "version": watched.version,
        "baseline_key": watched.baseline_key,
        "windows": watched.windows,
        "counted": {unit: sorted(texts) for unit, texts in watched.counted.items()},
        "peak_log_e": watched.peak_log_e,
        "first_texts": watched.first_texts,
        "signals": watched.signals,
        "estimate": watched.estimate,
        "distances": watched.distances,
        "evidence_rows": watched.evidence.rows,
    }
    for part in ROWS:
        rows: PredictionRows = getattr(watched, part)
        state[part] = {name: getattr(rows, name).tolist() for name in STRING_COLUMNS}
        arrays |= {f"{part}.{name}": getattr(rows, name) for name in PredictionRows._fields if name not in STRING_COLUMNS}
    for part in EVIDENCE:
        arrays |= {f"{part}.{index}": array for index, array in enumerate(getattr(watched.evidence, part))}
    out = io.BytesIO()
    np.savez_compressed(out, state=np.frombuffer(json.dumps(state).encode(), dtype=np.uint8), **arrays)
    return out.getvalue()


def from_bytes(data: bytes) -> WatchedVersion:
    """Read what `to_bytes` wrote; raises `KeyError`, `TypeError` or `ValueError` for the state of another release."""
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        state = json.loads(arrays["state"].tobytes())
        rows = {part: _rows(state[part], arrays, part) for part in ROWS}
        evidence = [tuple(arrays[f"{part}.{index}"] for index in range(2)) for part in EVIDENCE]
    return WatchedVersion(
        version=state["version"],
        baseline_key=state["baseline_key"],
        windows=state["windows"],
        open_rows=rows["open_rows"],
        last_rows=rows["last_rows"],
        counted={unit: frozenset(texts) for unit, texts in state["counted"].items()},
        peak_log_e=state["peak_log_e"],
        evidence=Evidence(state["evidence_rows"], evidence[0], evidence[1]),
        first_texts=tuple(state["first_texts"]),
        signals={name: _view(fields) for name, fields in state["signals"].items()},
        estimate=_estimate(state["estimate"]),
        distances={name: HistogramDistance(*fields) for name, fields in state["distances"].items()},
    )


def _rows(strings: dict[str, list[str]], arrays: Any, part: str) -> PredictionRows:
    def column(name: str) -> Any:
        return np.array(strings[name], dtype=np.str_) if name in STRING_COLUMNS else arrays[f"{part}.{name}"]

    return PredictionRows._make(column(name) for name in PredictionRows._fields)


def _view(fields: list[Any]) -> SignalView:
    words, examples = fields[-2:]
    return SignalView._make([*fields[:-2], tuple(WordShift(*word) for word in words), tuple(examples)])


def _estimate(fields: list[Any] | None) -> AccuracyEstimate | None:
    return AccuracyEstimate(AccuracyInterval(*fields[0]), *fields[1:]) if fields else None
