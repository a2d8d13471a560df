"""Candidates of the queue, made from what a test is about."""

from typing import Any

from monitoring.flywheel.queue.round import LabelCandidate
from pipeline.data.records import text_id


def candidate(
    text: str, label: str = "track_order", second: str | None = None, margin: float = 0.5, **others: Any
) -> LabelCandidate:
    """Return a candidate whose ids follow from its text; without a second label the models agree."""
    made = LabelCandidate(
        text_id(text), f"p-{text}", text, 0.0, 3, label, None, 0.8, margin, second or label, ("margin",), 0, 1, False
    )
    return made._replace(**others)
