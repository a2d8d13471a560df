"""Rounds of the flywheel as small as a test needs them, with ids that the gateway of the home accepts."""

import time
from collections.abc import Sequence
from pathlib import Path

from monitoring.flywheel.queue.round import Cluster, LabelCandidate, Round, write_round
from pipeline.data.records import text_id
from serving.key_file import read_key
from serving.prediction_ids import PredictionIds

TEXTS = (
    ("can I give the voucher to my sister?", 1),
    ("is a gift card valid for ever", 1),
    ("my voucher code does not work", 1),
    ("the parcel shop was closed again", 2),
    ("nobody rang and the card says I was out", 2),
    ("where is my parcel?", 2),
)
WORDS = {1: ("voucher", "gift card", "code"), 2: ("parcel shop", "closed", "rang")}


def candidate_of(text: str, prediction_id: str, cluster: int, at: float, *, is_sure: bool = False) -> LabelCandidate:
    return LabelCandidate(
        text_id=text_id(text),
        prediction_id=prediction_id,
        text=text,
        at=at,
        version=1,
        label="track" if cluster == 2 else "refund",
        runner_up="refund" if cluster == 2 else "track",
        confidence=0.97 if is_sure else 0.46,
        margin=0.9 if is_sure else 0.05,
        second_label="track",
        reasons=("margin",),
        cluster=cluster,
        repeats=1,
        is_sure=is_sure,
    )


def cluster_of(id: int, candidates: Sequence[LabelCandidate], words: Sequence[str]) -> Cluster:
    return Cluster(
        id=id,
        words=tuple(words),
        central=tuple(candidate.text_id for candidate in candidates[:3]),
        size=len(candidates) + id,
        disagreement=0.4,
        disagreement_lower=0.21,
        disagreement_upper=0.61,
        rank_score=1.0 / id,
        first_at=candidates[0].at,
        last_at=candidates[-1].at,
        centroid=(1.0, 0.0),
    )


def write_queue(home: Path, texts: Sequence[tuple[str, int]] = TEXTS, *, version: int = 1) -> Round:
    """Write a round of these texts and clusters; the last text is one of which the model is sure."""
    now = time.time()
    ids = PredictionIds(read_key(home, "prediction")).issue(now - 60, 1, len(texts))
    candidates = [
        candidate_of(text, id, cluster, now - 60, is_sure=number == len(texts))
        for number, ((text, cluster), id) in enumerate(zip(texts, ids, strict=True), 1)
    ]
    numbers = dict.fromkeys(cluster for _, cluster in texts)
    by_number = {number: [candidate for candidate in candidates if candidate.cluster == number] for number in numbers}
    clusters = [cluster_of(number, by_number[number], WORDS.get(number, ())) for number in numbers]
    made = Round(now - 30, version, candidates, clusters)
    write_round(home, made)
    return made
