"""Golden answers: texts that a model classifies with a clear margin, and its offline predictions for them.

A server whose predictions differ must not serve.
"""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.data.records import write_json

Floats = NDArray[np.float32]
GOLDEN_FILE = "golden.json"
SHIPPED_DATA, SHIPPED_QUESTION = Path("data/support_desk.jsonl"), "where is my parcel?"
DECIMALS = 6  # in the file; far below any `atol`


class GoldenAnswers(NamedTuple):
    """The golden texts and their predictions, one text per request, by the session that serves."""

    session: str
    atol: float  # largest allowed difference of a probability
    texts: list[str]  # by length, shortest first
    labels: list[str]
    probabilities: Floats  # (N, classes)


def pick_golden_rows(
    lengths: Sequence[int], classes: Sequence[int], margins: Sequence[float], *, count: int, min_margin: float
) -> list[int]:
    """Return up to `count` rows, shortest first: one per length stratum, shortest and longest included, classes mixed.

    The two most probable classes of a row are at least `min_margin` apart; if no row qualifies, the clearest row is taken.
    """
    clear = [row for row, margin in enumerate(margins) if margin >= min_margin] or [int(np.argmax(margins))]
    by_length = sorted(clear, key=lambda row: lengths[row])
    strata = [[by_length[i] for i in part] for part in np.array_split(np.arange(len(by_length)), min(count, len(by_length)))]
    used: Counter[int] = Counter()
    chosen = []
    for stratum in [strata[-1][::-1], *strata[:-1]]:  # the longest row first, while no class is used yet
        row = min(stratum, key=lambda row: used[classes[row]])
        used[classes[row]] += 1
        chosen.append(row)
    return [*chosen[1:], chosen[0]]


def golden_differences(golden: GoldenAnswers, labels: Sequence[str], probabilities: Floats) -> list[str]:
    """Describe each difference between these predictions and the golden answers; empty if they agree."""
    if len(labels) != len(golden.labels) or probabilities.shape != golden.probabilities.shape:
        return [f"predictions of shape {probabilities.shape}, golden answers of shape {golden.probabilities.shape}"]
    gaps = np.abs(probabilities - golden.probabilities).max(axis=1)
    differences = []
    for text, label, expected, gap in zip(golden.texts, labels, golden.labels, gaps, strict=True):
        if label != expected:
            differences.append(f"{text!r}: {label}, expected {expected}")
        elif not gap <= golden.atol:  # NaN is not <= anything
            differences.append(f"{text!r}: a probability is off by {gap:.4f}, at most {golden.atol} is allowed")
    return differences


def write_golden(golden: GoldenAnswers, folder: Path) -> None:
    """Write `golden.json`; equal answers give equal bytes."""
    rounded = [[round(float(p), DECIMALS) for p in row] for row in golden.probabilities]
    write_json(folder / GOLDEN_FILE, golden._asdict() | {"probabilities": rounded})


def example_question(source: Path, package: Path) -> str:
    """Return a text that shows a model at work: its shortest golden text, or ours where it learnt from the shipped data."""
    if source == SHIPPED_DATA:
        return SHIPPED_QUESTION
    try:
        return read_golden(package).texts[0]
    except (OSError, ValueError, LookupError):  # of an earlier release
        return SHIPPED_QUESTION


def read_golden(folder: Path) -> GoldenAnswers:
    """Read the golden answers of this folder; raises `OSError`, or `ValueError` for other contents."""
    values = json.loads((folder / GOLDEN_FILE).read_text(encoding="utf-8"))
    try:
        golden = GoldenAnswers(**values)
        return golden._replace(probabilities=np.array(golden.probabilities, dtype=np.float32))
    except TypeError as error:
        raise ValueError(f"not golden answers: {error}") from None
