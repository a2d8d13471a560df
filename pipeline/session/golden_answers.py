"""Golden answers: texts that a model answers clearly, and what it says of them offline.

A server that says otherwise must not serve.
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
DECIMALS = 6  # as written; far below any `atol`


class GoldenAnswers(NamedTuple):
    """One text a row, asked one at a time of the session that serves."""

    session: str
    atol: float  # how far a probability may be off
    texts: list[str]  # by length, shortest first
    labels: list[str]
    probabilities: Floats  # (N, classes)


def pick_golden_rows(
    lengths: Sequence[int], classes: Sequence[int], margins: Sequence[float], *, count: int, min_margin: float
) -> list[int]:
    """Up to `count` rows by length, shortest first: one of each stratum of length, the ends included, classes as mixed as can be.

    Only rows whose two most probable classes lie `min_margin` apart are taken; where there is none, the clearest one is.
    """
    clear = [row for row, margin in enumerate(margins) if margin >= min_margin] or [int(np.argmax(margins))]
    by_length = sorted(clear, key=lambda row: lengths[row])
    strata = [[by_length[i] for i in part] for part in np.array_split(np.arange(len(by_length)), min(count, len(by_length)))]
    used: Counter[int] = Counter()
    taken = []
    for stratum in [strata[-1][::-1], *strata[:-1]]:  # the longest row first, while no class is used
        row = min(stratum, key=lambda row: used[classes[row]])
        used[classes[row]] += 1
        taken.append(row)
    return [*taken[1:], taken[0]]


def golden_differences(golden: GoldenAnswers, labels: Sequence[str], probabilities: Floats) -> list[str]:
    """In words, where these answers to the golden texts are not the golden ones; nothing when they are equal."""
    if len(labels) != len(golden.labels) or probabilities.shape != golden.probabilities.shape:
        return [f"{len(labels)} answers of shape {probabilities.shape} to golden ones of shape {golden.probabilities.shape}"]
    gaps = np.abs(probabilities - golden.probabilities).max(axis=1)
    found = []
    for text, said, meant, gap in zip(golden.texts, labels, golden.labels, gaps, strict=True):
        if said != meant:
            found.append(f"{text!r}: {said}, not {meant}")
        elif not gap <= golden.atol:  # NaN is not <= anything
            found.append(f"{text!r}: a probability is off by {gap:.4f}, at most {golden.atol} is allowed")
    return found


def write_golden(golden: GoldenAnswers, folder: Path) -> None:
    """`golden.json`, the same bytes for the same answers."""
    rounded = [[round(float(p), DECIMALS) for p in row] for row in golden.probabilities]
    write_json(folder / GOLDEN_FILE, golden._asdict() | {"probabilities": rounded})


def read_golden(folder: Path) -> GoldenAnswers:
    """The golden answers in this folder; raises `OSError`, or `ValueError` when the file holds something else."""
    found = json.loads((folder / GOLDEN_FILE).read_text(encoding="utf-8"))
    try:
        golden = GoldenAnswers(**found)
        return golden._replace(probabilities=np.array(golden.probabilities, dtype=np.float32))
    except TypeError as error:
        raise ValueError(f"no golden answers: {error}") from None
