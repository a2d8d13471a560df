"""Batches for labellers: unlabelled answers, mixed with control texts whose label is known, which look the same."""

import random
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import structlog

from monitoring.labels.texts import read_texts, texts_lock, write_texts
from pipeline.params import Params
from serving.key_file import read_key
from serving.prediction_ids import PredictionIds
from serving.prediction_log.segments import read_tables
from serving.prediction_log.writer import log_url

CONTROLS = "retrain/controls.jsonl"
DAY_S = 86_400.0
log = structlog.get_logger()


class LabellingTask(NamedTuple):
    """A text to label, and the id to send with the label."""

    id: str
    text: str


def mix_batch(
    answers: Sequence[LabellingTask], controls: Sequence[LabellingTask], size: int, share: float, rng: random.Random
) -> list[LabellingTask]:
    """Return at most `size` tasks in random order, `share` of them controls (at least one, if the share is not 0). Pure."""
    wanted = min(len(controls), max(1, round(size * share))) if share else 0
    batch = [*rng.sample(list(controls), wanted), *answers[: size - wanted]]
    rng.shuffle(batch)
    return batch


class BatchSources(NamedTuple):
    """Where a batch is drawn from."""

    labelled: Collection[str]  # ids of predictions that have a label
    corpus: Collection[str]  # texts whose label is known
    version: int  # that control texts seem to be answered by


def make_batch(
    params: Params, home: Path, sources: BatchSources, size: int, rng: random.Random, now: float
) -> list[LabellingTask]:
    """Return a batch of the last day's answers without a label, with `labels.control_share` of control texts."""
    labelled, corpus = sources.labelled, sources.corpus
    answers = recent_answers(params, home, labelled, size, now)
    drawn = rng.sample(sorted(corpus), min(size, len(corpus)))
    batch = mix_batch(answers, [LabellingTask("", text) for text in drawn], size, params.labels.control_share, rng)
    times = {task.text: now - rng.uniform(0, DAY_S) for task in batch if not task.id}
    controls = iter(issue_controls(home, times, sources.version))
    return [task if task.id else next(controls) for task in batch]


def recent_answers(params: Params, home: Path, labelled: Collection[str], limit: int, now: float) -> list[LabellingTask]:
    """Return the newest answers of the last day that nobody has labelled, each text once, oldest first."""
    answers: deque[LabellingTask] = deque(maxlen=limit)
    seen = set()
    for table in read_tables(
        log_url(params.log, home), since=now - DAY_S, on_skipped=lambda path: log.warning("skipped", path=path)
    ):
        for id, text, role in zip(*(table[name].to_pylist() for name in ("id", "text", "role")), strict=True):
            if text is not None and role != "shadow" and id not in labelled and text not in seen:
                seen.add(text)
                answers.append(LabellingTask(id, text))
    return list(answers)


def issue_controls(home: Path, times: Mapping[str, float], version: int) -> list[LabellingTask]:
    """Give control texts ids of these times that the gateway accepts, and remember them.

    No model answers them, so no statistic of traffic counts them.
    """
    ids = PredictionIds(read_key(home, "prediction"))
    tasks = [LabellingTask(ids.issue(at, version, 1, is_control=True)[0], text) for text, at in times.items()]
    with texts_lock(home):
        write_texts(home / CONTROLS, {**read_controls(home), **dict(tasks)})
    return tasks


def read_controls(home: Path) -> Mapping[str, str]:
    """Return the control texts that were handed out, by id."""
    return read_texts(home / CONTROLS)
