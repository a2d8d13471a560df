"""From rows to predicted rows, in order and a chunk at a time: however long a file is, few of its rows are in memory."""

import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from itertools import islice
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.abstention import UNSURE, Abstention
from serving.batch_prediction.input_rows import InputRow

if TYPE_CHECKING:
    from pipeline.runtime.classifier import Classifier

OFFLINE_CHUNK = 256  # texts: enough to fill packed runs, few enough to hold
REASONS_SHOWN = 5


class RowAnswer(NamedTuple):
    """The answer to one text; without a label, the reason.

    Where the model abstains, the reason is `unsure`, the label None or the fallback, and the rest as in any answer.
    """

    label: str | None
    confidence: float | None
    probabilities: Sequence[float]  # in the order of the model's labels; empty without a label
    version: int | None
    reason: str

    @property
    def is_failed(self) -> bool:
        """Return whether there is no answer at all."""
        return self.label is None and self.reason != UNSURE


class PredictedRow(NamedTuple):
    """A row with its answer."""

    row: InputRow
    answer: RowAnswer


class BatchModel(Protocol):
    """Answers chunks of texts; `predict` is called by `calls` threads at once, and raises only when no row can be answered."""

    @property
    def labels(self) -> Sequence[str]: ...
    @property
    def chunk(self) -> int: ...
    @property
    def calls(self) -> int: ...
    @property
    def is_remote(self) -> bool: ...  # a call may wait for minutes
    def predict(self, texts: Sequence[str]) -> list[RowAnswer]: ...


class OfflineModel:
    """A packaged model in this process."""

    chunk, calls, is_remote = OFFLINE_CHUNK, 1, False

    def __init__(self, classifier: "Classifier", version: int | None, abstention: Abstention) -> None:
        self.labels: Sequence[str] = classifier.labels
        self.busy_s = 0.0
        self._computing = threading.Lock()  # a session computes for one caller, on all cores
        self._classifier, self._version, self._abstention = classifier, version, abstention

    def predict(self, texts: Sequence[str]) -> list[RowAnswer]:
        """Return an answer for each text; where the engine fails on a chunk, it is halved until the bad text is alone."""
        if not texts:
            return []
        try:
            with self._computing:
                begun = time.perf_counter()
                outputs = self._classifier.predict(texts)
                self.busy_s += time.perf_counter() - begun
        except Exception as error:  # an engine may raise anything, and one text must not cost the others
            if len(texts) == 1:
                return [unanswered(f"the model failed: {type(error).__name__}: {error}".splitlines()[0][:200])]
            middle = len(texts) // 2
            return self.predict(texts[:middle]) + self.predict(texts[middle:])
        valid = np.isfinite(outputs.probabilities).all(axis=1)
        return [
            self._answer(label, shares) if is_valid else unanswered("the model returned no probabilities")
            for label, shares, is_valid in zip(outputs.labels, outputs.probabilities, valid, strict=True)
        ]

    def _answer(self, label: str, shares: NDArray[np.float32]) -> RowAnswer:
        confidence = float(shares.max())
        is_unsure = self._abstention.is_unsure(confidence)
        given = self._abstention.fallback or None if is_unsure else label
        return RowAnswer(given, confidence, shares.tolist(), self._version, UNSURE if is_unsure else "")


def predict_rows(rows: Iterable[InputRow], model: BatchModel) -> Iterator[list[PredictedRow]]:
    """Yield the predicted rows, chunk by chunk, in the order of the rows.

    At most `calls + 1` chunks are read and not yet yielded, so that the model computes while rows are read and written. A run
    that is stopped leaves the calls to a remote model behind.
    """
    waiting: deque[tuple[list[InputRow], Future[list[RowAnswer]]]] = deque()
    unread, callers = iter(rows), _Callers(model)
    try:
        while chunk := list(islice(unread, model.chunk)):
            waiting.append((chunk, callers.submit([row.text for row in chunk if row.text is not None])))
            if len(waiting) > model.calls:
                yield _joined(*waiting.popleft())
        while waiting:
            yield _joined(*waiting.popleft())
    finally:
        callers.stop(answers for _, answers in waiting)


class _Callers:
    """Threads that call the model, as many at once as it takes. At its end, Python waits for an executor's, and not for these."""

    def __init__(self, model: BatchModel) -> None:
        self._model = model
        self._calls: SimpleQueue[tuple[Future[list[RowAnswer]], list[str]] | None] = SimpleQueue()
        self._threads = [Thread(target=self._answer, name="predict", daemon=True) for _ in range(model.calls)]
        for thread in self._threads:
            thread.start()

    def submit(self, texts: list[str]) -> Future[list[RowAnswer]]:
        """Return the future answers to these texts."""
        answers: Future[list[RowAnswer]] = Future()
        self._calls.put((answers, texts))
        return answers

    def stop(self, unused: Iterable[Future[list[RowAnswer]]]) -> None:
        """End the threads after the calls that have begun; wait for those of a model in this process."""
        for answers in unused:
            answers.cancel()
        for _ in self._threads:
            self._calls.put(None)
        for thread in [] if self._model.is_remote else self._threads:
            thread.join()

    def _answer(self) -> None:
        while call := self._calls.get():
            answers, texts = call
            if answers.set_running_or_notify_cancel():
                try:
                    answers.set_result(self._model.predict(texts))
                except BaseException as error:  # raised again where the answers are read
                    answers.set_exception(error)


def _joined(chunk: list[InputRow], answers: Future[list[RowAnswer]]) -> list[PredictedRow]:
    """Return each row with its answer; the reason of a row without a label names its line."""
    answer = iter(answers.result())
    joined = []
    for row in chunk:
        given = unanswered(row.fault) if row.text is None else next(answer)
        joined.append(PredictedRow(row, given._replace(reason=f"line {row.line}: {given.reason}") if given.is_failed else given))
    return joined


def unanswered(reason: str) -> RowAnswer:
    """Return an answer without a label."""
    return RowAnswer(None, None, (), None, reason)


class Summary:
    """Counts rows, those that failed and those of which the model was unsure, and keeps the first reasons."""

    def __init__(self) -> None:
        self.rows = self.unlabelled = self.unsure = 0
        self.first_reasons: list[str] = []

    def add(self, predicted: Iterable[PredictedRow]) -> None:
        """Count the rows of a chunk."""
        for _, answer in predicted:
            self.rows += 1
            self.unsure += answer.reason == UNSURE
            if answer.is_failed:
                self.unlabelled += 1
                if len(self.first_reasons) < REASONS_SHOWN:
                    self.first_reasons.append(answer.reason)
