"""Send a drill's requests in stretches, and keep a few numbers for each; texts and answers are written to files.

They are compared with the offline answers after the drill, because that takes processor time from the measured stack.
"""

import gc
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray

from serving.loadtest.result import percentile
from serving.loadtest.sender import ENDS
from tests.faults.open_load import Part, Sent, send, wrong_answers
from tests.faults.stack import Offline

DESCRIBED = 5  # wrong answers with a description


class Traffic(NamedTuple):
    """Hold N requests in order of their intended send times."""

    at_s: NDArray[np.float64]  # (N,) intended send time, by the monotonic clock
    status: NDArray[np.int16]  # (N,) HTTP status, or one of `sender.ENDS`
    took_ms: NDArray[np.float32]  # (N,) from then to the answer or failure
    late_ms: NDArray[np.float32]  # (N,) from then to the actual sending
    without_retry_after: int  # answers of 503 without Retry-After
    answer_files: Sequence[Path]  # texts and answers, one for each stretch
    began_s: float  # by the same clock

    @property
    def ok(self) -> NDArray[np.bool_]:
        """Return which requests (N,) were answered with 200."""
        return self.status == 200

    def between(self, since_s: float, until_s: float) -> NDArray[np.bool_]:
        """Return which requests (N,) were due in this time."""
        return (self.at_s >= since_s) & (self.at_s < until_s)

    def p99_ms(self, among: NDArray[np.bool_]) -> float:
        """Return P99 of these requests, with infinity for failures; NaN of none."""
        return percentile(np.where(self.ok, self.took_ms, np.inf)[among], 99)

    def by_status(self, among: NDArray[np.bool_]) -> dict[str, int]:
        """Count these requests by how they ended."""
        statuses, counts = np.unique(self.status[among], return_counts=True)
        return {ENDS.get(status, str(status)): count for status, count in zip(statuses.tolist(), counts.tolist(), strict=True)}


def repeat_until(is_over: Callable[[], bool], part: Part) -> Iterator[list[Part]]:
    """Yield the same load until it is over."""
    while not is_over():
        yield [part]


def load(
    url: str,
    texts: Sequence[str],
    stretches: Iterable[Sequence[Part]],
    folder: Path,
    on_second: Callable[[float], None],
    *,
    headers: Mapping[str, str] | None = None,
) -> Traffic:
    """Send one stretch after the other, almost without a gap; each has new texts.

    `on_second` gets the seconds since the start of the stretch.
    """
    folder.mkdir()
    sent_stretches = []
    gc.collect()
    gc.freeze()  # a collection between two stretches skips older objects
    try:
        for number, parts in enumerate(stretches):
            sent = send(url, texts, parts, seed=number, on_second=on_second, headers=headers)
            sent_stretches.append(_store(sent, folder / f"{number:04d}.json"))
    finally:
        gc.unfreeze()
    return joined(sent_stretches)


def joined(stretches: Sequence[Traffic]) -> Traffic:
    """Join several stretches into one."""
    at_s, status, took_ms, late_ms, without_retry_after, answer_files, began_s = zip(*stretches, strict=True)
    return Traffic(
        np.concatenate(at_s),
        np.concatenate(status),
        np.concatenate(took_ms),
        np.concatenate(late_ms),
        sum(without_retry_after),
        [path for paths in answer_files for path in paths],
        began_s[0],
    )


def find_wrong(traffic: Traffic, offline: Offline, atol: float, on_share: Callable[[float], None]) -> tuple[int, list[str]]:
    """Count the answers that differ from the offline ones of the version they name, and describe the first of them."""
    count, descriptions = 0, []
    for number, path in enumerate(traffic.answer_files):
        wrong = wrong_answers(orjson.loads(path.read_bytes()), offline, atol)
        count += len(wrong)
        descriptions += wrong[: DESCRIBED - len(descriptions)]
        on_share((number + 1) / len(traffic.answer_files))
    return count, descriptions


def _store(sent: Sent, path: Path) -> Traffic:
    answers = [
        (text, int(answer.version or 0), answer.label)
        for text, answer in zip(sent.texts, sent.answers, strict=True)
        if answer is not None
    ]
    path.write_bytes(orjson.dumps(answers))
    result = sent.result
    at_s = sent.began_s + result.at_s
    return Traffic(at_s, result.status, sent.took_ms, result.late_ms, sent.without_retry_after, [path], sent.began_s)
