"""Send copies of the champion's texts to the challenger, through a short queue of its own. Nobody gets its answers."""

import asyncio
import time
from collections.abc import Callable

from pipeline.params import Gateway
from serving.arm_counter import ArmCounter
from serving.gateway.answering.batch_queue import BatchQueue, Limits, OverloadedError
from serving.prediction import ModelOutput, Prediction
from serving.release.routing import Routes

SHADOW_BATCH_TEXTS = 8  # small calls: they share the cores with the champion's


class ShadowCopies:
    """The queues of copies; belongs to one event loop. `record` gets each copy's answer as a prediction."""

    def __init__(
        self,
        settings: Gateway,
        count_drop: Callable[[str], None],
        arms: ArmCounter,
        record: Callable[[Prediction], None],
        is_unsure: Callable[[int, float], bool],
    ) -> None:
        self.queues: dict[int, BatchQueue] = {}
        self._settings, self._count_drop, self._arms = settings, count_drop, arms
        self._record, self._is_unsure = record, is_unsure

    def send(self, text: str, original: Prediction, routes: Routes, main: BatchQueue | None) -> None:
        """Send a text to the challenger, whose own queue is `main`; what does not fit is dropped and counted."""
        version = routes.challenger
        if version is None or main is None:
            self._count_drop("failed")
            return
        queue = self.queues.get(version)
        if queue is None:
            limits = Limits(1, self._settings.shadow_waiting_texts, SHADOW_BATCH_TEXTS)
            queue = self.queues[version] = BatchQueue(main.infer, main.labels, limits, asyncio.get_running_loop().time)
        begun = time.perf_counter()

        def record(future: asyncio.Future[ModelOutput]) -> None:
            if future.cancelled() or future.exception() is not None:
                self._count_drop("failed")
                self._arms.count(routes.salt, "shadow", "failed")
                return
            copy = original._replace(version=version, role="shadow", latency_ms=1000 * (time.perf_counter() - begun))
            self._record_answer(copy, future.result(), routes.salt)

        try:
            deadline = asyncio.get_running_loop().time() + self._settings.deadline_ms / 1000
            queue.submit(text, deadline).add_done_callback(record)
        except OverloadedError:
            self._count_drop("full")

    def _record_answer(self, copy: Prediction, output: ModelOutput, salt: str) -> None:
        """Record a copy's answer; a broken one as an empty label without confidence, which differs from every answer."""
        self._arms.count(salt, "shadow", "answered")
        self._arms.time(salt, "shadow", copy.latency_ms)
        if output.is_broken:
            self._arms.count(salt, "shadow", "broken")
            output = output._replace(label="", confidence=0.0)
        is_unsure = bool(output.label) and self._is_unsure(copy.version, output.confidence)
        self._record(copy._replace(**output._asdict(), time=time.time(), cache_hit=False, abstained=is_unsure))
