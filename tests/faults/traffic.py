"""The requests of a drill. A stretch is kept as a few numbers a request; its texts and answers wait on disk.

They are held against the offline answers after the drill, because that takes the cores from what is measured.
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

SHOWN = 5  # wrong answers that are told in words


class Traffic(NamedTuple):
    """N requests in order of their intended send times."""

    at_s: NDArray[np.float64]  # (N,) when they were meant to be sent, by the monotonic clock
    status: NDArray[np.int16]  # (N,) HTTP status, or one of `sender.ENDS`
    took_ms: NDArray[np.float32]  # (N,) from then to the end, whichever it was
    late_ms: NDArray[np.float32]  # (N,) how late the load came to send it
    without_retry_after: int  # answers of 503 that do not say when to come back
    said: Sequence[Path]  # texts and answers, a file for each stretch
    began_s: float  # by the same clock

    @property
    def ok(self) -> NDArray[np.bool_]:
        """(N,) answered with 200."""
        return self.status == 200

    def between(self, since_s: float, until_s: float) -> NDArray[np.bool_]:
        """(N,) meant to be sent in this time."""
        return (self.at_s >= since_s) & (self.at_s < until_s)

    def p99_ms(self, among: NDArray[np.bool_]) -> float:
        """P99 of these requests where a failed one took for ever; NaN of none."""
        return percentile(np.where(self.ok, self.took_ms, np.inf)[among], 99)

    def by_status(self, among: NDArray[np.bool_]) -> dict[str, int]:
        """These requests by how they ended."""
        statuses, counts = np.unique(self.status[among], return_counts=True)
        return {ENDS.get(one, str(one)): n for one, n in zip(statuses.tolist(), counts.tolist(), strict=True)}


def stretches(is_over: Callable[[], bool], part: Part) -> Iterator[list[Part]]:
    """The same load again and again, until it is over."""
    while not is_over():
        yield [part]


def load(
    url: str,
    texts: Sequence[str],
    following: Iterable[Sequence[Part]],
    folder: Path,
    on_second: Callable[[float], None],
    *,
    headers: Mapping[str, str] | None = None,
) -> Traffic:
    """Send one stretch after the other, with hardly a gap between them; each has texts of its own.

    `on_second` hears the seconds since the stretch began.
    """
    folder.mkdir()
    done = []
    gc.collect()
    gc.freeze()  # what is there already need not be looked through between two stretches
    try:
        for number, parts in enumerate(following):
            sent = send(url, texts, parts, seed=number, on_second=on_second, headers=headers)
            done.append(_kept(sent, folder / f"{number:04d}.json"))
    finally:
        gc.unfreeze()
    return joined(done)


def joined(stretches: Sequence[Traffic]) -> Traffic:
    """Several stretches as one."""
    at_s, status, took_ms, late_ms, without, said, began_s = zip(*stretches, strict=True)
    return Traffic(
        np.concatenate(at_s),
        np.concatenate(status),
        np.concatenate(took_ms),
        np.concatenate(late_ms),
        sum(without),
        [path for paths in said for path in paths],
        began_s[0],
    )


def wrong(traffic: Traffic, offline: Offline, atol: float, on_share: Callable[[float], None]) -> tuple[int, list[str]]:
    """How many answers are not the offline ones of the version they name, and the first of them in words."""
    count, told = 0, []
    for number, path in enumerate(traffic.said):
        found = wrong_answers(orjson.loads(path.read_bytes()), offline, atol)
        count += len(found)
        told += found[: SHOWN - len(told)]
        on_share((number + 1) / len(traffic.said))
    return count, told


def _kept(sent: Sent, path: Path) -> Traffic:
    said = [
        (text, int(answer.version or 0), answer.label)
        for text, answer in zip(sent.texts, sent.answers, strict=True)
        if answer is not None
    ]
    path.write_bytes(orjson.dumps(said))
    result = sent.result
    at_s = sent.began_s + result.at_s
    return Traffic(at_s, result.status, sent.took_ms, result.late_ms, sent.without_retry_after, [path], sent.began_s)
