"""Assigns a row to a side of the split by its content, so the side is the same before and after the row is labelled."""

import hashlib
from typing import Literal

from pipeline.data.records import Example, words_id

Side = Literal["train", "val", "test"]
MIN_TEST_ROWS = 2  # of a class


def side_of(row: Example, seed: int, *, val_share: float, test_share: float) -> Side:
    """Return the side of a row: SHA-256 of (seed, group or words) as a number in [0, 1); test, then validation, then train.

    The label is left out: a group may span classes, and a corrected label must not move a test row into training. Each class
    still gets its shares within binomial error, because the hash is independent of the class.
    """
    return side_of_key(row.group or words_id(row.text), seed, val_share=val_share, test_share=test_share)


def side_of_key(key: str, seed: int, *, val_share: float, test_share: float) -> Side:
    """Return the side of the rows with this group or these words."""
    number = hash_to_unit(f"{seed}\0{key}")
    if number < test_share:
        return "test"
    return "val" if number < test_share + val_share else "train"


def hash_to_unit(key: str) -> float:
    """Return a number in [0, 1) that depends on the key alone."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64
