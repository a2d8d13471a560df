"""On which side of the split a row stands: a function of its content, so that it stands there before and after it is labelled."""

import hashlib
from typing import Literal

from pipeline.data.records import Example

Side = Literal["train", "val", "test"]


def side_of(row: Example, seed: int, *, val_share: float, test_share: float) -> Side:
    """Side of one row: SHA-256 of (seed, group or id) read as a number in [0, 1); test, then validation, then train.

    The label is left out: a group may span classes, and a label that feedback corrects must not carry a test row into training.
    Each class still gets its shares within binomial error, for the hash knows nothing of classes.
    """
    place = hash_to_unit(f"{seed}\0{row.group or row.id}")
    if place < test_share:
        return "test"
    return "val" if place < test_share + val_share else "train"


def hash_to_unit(key: str) -> float:
    """A number in [0, 1) that follows from the key alone."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64
