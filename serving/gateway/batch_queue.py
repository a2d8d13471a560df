"""A lane to one Triton model: texts wait here, bounded and with deadlines, and share the next call.

No timer holds anything back: while fewer than `in_flight` calls are on their way a text goes at once; else it waits for one to
return, together with what else has come meanwhile.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, NamedTuple

import numpy as np

from serving.triton.client import Answers, TritonError


class Answer(NamedTuple):
    """What a model said of one text."""

    label: str
    confidence: float
    runner_up: str | None
    pieces: int
    pieces_per_word: float
    sketch: bytes  # fp16
    probabilities: bytes  # fp16, in the order of the labels


class OverloadedError(Exception):
    """There is no room, or no time left, for this text."""


class Limits(NamedTuple):
    """Bounds of a lane."""

    in_flight: int  # calls on their way at a time
    waiting: int  # texts
    batch: int  # texts in one call


SMOOTHED = 0.2  # weight of the last call in the estimated time of a text
SHARE = 0.5  # of the time left to the newest waiting text, for one call
MARGIN = 1.5  # a call is begun for texts that have this many times its estimated time left
Ask = Callable[[Sequence[str], float], Coroutine[Any, Any, Answers]]  # texts, seconds left → answers
Future = asyncio.Future[Answer]


class Lane:
    """Texts to one model; belongs to one event loop. `clock` is the loop's."""

    def __init__(self, ask: Ask, labels: Sequence[str], limits: Limits, clock: Callable[[], float]) -> None:
        self.ask, self.labels = ask, labels
        self._limits, self._clock = limits, clock
        self._waiting: deque[tuple[str, float, Future]] = deque()
        self._flying: set[asyncio.Task[None]] = set()
        self._pumping = False
        self._text_s = 0.0  # estimated seconds of a call for each of its texts

    @property
    def waiting(self) -> int:
        """Texts not yet on their way."""
        return len(self._waiting)

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits or flies."""
        return not self._waiting and not self._flying

    def has_room(self, texts: int) -> bool:
        """Whether so many more texts would be taken."""
        return len(self._waiting) + texts <= self._limits.waiting

    def submit(self, text: str, deadline: float) -> Future:
        """Queue a text; the future ends with an answer, `TritonError` or `OverloadedError`, which a full lane raises at once."""
        if not self.has_room(1):
            raise OverloadedError("too many texts are waiting")
        loop = asyncio.get_running_loop()
        future: Future = loop.create_future()
        self._waiting.append((text, deadline, future))
        if not self._pumping:  # what arrives in the same turn of the event loop goes together
            self._pumping = True
            loop.call_soon(self._pump)
        return future

    def _pump(self) -> None:
        self._pumping = False
        while self._waiting and len(self._flying) < self._limits.in_flight:
            batch = self._take()
            if batch:
                task = asyncio.create_task(self._call(batch))
                self._flying.add(task)
                task.add_done_callback(self._landed)

    def _take(self) -> list[tuple[str, float, Future]]:
        """Return the next texts that can be answered in time, and refuse those that cannot.

        A batch is only as large as the model can answer well before the deadline. A call whose callers have gone by the time
        it returns makes the next calls late too, and then nobody is answered. Texts that will be late are tried only where
        nothing else waits.
        """
        batch: list[tuple[str, float, Future]] = []
        late: list[tuple[str, float, Future]] = []
        now = self._clock()
        size = self._batch_size(now)
        until = now + MARGIN * self._text_s * min(size, len(self._waiting))
        while self._waiting and len(batch) < size:
            text, deadline, future = self._waiting.popleft()
            if future.done():  # its caller has gone
                continue
            if deadline <= now:
                future.set_exception(OverloadedError("it waited too long"))
            else:
                (late if deadline < until else batch).append((text, deadline, future))
        if not batch:
            self._waiting.extendleft(reversed(late[:-size]))
            return late[-size:]  # those with the most time left
        for _, _, future in late:
            future.set_exception(OverloadedError("it waited too long"))
        return batch

    def _batch_size(self, now: float) -> int:
        if not self._text_s:
            return self._limits.batch
        left_s = self._waiting[-1][1] - now
        return max(1, min(self._limits.batch, int(SHARE * left_s / (MARGIN * self._text_s))))

    def _landed(self, task: asyncio.Task[None]) -> None:
        self._flying.discard(task)
        self._pump()

    async def _call(self, batch: list[tuple[str, float, Future]]) -> None:
        begun = self._clock()
        left_s = max(deadline for _, deadline, _ in batch) - begun
        try:
            answers = await self.ask([text for text, _, _ in batch], left_s)
            found = split(answers, self.labels)
        except Exception as error:  # whatever happened, every caller gets an end
            if self._clock() - begun >= left_s:  # too slow: it takes at least so long
                self._text_s = max(self._text_s, left_s / len(batch))
            known = error if isinstance(error, TritonError) else TritonError(repr(error))
            for _, _, future in batch:
                if not future.done():
                    future.set_exception(known)
            return
        text_s = (self._clock() - begun) / len(batch)
        self._text_s += (SMOOTHED if self._text_s else 1.0) * (text_s - self._text_s)
        for (_, _, future), answer in zip(batch, found, strict=True):
            if not future.done():
                future.set_result(answer)


def split(answers: Answers, labels: Sequence[str]) -> list[Answer]:
    """A record for each text; raises `ValueError` when answers and schema do not belong together."""
    probabilities = answers.probabilities
    if probabilities.shape[1] != len(labels):
        raise ValueError(f"{probabilities.shape[1]} probabilities for {len(labels)} labels")
    order = probabilities.argsort(axis=1)
    halves = probabilities.astype(np.float16)
    rows = zip(answers.labels, probabilities, halves, order, answers.pieces, answers.pieces_per_word, answers.sketch, strict=True)
    return [
        Answer(
            label,
            float(own[ranked[-1]]),
            labels[ranked[-2]] if len(labels) > 1 else None,
            int(pieces),
            float(per_word),
            sketch.tobytes(),
            half.tobytes(),
        )
        for label, own, half, ranked, pieces, per_word, sketch in rows
    ]
