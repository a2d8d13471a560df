"""One prediction: the record that predictor, jobs, HTTP API and prediction log share, and its projections."""

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from pipeline.abstention import UNSURE
from pipeline.runtime.outputs import ModelOutputs

Role = Literal["champion", "challenger", "shadow"]


class ModelOutput(NamedTuple):
    """A version's output for one text: the batch queue returns it, the response cache stores it."""

    label: str
    confidence: float
    runner_up: str | None  # None: the model has one class only
    pieces: int
    pieces_per_word: float
    sketch: bytes  # fp16, as the backend returned it
    probabilities: bytes  # fp16, calibrated, in the order of the version's labels.txt

    @property
    def is_broken(self) -> bool:
        """Return whether this is no answer: a model whose weights overflow gives no number, and sometimes no label."""
        return not self.label or not math.isfinite(self.confidence)


class Prediction(NamedTuple):
    """A text of a request, the version's output for it, and how long it took.

    The prediction log stores the record as it is, a column for each field. `as_response` is the item of `POST /v1/predict`
    and the item of a job's stored result, which `GET /v1/jobs/{id}` and the callback return.
    """

    time: float  # seconds of the epoch
    request_id: str
    id: str  # feedback refers to it; a shadow copy has the id of its original
    unit: str | None  # sticky key
    text: str | None  # cleaned; not stored under `log.text: hash`
    text_hash: str | None  # `hash_text` of the text; None: the log's writer computes it, off the critical path
    pieces: int
    pieces_per_word: float
    version: int
    role: Role
    label: str  # the model's, also where it abstained
    confidence: float
    runner_up: str | None
    sketch: bytes
    probabilities: bytes
    latency_ms: float
    cache_hit: bool
    abstained: bool = False  # the confidence was below the version's threshold

    def as_response(self, labels: Sequence[str] = (), fallback: str = "") -> dict[str, Any]:
        """Return the fields that a caller gets; with the version's labels, the probability of each of them too.

        Where the model abstained, `label` is the fallback, None without one, and `suggestion` is the model's label.
        """
        fields: dict[str, Any] = {
            "id": self.id,
            "label": (fallback or None) if self.abstained else self.label,
            "confidence": round(self.confidence, 6),
            "runner_up": self.runner_up,
            "version": self.version,
            "role": self.role,
            "cached": self.cache_hit,
        }
        if self.abstained:
            fields |= {"reason": UNSURE, "suggestion": self.label}
        if labels:
            halves = np.frombuffer(self.probabilities, dtype=np.float16)
            fields["probabilities"] = {label: round(float(p), 6) for label, p in zip(labels, halves, strict=True)}
        return fields


def split_outputs(outputs: ModelOutputs, labels: Sequence[str]) -> list[ModelOutput]:
    """Return a record for each text; raise `ValueError` when the outputs do not fit the version's labels."""
    probabilities = outputs.probabilities
    if probabilities.shape[1] != len(labels):
        raise ValueError(f"{probabilities.shape[1]} probabilities for {len(labels)} labels")
    order = probabilities.argsort(axis=1)
    halves = probabilities.astype(np.float16)
    rows = zip(outputs.labels, probabilities, halves, order, outputs.pieces, outputs.pieces_per_word, outputs.sketch, strict=True)
    return [
        ModelOutput(
            label,
            float(shares[ranked[-1]]),
            labels[ranked[-2]] if len(labels) > 1 else None,
            int(pieces),
            float(per_word),
            sketch.tobytes(),
            half.tobytes(),
        )
        for label, shares, half, ranked, pieces, per_word, sketch in rows
    ]
