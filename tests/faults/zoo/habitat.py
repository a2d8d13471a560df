"""What the mutants are made from and released into: the original, its answers to the live texts, and how long an answer takes."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.data.records import read_examples
from pipeline.runtime.pieces import to_pieces
from pipeline.session.golden_answers import read_golden
from tests.faults.zoo.changed_package import Floats, Head, Original, same_head
from tests.faults.zoo.stream import NEW_WORD, LiveText, live_texts

SEED = 18
HALVINGS = 40


class Habitat(NamedTuple):
    """The original and its live texts, N of C classes, with sketches of width S."""

    original: Original
    texts: list[LiveText]
    logits: Floats  # (N, C), the original's
    sketch: Floats  # (N, S)
    truth: NDArray[np.int64]  # (N,)
    golden: list[str]
    new_pieces: tuple[int, ...]  # of the new product's name, in no text that the gate or the load check reads

    @property
    def labels(self) -> list[str]:
        return self.original.labels

    @property
    def unchanged(self) -> Head:
        return same_head(self.logits.shape[1], self.sketch.shape[1])

    def accuracy(self, head: Head) -> float:
        """Return the accuracy on the live texts with this head."""
        return float((head.apply(self.logits, self.sketch).argmax(axis=1) == self.truth).mean())

    def right(self) -> NDArray[np.bool_]:
        """Return which live texts (N,) the original answers rightly."""
        return np.asarray(self.logits.argmax(axis=1) == self.truth)

    def worse_by(self, points: float, head_of: Callable[[float], Head]) -> Head:
        """Return the head of the smallest strength, up to 1, at which so many points of accuracy are lost."""
        wanted = self.accuracy(self.unchanged) - points / 100
        low, high = 0.0, 1.0
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            low, high = (low, middle) if self.accuracy(head_of(middle)) <= wanted else (middle, high)
        return head_of(high)


def make_habitat(original: Original, texts: int) -> Habitat:
    """Let the original answer `texts` live texts offline."""
    model = original.open()
    rows = [*original.test_rows, *read_examples(original.artifacts / "split" / "val.parquet")]
    written = live_texts(rows, texts, SEED)
    parts = [
        model.run(to_pieces(model.tokenizer, [each.text for each in written[at : at + 256]]))
        for at in range(0, len(written), 256)
    ]
    logits, sketch = (np.concatenate([part[number] for part in parts]) for number in (0, 1))
    golden = read_golden(original.package).texts
    known = {piece for pieces in to_pieces(model.tokenizer, [*golden, *(row.text for row in rows)]) for piece in pieces}
    new = tuple(piece for piece in to_pieces(model.tokenizer, [NEW_WORD])[0] if piece not in known)
    truth = np.array([model.labels.index(each.label) for each in written])
    return Habitat(original, written, logits.astype(np.float32), sketch.astype(np.float32), truth, golden, new)
