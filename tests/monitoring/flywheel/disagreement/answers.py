"""Answers of two versions, as gateways log them."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from monitoring.flywheel.disagreement.pairs import LoggedAnswer
from monitoring.flywheel.disagreement.task import ModelAnswer
from pipeline.params import Params
from serving.prediction import Prediction, Role
from serving.prediction_log.segments import hash_text
from serving.prediction_log.writer import PredictionLog

AT = 1_790_000_000.0
LABELS = ("cancel", "refund", "track")


def shares(label: str, confidence: float = 0.9) -> np.ndarray:
    """Return probabilities in the order of `LABELS`, the rest in equal parts."""
    left = (1 - confidence) / (len(LABELS) - 1)
    return np.array([confidence if name == label else left for name in LABELS], np.float32)


def logged(
    number: int,
    label: str,
    *,
    text: str = "",
    unit: str | None = None,
    version: int = 1,
    role: Role = "champion",
    confidence: float = 0.9,
    latency_ms: float = 10.0,
    cache_hit: bool = False,
) -> Prediction:
    """Return the answer number `number`, a second later than the one before; without `text` no other has its text."""
    return Prediction(
        AT + number, "request", f"p{number}", unit, text or f"text {number}", None, 5, 1.2, version, role, label, confidence,
        None, b"\0" * 16, shares(label, confidence).astype(np.float16).tobytes(), latency_ms, cache_hit,
    )  # fmt: skip


def write(home: Path, params: Params, rows: Iterable[Prediction], session: str = "a") -> None:
    """Write the rows with the gateway's writer."""
    log = PredictionLog(params.log, home, session, lambda: AT)
    for row in rows:
        log.add(row)
    assert log.close(within_s=60) == 0


def answer(number: int, label: str, *, text: str = "", confidence: float = 0.9, **changed: object) -> LoggedAnswer:
    """Return the answer as it is read from the log."""
    words = text or f"text {number}"
    given = ModelAnswer(label, shares(label, confidence))
    read = LoggedAnswer(f"p{number}", AT + number, "", words, hash_text(words), given, 10.0, cache_hit=False)
    return read._replace(**changed)  # type: ignore[arg-type]
