"""From a text to a prediction: route, response cache, single flight, lane to Triton, shadow copy, prediction log.

Belongs to one event loop; knows neither HTTP nor SQL.
"""

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Literal, NamedTuple

from cachetools import TTLCache

from pipeline.params import Gateway
from serving.gateway.batch_queue import Answer, Lane, Limits, OverloadedError
from serving.gateway.metrics import Metrics
from serving.prediction_log.segments import Row
from serving.prediction_log.writer import PredictionLog
from serving.release.manifest import model_name
from serving.release.routing import NO_ROUTES, Routes, choose_version, is_shadowed
from serving.triton.client import BATCH_TEXTS, Answers, Connection, UnknownModelError

LoggedRole = Literal["champion", "challenger", "shadow"]


class NothingServedError(Exception):
    """No version has been published yet."""


class NotServedError(Exception):
    """The version that was asked for takes no traffic."""


class Asked(NamedTuple):
    """Texts of one caller, already cleaned."""

    request_id: str
    texts: Sequence[str]
    unit: str | None  # sticky key
    version: int | None  # None: routing chooses


class Prediction(NamedTuple):
    """What a caller gets for a text; `id` is what feedback refers to."""

    id: str
    version: int
    role: LoggedRole
    cached: bool
    answer: Answer


class Answering:
    """Everything between a request and Triton. `reread` brings the newest routes when Triton does not know a model."""

    def __init__(
        self,
        triton: Connection,
        settings: Gateway,
        log: PredictionLog,
        metrics: Metrics,
        reread: Callable[[], Awaitable[Routes]],
    ) -> None:
        self.routes = NO_ROUTES
        self._triton, self._settings, self._log, self._metrics, self._reread = triton, settings, log, metrics, reread
        self._cache: TTLCache[tuple[int, str], Answer] = TTLCache(max(1, settings.cache_entries), settings.cache_ttl_s)
        self._flights: dict[tuple[int, str], asyncio.Future[Answer]] = {}
        self._lanes: dict[int, Lane] = {}
        self._shadows: dict[int, Lane] = {}

    @property
    def waiting(self) -> int:
        """Texts that wait for Triton."""
        return sum(lane.waiting for lane in self._lanes.values())

    @property
    def cached(self) -> int:
        """Answers in the response cache."""
        return len(self._cache)

    def schema(self) -> Sequence[str]:
        """The champion's labels; empty while it has not been asked yet."""
        lane = self._lanes.get(self.routes.champion or -1)
        return lane.labels if lane else ()

    async def follow(self, routes: Routes) -> None:
        """Take over new routes, with a lane ready for each version that they name; lanes that nobody uses any more go."""
        for version in routes.served:
            await self._lane(version)
        self.routes = routes
        for lanes in (self._lanes, self._shadows):
            for version in [v for v, lane in lanes.items() if v not in routes.served and lane.is_idle]:
                del lanes[version]

    async def predict(self, asked: Asked, wait_s: float) -> list[Prediction]:
        """One prediction a text, in order.

        Raises `NothingServedError`, `NotServedError`, `OverloadedError`, `TritonError`.
        """
        begun = time.perf_counter()
        version, role = self._route(asked)
        try:
            predictions = await self._answer_all(asked, version, role, wait_s)
        except UnknownModelError:  # a swap has just unloaded it: the routes have moved, and we had not heard yet
            await self.follow(await self._reread())
            moved, role = self._route(asked)
            if moved == version:
                raise
            predictions = await self._answer_all(asked, moved, role, wait_s)
        self._note(asked, predictions, 1000 * (time.perf_counter() - begun))
        return predictions

    def _route(self, asked: Asked) -> tuple[int, LoggedRole]:
        if asked.version is not None:
            if asked.version not in self.routes.served:
                served = ", ".join(map(str, sorted(self.routes.served))) or "none"
                raise NotServedError(f"version {asked.version} is not served; served: {served}")
            return asked.version, "champion" if asked.version == self.routes.champion else "challenger"
        chosen = choose_version(self.routes, asked.unit or asked.request_id)
        if chosen is None:
            raise NothingServedError
        return chosen

    async def _answer_all(self, asked: Asked, version: int, role: LoggedRole, wait_s: float) -> list[Prediction]:
        lane = await self._lane(version)
        stem = secrets.token_hex(12)
        deadline = asyncio.get_running_loop().time() + wait_s
        if not lane.has_room(len(asked.texts)):
            raise OverloadedError("too many texts are waiting")
        found = [self._begin(lane, version, text, deadline) for text in asked.texts]
        predictions = []
        for number, begun in enumerate(found):
            cached = isinstance(begun, Answer)
            # shielded: others may be waiting for the same text when this caller goes away
            answer = begun if isinstance(begun, Answer) else await asyncio.shield(begun)
            predictions.append(Prediction(f"{stem}-{number}", version, role, cached, answer))
        return predictions

    def _begin(self, lane: Lane, version: int, text: str, deadline: float) -> Answer | asyncio.Future[Answer]:
        """The answer that is known, or the future of the one call that will bring it to everybody who waits for it."""
        key = (version, text)
        if known := self._cache.get(key):
            return known
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = lane.submit(text, deadline)
            flight.add_done_callback(lambda done: self._landed(key, done))
        return flight

    def _landed(self, key: tuple[int, str], flight: asyncio.Future[Answer]) -> None:
        del self._flights[key]
        if not flight.cancelled() and flight.exception() is None and self._settings.cache_entries:
            self._cache[key] = flight.result()

    async def _lane(self, version: int) -> Lane:
        lane = self._lanes.get(version)
        if lane is None:
            limits = Limits(self._settings.in_flight, self._settings.max_waiting_texts, BATCH_TEXTS)
            lane = self._lanes[version] = await self._open(version, limits)
        return lane

    async def _open(self, version: int, limits: Limits) -> Lane:
        model = model_name(version)

        async def ask(texts: Sequence[str], left_s: float) -> Answers:
            with self._metrics.calls(version, len(texts)):
                return await self._triton.ask(model, texts, left_s)

        return Lane(ask, await self._triton.labels(model), limits, asyncio.get_running_loop().time)

    def _note(self, asked: Asked, predictions: list[Prediction], latency_ms: float) -> None:
        """Count, log and copy; nothing here waits."""
        now = time.time()
        for text, prediction in zip(asked.texts, predictions, strict=True):
            self._metrics.predicted(prediction.version, prediction.role, prediction.cached, latency_ms)
            self._log.add(_row(now, asked, text, prediction, prediction.role, latency_ms))
            if prediction.role == "champion" and is_shadowed(self.routes, prediction.id):
                self._copy(asked, text, prediction)

    def _copy(self, asked: Asked, text: str, original: Prediction) -> None:
        """Let the challenger answer the same text, on a lane of its own with little room; too much is dropped and counted."""
        version = self.routes.challenger
        main = self._lanes.get(version or -1)
        if version is None or main is None:
            return
        lane = self._shadows.get(version)
        if lane is None:
            limits = Limits(1, self._settings.shadow_waiting_texts, 8)
            lane = self._shadows[version] = Lane(main.ask, main.labels, limits, asyncio.get_running_loop().time)
        begun = time.perf_counter()

        def landed(done: asyncio.Future[Answer]) -> None:
            if done.cancelled() or done.exception() is not None:
                self._metrics.shadow_dropped("failed")
                return
            copy = Prediction(original.id, version, original.role, False, done.result())
            latency_ms = 1000 * (time.perf_counter() - begun)
            self._metrics.predicted(version, "shadow", False, latency_ms)
            self._log.add(_row(time.time(), asked, text, copy, "shadow", latency_ms))

        try:
            deadline = asyncio.get_running_loop().time() + self._settings.deadline_ms / 1000
            lane.submit(text, deadline).add_done_callback(landed)
        except OverloadedError:
            self._metrics.shadow_dropped("full")


def _row(now: float, asked: Asked, text: str, prediction: Prediction, role: LoggedRole, latency_ms: float) -> Row:
    answer = prediction.answer
    return Row(
        time=now,
        request_id=asked.request_id,
        id=prediction.id,
        unit=asked.unit,
        text=text,
        text_hash=None,
        pieces=answer.pieces,
        pieces_per_word=answer.pieces_per_word,
        version=prediction.version,
        role=role,
        label=answer.label,
        confidence=answer.confidence,
        runner_up=answer.runner_up,
        sketch=answer.sketch,
        probabilities=answer.probabilities,
        latency_ms=latency_ms,
        cache_hit=prediction.cached,
    )
