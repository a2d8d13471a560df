"""From texts to predictions: routing, response cache, single flight, batch queue, shadow copy, prediction log.

Belongs to one event loop; knows neither HTTP nor SQL.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from pipeline.abstention import NEVER, Abstention
from pipeline.params import Gateway
from pipeline.runtime.outputs import ModelOutputs
from serving.gateway.batch_queue import BatchQueue, Limits, OverloadedError
from serving.gateway.metrics import Metrics
from serving.gateway.response_cache import ResponseCache
from serving.prediction import ModelOutput, Prediction, Role
from serving.prediction_ids import PredictionIds
from serving.prediction_log.writer import PredictionLog
from serving.release.manifest import model_name
from serving.release.routing import NO_ROUTES, Routes, choose_version, is_shadowed
from serving.triton.client import BATCH_TEXTS, Connection, UnknownModelError

SHADOW_BATCH_TEXTS = 8  # small calls: they share the cores with the champion's


class NothingServedError(Exception):
    """No version has been published yet."""


class NotServedError(Exception):
    """The requested version takes no traffic."""


class Query(NamedTuple):
    """Texts of one caller, already cleaned, and what decides their version."""

    request_id: str  # or the id of a job
    key: str  # chooses the version for texts without a unit
    texts: Sequence[str]
    unit: str | None  # sticky key
    version: int | None  # None: routing chooses


class Predictor:
    """Answers queries. `reread` returns the newest routes when Triton does not know a model."""

    def __init__(
        self,
        triton: Connection,
        settings: Gateway,
        log: PredictionLog,
        metrics: Metrics,
        ids: PredictionIds,
        reread: Callable[[], Awaitable[Routes]],
    ) -> None:
        self.routes = NO_ROUTES
        self._triton, self._settings, self._log, self._metrics = triton, settings, log, metrics
        self._ids, self._reread = ids, reread
        self.cache = ResponseCache(settings.cache_bytes, settings.cache_ttl_s)
        self._in_flight: dict[tuple[int, str], asyncio.Future[ModelOutput]] = {}
        self._queues: dict[int, BatchQueue] = {}
        self._shadow_queues: dict[int, BatchQueue] = {}
        self._abstentions: dict[int, Abstention] = {}  # of every version ever asked: an answer may come after its queue has gone

    @property
    def waiting(self) -> int:
        """Texts that wait for Triton."""
        return sum(queue.waiting for queue in self._queues.values())

    def labels(self, version: int | None = None) -> Sequence[str]:
        """Return the labels of a version, by default the champion's; empty until Triton has returned them."""
        queue = self._queues.get(version or self.routes.champion or -1)
        return queue.labels if queue else ()

    def fallback(self, version: int) -> str:
        """Return the label that a version's callers get where it abstains; empty for null."""
        return self._abstentions.get(version, NEVER).fallback

    async def follow(self, routes: Routes) -> None:
        """Adopt new routes: open a queue for each version that they name, drop idle queues of other versions."""
        for version in routes.served:
            await self._queue(version)
        self.routes = routes
        for queues in (self._queues, self._shadow_queues):
            for version in [v for v, queue in queues.items() if v not in routes.served and queue.is_idle]:
                del queues[version]

    def group(self, keys: Sequence[str]) -> list[list[int]]:
        """Return the positions of keys that choose the same version, a list for each version."""
        groups: dict[object, list[int]] = {}
        for number, key in enumerate(keys):
            groups.setdefault(choose_version(self.routes, key), []).append(number)
        return list(groups.values())

    async def predict(self, query: Query, wait_s: float) -> list[Prediction]:
        """Return one prediction for each text, in order.

        Raises `NothingServedError`, `NotServedError`, `OverloadedError`, `TritonError`.
        """
        begun = time.perf_counter()
        version, role = self._route(query)
        try:
            outputs = await self._infer(version, query.texts, wait_s)
        except UnknownModelError:  # a swap has just unloaded it, and this process has not read the new routes yet
            await self.follow(await self._reread())
            old, (version, role) = version, self._route(query)
            if version == old:
                raise
            outputs = await self._infer(version, query.texts, wait_s)
        now, latency_ms = time.time(), 1000 * (time.perf_counter() - begun)
        ids = self._ids.issue(now, version, len(query.texts))
        abstention = self._abstentions.get(version, NEVER)
        predictions = [
            Prediction(
                time=now,
                request_id=query.request_id,
                id=id,
                unit=query.unit,
                text=text,
                text_hash=None,
                pieces=output.pieces,
                pieces_per_word=output.pieces_per_word,
                version=version,
                role=role,
                label=output.label,
                confidence=output.confidence,
                runner_up=output.runner_up,
                sketch=output.sketch,
                probabilities=output.probabilities,
                latency_ms=latency_ms,
                cache_hit=is_cached,
                abstained=abstention.is_unsure(output.confidence),
            )
            for id, text, (output, is_cached) in zip(ids, query.texts, outputs, strict=True)
        ]
        for text, prediction in zip(query.texts, predictions, strict=True):
            self._record(prediction)
            if role == "champion" and is_shadowed(self.routes, prediction.id):
                self._shadow(text, prediction)
        return predictions

    def _route(self, query: Query) -> tuple[int, Role]:
        if query.version is not None:
            if query.version not in self.routes.served:
                served = ", ".join(map(str, sorted(self.routes.served))) or "none"
                raise NotServedError(f"version {query.version} is not served; served: {served}")
            return query.version, "champion" if query.version == self.routes.champion else "challenger"
        chosen = choose_version(self.routes, query.unit or query.key)
        if chosen is None:
            raise NothingServedError
        return chosen

    async def _infer(self, version: int, texts: Sequence[str], wait_s: float) -> list[tuple[ModelOutput, bool]]:
        """Return the version's output for each text, and whether the cache had it."""
        queue = await self._queue(version)
        deadline = asyncio.get_running_loop().time() + wait_s
        if not queue.has_capacity(len(texts)):
            raise OverloadedError("too many texts are waiting")
        outputs = []
        for output in [self._begin(queue, version, text, deadline) for text in texts]:
            is_cached = isinstance(output, ModelOutput)
            # shielded: others may be waiting for the same text when this caller disconnects
            outputs.append((output if isinstance(output, ModelOutput) else await asyncio.shield(output), is_cached))
        return outputs

    def _begin(self, queue: BatchQueue, version: int, text: str, deadline: float) -> ModelOutput | asyncio.Future[ModelOutput]:
        """Return the cached output, or the future of the one call that all who wait for this text share."""
        key = (version, text)
        if cached := self.cache.get(version, text):
            return cached
        future = self._in_flight.get(key)
        if future is None:
            future = self._in_flight[key] = queue.submit(text, deadline)
            future.add_done_callback(lambda done: self._cache_output(key, done))
        return future

    def _cache_output(self, key: tuple[int, str], future: asyncio.Future[ModelOutput]) -> None:
        del self._in_flight[key]
        if not future.cancelled() and future.exception() is None:
            self.cache.put(*key, future.result())

    async def _queue(self, version: int) -> BatchQueue:
        queue = self._queues.get(version)
        if queue is None:
            limits = Limits(self._settings.in_flight, self._settings.max_waiting_texts, BATCH_TEXTS)
            queue = self._queues[version] = await self._open_queue(version, limits)
        return queue

    async def _open_queue(self, version: int, limits: Limits) -> BatchQueue:
        model = model_name(version)

        async def infer(texts: Sequence[str], left_s: float) -> ModelOutputs:
            with self._metrics.triton_call(version, len(texts)):
                return await self._triton.infer(model, texts, left_s)

        schema = await self._triton.schema(model)
        self._abstentions[version] = schema.abstention
        if schema.abstention.expected_share is not None:
            self._metrics.expect_abstentions(version, schema.abstention.expected_share)
        return BatchQueue(infer, schema.labels, limits, asyncio.get_running_loop().time)

    def _record(self, prediction: Prediction) -> None:
        """Count and log a prediction; never waits."""
        self._metrics.count_prediction(prediction.version, prediction.role, prediction.cache_hit, prediction.latency_ms)
        if prediction.abstained:
            self._metrics.count_abstention(prediction.version, prediction.role)
        self._log.add(prediction)

    def _shadow(self, text: str, original: Prediction) -> None:
        """Send the text to the challenger too, through a short queue of its own; what does not fit is dropped and counted."""
        version = self.routes.challenger
        main = self._queues.get(version or -1)
        if version is None or main is None:
            return
        queue = self._shadow_queues.get(version)
        if queue is None:
            limits = Limits(1, self._settings.shadow_waiting_texts, SHADOW_BATCH_TEXTS)
            queue = BatchQueue(main.infer, main.labels, limits, asyncio.get_running_loop().time)
            self._shadow_queues[version] = queue
        begun = time.perf_counter()

        def record_copy(future: asyncio.Future[ModelOutput]) -> None:
            if future.cancelled() or future.exception() is not None:
                self._metrics.count_shadow_drop("failed")
                return
            latency_ms = 1000 * (time.perf_counter() - begun)
            output = future.result()
            is_unsure = self._abstentions.get(version, NEVER).is_unsure(output.confidence)
            copy = original._replace(**output._asdict(), abstained=is_unsure)
            self._record(copy._replace(time=time.time(), version=version, role="shadow", latency_ms=latency_ms, cache_hit=False))

        try:
            deadline = asyncio.get_running_loop().time() + self._settings.deadline_ms / 1000
            queue.submit(text, deadline).add_done_callback(record_copy)
        except OverloadedError:
            self._metrics.count_shadow_drop("full")
