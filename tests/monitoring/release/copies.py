"""Logs with copied texts, as the gateways of a home write them."""

from collections.abc import Sequence
from pathlib import Path

from serving.prediction import Prediction, Role
from tests.monitoring.homes import NOON, Gateway

Copied = tuple[str, str, str]  # text, the champion's label, the challenger's


def answer(id: str, text: str, label: str, role: Role = "champion", at: float = NOON) -> Prediction:
    """Return an answer of version 1, or a copy's by version 2."""
    version = 2 if role == "shadow" else 1
    return Prediction(at, "r", id, None, text, None, 5, 1.2, version, role, label, 0.6, None, b"", b"", 3.0, False)


def answers(copied: Sequence[Copied], at: float = NOON) -> list[Prediction]:
    """Return the answers to copied texts; the ids are `p0`, `p1`, …"""
    rows = []
    for number, (text, label, other) in enumerate(copied):
        rows += [
            answer(f"p{number}", text, label, at=at + number),
            answer(f"p{number}", text, other, "shadow", at + number + 0.1),
        ]
    return rows


def log_copies(home: Path, copied: Sequence[Copied], at: float = NOON) -> None:
    """Write a segment of copied texts."""
    Gateway(home, "session").write(answers(copied, at))
