"""What is watched as bytes, and back: numbers as arrays, the rest as JSON; nothing pickled."""

import io
import json
from typing import Any

import numpy as np

from monitoring.drift.accuracy import Accuracy, Estimate
from monitoring.drift.signals import Evidence, Moved
from monitoring.drift.stream import Shown, Watched
from monitoring.drift.window import Rows

WORDS = ("id", "unit", "text")  # columns of `Rows` that are text


def to_bytes(watched: Watched) -> bytes:
    """A compressed .npz."""
    arrays: dict[str, Any] = {}
    said: dict[str, Any] = {
        "version": watched.version,
        "key": watched.key,
        "number": watched.number,
        "seen": {unit: sorted(texts) for unit, texts in watched.seen.items()},
        "peaks": watched.peaks,
        "earlier": watched.earlier,
        "shown": watched.shown,
        "estimate": watched.estimate,
        "evidence_rows": watched.evidence.rows,
    }
    for part in ("rows", "last"):
        rows: Rows = getattr(watched, part)
        said[part] = {name: getattr(rows, name).tolist() for name in WORDS}
        arrays |= {f"{part}.{name}": getattr(rows, name) for name in Rows._fields if name not in WORDS}
    for part in ("bags", "wealth"):
        arrays |= {f"{part}.{index}": own for index, own in enumerate(getattr(watched.evidence, part))}
    out = io.BytesIO()
    np.savez_compressed(out, said=np.frombuffer(json.dumps(said).encode(), dtype=np.uint8), **arrays)
    return out.getvalue()


def from_bytes(data: bytes) -> Watched:
    """What `to_bytes` wrote."""
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        said = json.loads(arrays["said"].tobytes())
        rows = {part: _rows(said[part], arrays, part) for part in ("rows", "last")}
        evidence = [tuple(arrays[f"{part}.{index}"] for index in range(2)) for part in ("bags", "wealth")]
    return Watched(
        version=said["version"],
        key=said["key"],
        number=said["number"],
        rows=rows["rows"],
        last=rows["last"],
        seen={unit: frozenset(texts) for unit, texts in said["seen"].items()},
        peaks=said["peaks"],
        evidence=Evidence(said["evidence_rows"], evidence[0], evidence[1]),
        earlier=tuple(said["earlier"]),
        shown={name: _shown(own) for name, own in said["shown"].items()},
        estimate=_estimate(said["estimate"]),
    )


def _rows(words: dict[str, list[str]], arrays: Any, part: str) -> Rows:
    def column(name: str) -> Any:
        return np.array(words[name], dtype=np.str_) if name in WORDS else arrays[f"{part}.{name}"]

    return Rows._make(column(name) for name in Rows._fields)


def _shown(own: list[Any]) -> Shown:
    words, examples = own[-2:]
    return Shown._make([*own[:-2], tuple(Moved(*word) for word in words), tuple(examples)])


def _estimate(own: list[Any] | None) -> Estimate | None:
    return Estimate(Accuracy(*own[0]), *own[1:]) if own else None
