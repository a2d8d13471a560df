"""Follows up the new intents that people propose: the texts most like those that have got one are asked next. Pure.

A new intent is learnt once enough texts have it (`retrain.proposal_texts`), and the queue was made before anybody knew of it.
"""

import base64
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from monitoring.flywheel.queue.round import LabelCandidate

MIN_PROPOSED = 2  # a single proposal may be a mistake
NEAREST = 3
ENOUGH = 1.75  # times the texts that a new intent needs: some are wrong, and two of five are kept for test and validation


def follow_up(
    open_texts: Sequence[LabelCandidate],
    labelled: Sequence[LabelCandidate],
    labels: Mapping[str, str],
    proposed: frozenset[str],
    wanted: int,
) -> list[LabelCandidate]:
    """Return the open texts, two of three a follow-up while a proposed label has fewer than 1.75 × `wanted` texts.

    `labels` are by content id of the `labelled` texts, `proposed` are those labels that the champion lacks. A text is a
    follow-up by its three most similar texts of that label, against its three most similar ones of another label.
    """
    counts = Counter(labels[row.text_id] for row in labelled if labels[row.text_id] in proposed)
    unmet = sorted((label for label, count in counts.items() if MIN_PROPOSED <= count < ENOUGH * wanted), key=counts.__getitem__)
    if not unmet:
        return list(open_texts)
    open_vectors, known = _vectors(open_texts), _vectors(labelled)
    if open_vectors is None or known is None:
        return list(open_texts)
    similarity = open_vectors @ known.T
    given = np.array([labels[row.text_id] for row in labelled])
    queues = [np.argsort(-_lead(similarity, given == label), kind="stable").tolist() for label in unmet]
    followed = [queues[turn % len(queues)][turn // len(queues)] for turn in range(len(queues) * len(open_texts))]
    return _alternate(open_texts, list(dict.fromkeys(followed)))


def _lead(similarity: NDArray[np.float32], is_label: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return (N,) how much more each text is like texts of the label than like others."""
    others = similarity[:, ~is_label]
    lead: NDArray[np.float32] = _best(similarity[:, is_label]) - (_best(others) if others.shape[1] else 0)
    return lead


def _best(similarity: NDArray[np.float32]) -> NDArray[np.float32]:
    best: NDArray[np.float32] = np.sort(similarity, axis=1)[:, -NEAREST:].mean(axis=1)
    return best


def _alternate(open_texts: Sequence[LabelCandidate], followed: Sequence[int]) -> list[LabelCandidate]:
    """Return every text once: two of the follow-ups, one in the order of the queue, and so on."""
    taken: dict[int, None] = {}
    queue, follow_ups = iter(range(len(open_texts))), iter(followed)
    while len(taken) < len(open_texts):
        for source in (follow_ups, follow_ups, queue):
            if (index := next((index for index in source if index not in taken), None)) is not None:
                taken[index] = None
    return [open_texts[index] for index in taken]


def encode_sketch(sketch: NDArray[np.float32]) -> str:
    """Return a sketch as `LabelCandidate.sketch` has it."""
    return base64.b64encode(sketch.astype(np.float16).tobytes()).decode("ascii")


def _vectors(texts: Sequence[LabelCandidate]) -> NDArray[np.float32] | None:
    """Return unit-length sketches (N, width); None where a text has none, or one of another width."""
    rows = [np.frombuffer(base64.b64decode(row.sketch), dtype=np.float16) for row in texts]
    if not rows or len({len(row) for row in rows}) > 1 or not len(rows[0]):
        return None
    vectors = np.stack(rows).astype(np.float32)
    unit: NDArray[np.float32] = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6)
    return unit
