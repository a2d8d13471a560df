"""Keeps new texts out of training that nearly equal a row that measures a model. Knows no label."""

from collections.abc import Iterable

from pipeline.data.near_duplicates import NearTexts
from pipeline.data.records import words_id
from pipeline.data.split_sides import Side, side_of_key
from pipeline.params import Split


class Fence:
    """A ledger of measuring texts: content ids, and sketches for near-duplicates (`pipeline.data.near_duplicates`).

    A text that falls on the test or validation side itself may pass: it does not enter training.
    """

    def __init__(self, measuring: Iterable[str], split: Split, *, has_test: bool, jaccard: float) -> None:
        """Hold the texts of the test, validation and reference rows; `has_test`: a supplied test file replaces the test side."""
        self._texts = list(dict.fromkeys(measuring))
        self._near = NearTexts(self._texts, jaccard)
        self._split, self._test_share = split, 0.0 if has_test else split.test_share

    def add(self, text: str) -> None:
        """Hold one more text."""
        self._texts.append(text)
        self._near.add(text)

    def side(self, text: str) -> Side:
        """Return the side on which a text without a group falls."""
        return side_of_key(words_id(text), self._split.seed, val_share=self._split.val_share, test_share=self._test_share)

    def measuring_text(self, text: str) -> str | None:
        """Return the measuring text that a training text equals or nearly equals, the nearest; None: it may be learnt from."""
        if self.side(text) != "train":
            return None
        matches = self._near.matches(text)
        return self._texts[max(matches, key=lambda match: match[1])[0]] if matches else None
