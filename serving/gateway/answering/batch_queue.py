"""A queue in front of one Triton model: texts wait here, bounded and with deadlines, and share the next call.

No timer delays a text: it is sent at once while fewer than `in_flight` calls run, otherwise with the next call, together with
every text that has arrived by then.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, NamedTuple

from pipeline.runtime.outputs import ModelOutputs
from serving.prediction import ModelOutput, split_outputs
from serving.triton.client import ModelFailedError, TritonError


class OverloadedError(Exception):
    """The queue is full, or the text cannot be answered before its deadline."""


class Limits(NamedTuple):
    """Bounds of a queue."""

    in_flight: int  # calls at a time
    waiting: int  # texts
    batch: int  # texts in one call


LAST_CALL_WEIGHT = 0.2  # in the estimated time of a text
DEADLINE_SHARE = 0.5  # of the time left to the newest waiting text, for one call
SAFETY_MARGIN = 1.5  # a call is begun for texts that have this many times its estimated time left
Infer = Callable[[Sequence[str], float], Coroutine[Any, Any, ModelOutputs]]  # texts, seconds left → outputs
Future = asyncio.Future[ModelOutput]


class Waiting(NamedTuple):
    """A text in the queue."""

    text: str
    deadline: float  # on the queue's clock
    future: Future


class BatchQueue:
    """Texts to one model; belongs to one event loop, whose clock `clock` is."""

    def __init__(self, infer: Infer, labels: Sequence[str], limits: Limits, clock: Callable[[], float]) -> None:
        self.infer, self.labels = infer, labels
        self._limits, self._clock = limits, clock
        self._waiting: deque[Waiting] = deque()
        self._calls: set[asyncio.Task[None]] = set()
        self._is_scheduled = False
        self._text_s = 0.0  # estimated seconds of a call for each of its texts

    @property
    def waiting(self) -> int:
        """Texts not sent yet."""
        return len(self._waiting)

    @property
    def is_idle(self) -> bool:
        """True while no text waits and no call runs."""
        return not self._waiting and not self._calls

    def has_capacity(self, texts: int) -> bool:
        """Return whether this many more texts would be accepted."""
        return len(self._waiting) + texts <= self._limits.waiting

    def submit(self, text: str, deadline: float) -> Future:
        """Queue a text; the future ends with an output, `TritonError` or `OverloadedError`. A full queue raises the latter."""
        if not self.has_capacity(1):
            raise OverloadedError("too many texts are waiting")
        loop = asyncio.get_running_loop()
        future: Future = loop.create_future()
        self._waiting.append(Waiting(text, deadline, future))
        if not self._is_scheduled:  # texts that arrive in the same turn of the event loop share a call
            self._is_scheduled = True
            loop.call_soon(self._send)
        return future

    def _send(self) -> None:
        self._is_scheduled = False
        while self._waiting and len(self._calls) < self._limits.in_flight:
            batch = self._next_batch()
            if batch:
                task = asyncio.create_task(self._call(batch))
                self._calls.add(task)
                task.add_done_callback(self._call_ended)

    def _next_batch(self) -> list[Waiting]:
        """Remove the next texts that can be answered in time; the others fail at once.

        A batch is only as large as the model can answer well before the deadline. A call whose callers have given up by the time
        it returns makes the next calls late too, and then no caller is answered. Texts that will be late are sent only when
        nothing else waits.
        """
        batch: list[Waiting] = []
        late: list[Waiting] = []
        now = self._clock()
        size = self._batch_size(now)
        until = now + SAFETY_MARGIN * self._text_s * min(size, len(self._waiting))
        while self._waiting and len(batch) < size:
            entry = self._waiting.popleft()
            if entry.future.done():  # its caller has disconnected
                continue
            if entry.deadline <= now:
                entry.future.set_exception(OverloadedError("it waited too long"))
            else:
                (late if entry.deadline < until else batch).append(entry)
        if not batch:
            self._waiting.extendleft(reversed(late[:-size]))
            return late[-size:]  # those with the most time left
        for entry in late:
            entry.future.set_exception(OverloadedError("it waited too long"))
        return batch

    def _batch_size(self, now: float) -> int:
        if not self._text_s:
            return self._limits.batch
        left_s = self._waiting[-1].deadline - now
        return max(1, min(self._limits.batch, int(DEADLINE_SHARE * left_s / (SAFETY_MARGIN * self._text_s))))

    def _call_ended(self, task: asyncio.Task[None]) -> None:
        self._calls.discard(task)
        self._send()

    async def _call(self, batch: list[Waiting]) -> None:
        begun = self._clock()
        left_s = max(entry.deadline for entry in batch) - begun
        try:
            outputs = split_outputs(await self.infer([entry.text for entry in batch], left_s), self.labels)
        except Exception as error:  # every caller gets an end, whatever failed
            if isinstance(error, ModelFailedError) and len(batch) > 1:  # one text may be the cause: the others get their answers
                middle = len(batch) // 2
                await self._call(batch[:middle])
                await self._call(batch[middle:])
                return
            if self._clock() - begun >= left_s:  # too slow: it takes at least this long
                self._text_s = max(self._text_s, left_s / len(batch))
            known = error if isinstance(error, TritonError) else TritonError(repr(error))
            for entry in batch:
                if not entry.future.done():
                    entry.future.set_exception(known)
            return
        text_s = (self._clock() - begun) / len(batch)
        self._text_s += (LAST_CALL_WEIGHT if self._text_s else 1.0) * (text_s - self._text_s)
        for entry, output in zip(batch, outputs, strict=True):
            if not entry.future.done():
                entry.future.set_result(output)


def finished(output: ModelOutput | Future) -> ModelOutput | BaseException | None:
    """Return the output, or the end of its future: the output or the error; None while there is none."""
    if isinstance(output, ModelOutput):
        return output
    if not output.done() or output.cancelled():
        return None
    return output.exception() or output.result()
