"""Turns the gateway's prediction into what the page shows. Pure."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from monitoring.console.try_it.neighbours import Neighbours

OPEN_BARS = 5
LIKELY = 0.5  # a calibrated probability below this: the label is more likely wrong than right


class Bar(NamedTuple):
    """The probability of a label."""

    label: str
    share: float


class ShownAnswer(NamedTuple):
    """A prediction as the page shows it."""

    id: str
    label: str | None  # where the model abstains: the fallback label, or None
    suggestion: str | None  # where the model abstains: its own label
    confidence: float | None
    version: int
    role: str
    is_cached: bool
    latency_ms: float
    bars: list[Bar]  # the most probable first
    doubts: list[str]
    neighbours: Neighbours

    @property
    def is_abstained(self) -> bool:
        """Return whether the label is not the model's."""
        return self.suggestion is not None

    @property
    def models_label(self) -> str | None:
        """Return the label that the model found most probable."""
        return self.label if self.suggestion is None else self.suggestion

    @property
    def open_bars(self) -> list[Bar]:
        """Return the bars that are visible at once."""
        return self.bars[:OPEN_BARS]

    @property
    def folded_bars(self) -> list[Bar]:
        """Return the others."""
        return self.bars[OPEN_BARS:]


def answer_of(prediction: Mapping[str, Any], latency_ms: float, neighbours: Neighbours) -> ShownAnswer:
    """Return the answer with its doubts: a model that abstains or is unsure, and neighbours that disagree."""
    shares: Mapping[str, float] = prediction.get("probabilities") or {}
    bars = sorted((Bar(label, share) for label, share in shares.items()), key=lambda bar: (-bar.share, bar.label))
    label, confidence = prediction["label"], prediction.get("confidence")
    suggestion = prediction.get("suggestion")
    doubts = []
    if suggestion is not None:
        doubts.append(f"The model abstains: it is too unsure of its own label, {suggestion}.")
    elif confidence is not None and confidence < LIKELY:
        doubts.append("The model is unsure: this label is more likely wrong than right.")
    others, shown = neighbours.others(label), len(neighbours.rows)
    if suggestion is None and others > shown / 2:
        doubts.append(f"{others} of the {shown} nearest training texts have another label.")
    return ShownAnswer(
        id=prediction["id"],
        label=label,
        suggestion=suggestion,
        confidence=confidence,
        version=int(prediction["version"]),
        role=str(prediction["role"]),
        is_cached=bool(prediction["cached"]),
        latency_ms=latency_ms,
        bars=bars,
        doubts=doubts,
        neighbours=neighbours,
    )
