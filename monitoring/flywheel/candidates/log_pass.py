"""One pass over the prediction log, newest answers first, until there are enough candidates. One segment is in memory."""

from collections.abc import Callable
from functools import reduce
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from monitoring.flywheel.candidates.criteria import Criteria, reasons_of
from monitoring.flywheel.disagreement.task import TASK
from monitoring.flywheel.queue.round import SURE
from pipeline.data.records import text_id
from serving.prediction_log.segments import newest_segment_files, parse_segment


class FlaggedText(NamedTuple):
    """A text that meets at least one criterion, as it was answered last."""

    text_id: str
    prediction_id: str
    text: str
    at: float
    label: str
    runner_up: str | None
    confidence: float
    margin: float
    second_label: str | None
    reasons: tuple[str, ...]
    repeats: int  # equal texts


class LogPass(NamedTuple):
    """Distinct candidates, newest first, and what the pass has seen."""

    texts: list[FlaggedText]
    sketches: NDArray[np.float32]  # (N, width) of the texts, unit length
    answers: int  # of the version
    without_text: int  # of them: the log keeps their hash alone, so nobody can label them
    left_out: int  # flagged texts that are labelled already, or protected
    compared: NDArray[np.float32]  # (M, width) sketches of all answers with a second label, unit length
    differing: NDArray[np.bool_]  # (M,) whether the two labels differ
    skipped: int  # unreadable segments


def pass_over_log(
    url: str, criteria: Criteria, *, since: float, at_most: int, on_segment: Callable[[int], None] = lambda _found: None
) -> LogPass:
    """Collect at most `at_most` distinct candidates answered after `since`; `on_segment` is called with their number so far."""
    collected = _Collected(criteria, since, at_most)
    skipped: list[str] = []
    for path, data in newest_segment_files(url, since=since, on_skipped=skipped.append):
        table = parse_segment(data)
        if table is None:
            skipped.append(path)
            continue
        collected.add(table)
        on_segment(len(collected.texts))
        if len(collected.texts) >= at_most:
            break
    return collected.result(len(skipped))


class _Collected:
    """The candidates of the segments so far."""

    def __init__(self, criteria: Criteria, since: float, at_most: int) -> None:
        self._criteria, self._since, self._at_most = criteria, since, at_most
        self.texts: dict[str, FlaggedText] = {}
        self._repeats: dict[str, int] = {}
        self._sketches: list[NDArray[np.float16]] = []
        self._compared: list[NDArray[np.float16]] = []
        self._differing: list[NDArray[np.bool_]] = []
        self._answers = self._without_text = 0
        self._left_out: set[str] = set()
        self._sure_left = criteria.at_most_sure

    def add(self, table: pa.Table) -> None:
        """Add the candidates of a segment, its newest answers first."""
        answered = _of_version(table, self._criteria, self._since)
        with_text = answered.filter(pc.is_valid(answered["text"])).sort_by([("time", "descending")])
        self._answers += answered.num_rows
        self._without_text += answered.num_rows - with_text.num_rows
        if not with_text.num_rows:
            return
        sketch = _matrix(with_text["sketch"], self._criteria.sketch_size)
        probabilities = _matrix(with_text["probabilities"], self._criteria.classes).astype(np.float32)
        usable = np.isfinite(sketch.astype(np.float32).sum(axis=1)) & np.isfinite(probabilities.sum(axis=1))
        self._add_rows(with_text.filter(pa.array(usable)), sketch[usable], probabilities[usable])

    def _add_rows(self, table: pa.Table, sketch: NDArray[np.float16], probabilities: NDArray[np.float32]) -> None:
        rule, second = self._criteria.novelty, self._criteria.second_labels
        margin = TASK.margins(probabilities)
        is_low = margin < self._criteria.low_margin
        is_novel = rule.score(sketch, probabilities) > rule.threshold if rule else np.zeros(len(sketch), dtype=np.bool_)
        ids, labels, texts = (table[name].to_pylist() for name in ("id", "label", "text"))
        seconds = [second.get(id) for id in ids]
        is_compared = np.array([label is not None for label in seconds], dtype=np.bool_)
        is_differing = np.array(
            [other is not None and other != label for other, label in zip(seconds, labels, strict=True)], bool
        )
        if is_compared.any():
            self._compared.append(sketch[is_compared])
            self._differing.append(is_differing[is_compared])
        few = self._criteria.few_labels
        is_few = np.array([label in few or other in few for label, other in zip(labels, seconds, strict=True)], bool)
        chosen = is_low | is_novel | is_differing | is_few
        if self._criteria.proposed:
            is_proposed = np.array([text_id(text) in self._criteria.proposed for text in texts], dtype=np.bool_)
        else:
            is_proposed = np.zeros_like(chosen)
        times, confidences = (table[name].to_numpy(zero_copy_only=False) for name in ("time", "confidence"))
        runners_up = table["runner_up"].to_pylist()
        is_agreed = is_compared & ~is_differing & ~is_novel & ~is_proposed
        is_sure = is_agreed & (confidences >= self._criteria.sure)
        for i in np.flatnonzero(chosen | is_proposed | is_sure).tolist():
            key = text_id(texts[i])
            if key in self._criteria.left_out:
                self._left_out.add(key)
                continue
            reasons = reasons_of(
                is_differing=bool(is_differing[i]),
                is_low=bool(is_low[i]),
                is_novel=bool(is_novel[i]),
                is_proposed=bool(is_proposed[i]),
                is_few=bool(is_few[i]),
                is_sure=bool(is_sure[i]),
            )
            if reasons == (SURE,) and key not in self.texts:
                if self._sure_left == 0:
                    continue
                self._sure_left -= 1
            if key in self.texts:
                self._repeats[key] += 1
                if self.texts[key].second_label is None and seconds[i] is not None:
                    self.texts[key] = self.texts[key]._replace(second_label=seconds[i], reasons=reasons)
            elif len(self.texts) < self._at_most:
                numbers = float(times[i]), labels[i], runners_up[i], float(confidences[i]), float(margin[i])
                self.texts[key] = FlaggedText(key, ids[i], texts[i], *numbers, seconds[i], reasons, 1)
                self._repeats[key] = 1
                self._sketches.append(sketch[i])

    def result(self, skipped: int) -> LogPass:
        width = self._criteria.sketch_size
        return LogPass(
            texts=[row._replace(repeats=self._repeats[key]) for key, row in self.texts.items()],
            sketches=unit_rows(np.stack(self._sketches) if self._sketches else np.zeros((0, width), np.float16)),
            answers=self._answers,
            without_text=self._without_text,
            left_out=len(self._left_out),
            compared=unit_rows(np.concatenate(self._compared) if self._compared else np.zeros((0, width), np.float16)),
            differing=np.concatenate(self._differing) if self._differing else np.zeros(0, dtype=np.bool_),
            skipped=skipped,
        )


def unit_rows(rows: NDArray[Any]) -> NDArray[np.float32]:
    """Return the rows (N, width) scaled to unit length; a row of zeros stays."""
    wide = rows.astype(np.float32)
    return np.asarray(wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-9), dtype=np.float32)


def _of_version(table: pa.Table, criteria: Criteria, since: float) -> pa.Table:
    conditions = (
        pc.equal(table["version"], criteria.version),
        pc.equal(table["role"], "champion"),
        pc.equal(pc.binary_length(table["probabilities"]), 2 * criteria.classes),
        pc.equal(pc.binary_length(table["sketch"]), 2 * criteria.sketch_size),
        pc.is_valid(table["id"]),
        pc.greater_equal(table["time"], since),
    )
    return table.filter(reduce(pc.and_, conditions))


def _matrix(column: pa.ChunkedArray, width: int) -> NDArray[np.float16]:
    """Return fp16 vectors as (N, width)."""
    return np.frombuffer(b"".join(column.to_pylist()), dtype=np.float16).reshape(-1, width)
