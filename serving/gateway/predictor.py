"""From texts to predictions: routing, response cache, single flight, batch queue, shadow copy, prediction log.

A text that the challenger does not answer is answered by the champion. Belongs to one event loop; knows neither HTTP nor SQL.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

from pipeline.abstention import NEVER, Abstention
from pipeline.params import Gateway
from pipeline.runtime.outputs import ModelOutputs
from serving.arm_counter import ArmCounter, Outcome
from serving.gateway.answering.batch_queue import BatchQueue, Limits, OverloadedError, finished
from serving.gateway.answering.query import Destination, GivenAnswer, NothingServedError, NotServedError, Query
from serving.gateway.answering.response_cache import ResponseCache
from serving.gateway.answering.shadow_copies import ShadowCopies
from serving.gateway.metrics import Metrics
from serving.prediction import ModelOutput, Prediction, Role
from serving.prediction_ids import PredictionIds
from serving.prediction_log.writer import PredictionLog
from serving.release.manifest import model_name
from serving.release.routing import NO_ROUTES, Routes, choose_arm, is_shadowed
from serving.triton.client import BATCH_TEXTS, Connection, TritonError, UnknownModelError

CHALLENGER_SHARE = 0.5  # of the time that a text may wait; in the rest the champion answers in the challenger's place


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
        self.arms = ArmCounter(metrics.count_arm)
        self.shadows = ShadowCopies(settings, metrics.count_shadow_drop, self.arms, self._record, self._is_unsure)
        self._in_flight: dict[tuple[int, str], asyncio.Future[ModelOutput]] = {}
        self._queues: dict[int, BatchQueue] = {}
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

    @property
    def lacks_queue(self) -> bool:
        """True while a version that gets traffic could not be asked for its labels: it is asked again."""
        return not self.routes.served <= self._queues.keys()

    async def follow(self, routes: Routes) -> None:
        """Adopt new routes: open a queue for each version that they name, drop idle queues of other versions.

        Raises when the champion is not ready. A challenger that is not keeps no routes from being adopted.
        """
        for version in routes.served:
            try:
                await self._queue(version)
            except TritonError:
                if version == routes.champion:
                    raise
                self._metrics.count_error("challenger")
        self.routes = routes
        for queues in (self._queues, self.shadows.queues):
            for version in [v for v, queue in queues.items() if v not in routes.served and queue.is_idle]:
                del queues[version]

    def group(self, keys: Sequence[str]) -> list[list[int]]:
        """Return the positions of keys that choose the same version, a list for each version."""
        groups: dict[object, list[int]] = {}
        for number, key in enumerate(keys):
            groups.setdefault(choose_arm(self.routes, key), []).append(number)
        return list(groups.values())

    async def predict(self, query: Query, wait_s: float) -> list[Prediction]:
        """Return one prediction for each text, in order.

        Raises `NothingServedError`, `NotServedError`, `OverloadedError`, `TritonError`.
        """
        begun = time.perf_counter()
        to, routes = self._route(query), self.routes
        try:
            answers = await self._answer(to, routes, query.texts, wait_s)
        except UnknownModelError:  # a swap has just unloaded it, and this process has not read the new routes yet
            await self.follow(await self._reread())
            old, to, routes = to, self._route(query), self.routes
            if to.version == old.version and to.arm != "challenger":
                raise
            answers = await self._answer(to, routes, query.texts, wait_s, is_known=to.version != old.version)
        now, latency_ms = time.time(), 1000 * (time.perf_counter() - begun)
        was_in_time = latency_ms <= 1000 * CHALLENGER_SHARE * wait_s and all(answer.version == to.version for answer in answers)
        if to.arm and was_in_time and not all(answer.is_cached for answer in answers):
            self.arms.time(routes.salt, to.arm, latency_ms)
        ids = self._ids.issue_each(now, [answer.version for answer in answers])
        predictions = [
            self._prediction(query, text, id, answer, to.role if answer.version == to.version else "champion", now, latency_ms)
            for text, id, answer in zip(query.texts, ids, answers, strict=True)
        ]
        for text, prediction in zip(query.texts, predictions, strict=True):
            self._record(prediction)
            if to.role == "champion" and is_shadowed(self.routes, prediction.id):
                self.shadows.send(text, prediction, self.routes, self._queues.get(self.routes.challenger or -1))
        return predictions

    def _prediction(
        self, query: Query, text: str, id: str, answer: GivenAnswer, role: Role, now: float, latency_ms: float
    ) -> Prediction:
        return Prediction(
            time=now,
            request_id=query.request_id,
            id=id,
            unit=query.unit,
            text=text,
            text_hash=None,
            version=answer.version,
            role=role,
            latency_ms=latency_ms,
            cache_hit=answer.is_cached,
            abstained=self._is_unsure(answer.version, answer.output.confidence),
            **answer.output._asdict(),
        )

    def _route(self, query: Query) -> Destination:
        routes = self.routes
        if query.version is not None:
            if query.version not in routes.served:
                served = ", ".join(map(str, sorted(routes.served))) or "none"
                raise NotServedError(f"version {query.version} is not served; served: {served}")
            return Destination(query.version, "champion" if query.version == routes.champion else "challenger", None)
        chosen = choose_arm(routes, query.unit or query.key)
        if chosen is None:
            raise NothingServedError
        role: Role = "challenger" if chosen.arm == "challenger" else "champion"
        return Destination(chosen.version, role, chosen.arm if routes.challenger in routes.served else None)

    async def _answer(
        self, to: Destination, routes: Routes, texts: Sequence[str], wait_s: float, *, is_known: bool = True
    ) -> list[GivenAnswer]:
        """Return an answer for each text, the champion's where the challenger has none; counts those of an arm.

        The champion's arms fail as the challenger's does: also by an answer for which nobody would have waited there.
        """
        if to.arm == "challenger":
            return await self._answer_or_stand_in(to.version, routes, texts, wait_s, is_known=is_known)
        begun = time.perf_counter()
        outcome: Outcome | None = "failed"
        try:
            answers = await self._infer(to.version, texts, wait_s)
            outcome = "answered" if time.perf_counter() - begun <= CHALLENGER_SHARE * wait_s else "failed"
        except UnknownModelError:  # it is asked elsewhere
            outcome = None
            raise
        finally:
            if to.arm and outcome:
                self.arms.count(routes.salt, to.arm, outcome, len(texts))
        if to.arm:
            self.arms.count(routes.salt, to.arm, "broken", sum(answer.output.is_broken for answer in answers))
        return answers

    async def _answer_or_stand_in(
        self, challenger: int, routes: Routes, texts: Sequence[str], wait_s: float, *, is_known: bool
    ) -> list[GivenAnswer]:
        """Return the challenger's answers, and the champion's where it fails or gives a broken one, all within `wait_s`."""
        until = asyncio.get_running_loop().time() + wait_s
        tried = await self._try(challenger, texts, wait_s) if is_known else [None] * len(texts)
        good = [None if answer is None or answer.output.is_broken else answer for answer in tried]
        self.arms.count(routes.salt, "challenger", "answered", sum(answer is not None for answer in tried))
        self.arms.count(routes.salt, "challenger", "failed", tried.count(None))
        self.arms.count(routes.salt, "challenger", "broken", good.count(None) - tried.count(None))
        open_texts = [text for text, answer in zip(texts, good, strict=True) if answer is None]
        if not open_texts or routes.champion is None:
            return [answer for answer in good if answer is not None]
        stand_ins = iter(await self._infer(routes.champion, open_texts, until - asyncio.get_running_loop().time()))
        return [next(stand_ins) if answer is None else answer for answer in good]

    async def _try(self, version: int, texts: Sequence[str], wait_s: float) -> list[GivenAnswer | None]:
        """Return the version's answer to each text, None where it gives none in its share of the time.

        Raises `UnknownModelError`.
        """
        loop = asyncio.get_running_loop()
        deadline, until = loop.time() + wait_s, loop.time() + CHALLENGER_SHARE * wait_s
        try:
            queue = await asyncio.wait_for(self._queue(version), until - loop.time())
        except UnknownModelError:
            raise
        except (TritonError, TimeoutError):
            return [None] * len(texts)
        if not queue.has_capacity(len(texts)):
            return [None] * len(texts)
        outputs = [self._begin(queue, version, text, deadline) for text in texts]
        if futures := {output for output in outputs if isinstance(output, asyncio.Future)}:
            await asyncio.wait(futures, timeout=until - loop.time())  # cancels none: others may be waiting for the same text
        given = [finished(output) for output in outputs]
        if any(isinstance(end, UnknownModelError) for end in given):
            raise UnknownModelError(model_name(version))
        return [
            GivenAnswer(end, isinstance(output, ModelOutput), version) if isinstance(end, ModelOutput) else None
            for output, end in zip(outputs, given, strict=True)
        ]

    async def _infer(self, version: int, texts: Sequence[str], wait_s: float) -> list[GivenAnswer]:
        """Return the version's output for each text."""
        queue = await self._queue(version)
        deadline = asyncio.get_running_loop().time() + wait_s
        if not queue.has_capacity(len(texts)):
            raise OverloadedError("too many texts are waiting")
        answers = []
        for output in [self._begin(queue, version, text, deadline) for text in texts]:
            is_cached = isinstance(output, ModelOutput)
            # shielded: others may be waiting for the same text when this caller disconnects
            answers.append(
                GivenAnswer(output if isinstance(output, ModelOutput) else await asyncio.shield(output), is_cached, version)
            )
        return answers

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
        if not future.cancelled() and future.exception() is None and not future.result().is_broken:
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

    def _is_unsure(self, version: int, confidence: float) -> bool:
        return self._abstentions.get(version, NEVER).is_unsure(confidence)

    def _record(self, prediction: Prediction) -> None:
        """Count and log a prediction; never waits."""
        self._metrics.count_prediction(prediction.version, prediction.role, prediction.cache_hit, prediction.latency_ms)
        if prediction.abstained:
            self._metrics.count_abstention(prediction.version, prediction.role)
        self._log.add(prediction)
