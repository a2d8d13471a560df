"""A batch queue under more load than its model can take, on a simulated clock: no test sleeps."""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

import numpy as np
import pytest

from pipeline.runtime.outputs import ModelOutputs
from serving.gateway.answering.batch_queue import BatchQueue, Limits, OverloadedError
from serving.prediction import ModelOutput
from serving.triton.client import ModelFailedError, TritonError

DEADLINE_S, SERVICE_S, BATCH = 0.5, 0.02, 8  # a call of any size takes 20 ms: 400 texts/s


class SimulatedLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps instead of sleeping."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        select = self._selector.select  # type: ignore[attr-defined]

        def jump(timeout: float | None) -> Any:
            self.now += timeout or 0.0
            return select(0)

        self._selector.select = jump  # type: ignore[attr-defined]

    def time(self) -> float:
        return self.now


def simulate(run: Coroutine[Any, Any, Any]) -> Any:
    loop = SimulatedLoop()
    try:
        return loop.run_until_complete(run)
    finally:
        loop.close()


class Model:
    """Answers one call after the other, each in `service_s`."""

    def __init__(self) -> None:
        self.lock, self.service_s = asyncio.Lock(), SERVICE_S

    async def infer(self, texts: Sequence[str], left_s: float) -> ModelOutputs:
        try:
            async with asyncio.timeout(left_s), self.lock:
                await asyncio.sleep(self.service_s)
        except TimeoutError:
            raise TritonError("no answer in time") from None
        return outputs_for(texts)


class SlowModel:
    """Needs `text_s` for each text on two instances, and finishes calls whose callers have given up, as Triton does."""

    def __init__(self, text_s: float) -> None:
        self.text_s = text_s
        self.free_at_s = [0.0, 0.0]

    async def infer(self, texts: Sequence[str], left_s: float) -> ModelOutputs:
        now = asyncio.get_running_loop().time()
        instance = int(np.argmin(self.free_at_s))
        self.free_at_s[instance] = max(now, self.free_at_s[instance]) + len(texts) * self.text_s
        takes_s = self.free_at_s[instance] - now
        await asyncio.sleep(min(takes_s, left_s))
        if takes_s > left_s:
            raise TritonError("no answer in time")
        return outputs_for(texts)


def outputs_for(texts: Sequence[str]) -> ModelOutputs:
    ones = np.ones(len(texts), dtype=np.float32)
    shares = np.tile(np.array([[0.75, 0.25]], dtype=np.float32), (len(texts), 1))
    return ModelOutputs(["a"] * len(texts), shares, np.zeros((len(texts), 2), dtype=np.float16), ones.astype(np.int32), ones)


def batch_queue(model: Model | SlowModel) -> BatchQueue:
    return BatchQueue(model.infer, ["a", "b"], Limits(in_flight=2, waiting=512, batch=BATCH), asyncio.get_running_loop().time)


async def flood(
    model: Model | SlowModel, queue: BatchQueue, per_s: float, seconds: float, slow: tuple[float, float] = (0.0, 0.0)
) -> list[float]:
    """Submit texts at an even rate; return when each answer in time came back, in seconds from the beginning.

    A `Model` is four times slower during `slow`.
    """
    loop, begun, answered_s = asyncio.get_running_loop(), asyncio.get_running_loop().time(), list[float]()

    async def submit() -> None:
        deadline = loop.time() + DEADLINE_S
        try:
            async with asyncio.timeout_at(deadline):
                output = await queue.submit("where is my parcel?", deadline)
        except (TimeoutError, OverloadedError, TritonError):
            return
        assert isinstance(output, ModelOutput)
        answered_s.append(loop.time() - begun)

    tasks = []
    for number in range(int(per_s * seconds)):
        await asyncio.sleep(max(0.0, begun + number / per_s - loop.time()))
        model.service_s = SERVICE_S * (4 if slow[0] <= loop.time() - begun < slow[1] else 1)
        tasks.append(asyncio.create_task(submit()))
    await asyncio.gather(*tasks)
    return answered_s


@pytest.mark.parametrize("times", [2, 3, 10])
def test_the_models_whole_capacity_goes_to_callers_who_still_wait(times: int) -> None:
    async def run() -> list[float]:
        model = Model()
        return await flood(model, batch_queue(model), times * BATCH / SERVICE_S, 6.0)

    answered_s = simulate(run())
    assert len(answered_s) >= 0.9 * 6.0 * BATCH / SERVICE_S
    per_half_second = np.histogram(answered_s, bins=np.arange(0.5, 6.1, 0.5))[0]
    assert per_half_second.min() >= 0.8 * 0.5 * BATCH / SERVICE_S  # no half second without answers


def test_a_model_that_was_slow_is_used_in_full_again_at_once() -> None:
    async def run() -> list[float]:
        model = Model()
        return await flood(model, batch_queue(model), 3 * BATCH / SERVICE_S, 8.0, slow=(2.0, 4.0))

    answered_s = simulate(run())
    assert sum(4.5 <= at_s < 8.0 for at_s in answered_s) >= 0.9 * 3.5 * BATCH / SERVICE_S


def test_a_single_text_is_sent_however_slow_the_last_calls_were() -> None:
    async def run() -> int:
        model = Model()
        queue = batch_queue(model)
        model.service_s = 10 * DEADLINE_S
        answered = 0
        for _ in range(30):
            answered += len(await flood(model, queue, 1.0, 1.0, slow=(0.0, 0.0)))
        return answered

    assert simulate(run()) > 0


@pytest.mark.parametrize("text_s", [DEADLINE_S / 16, DEADLINE_S / 4, 0.6 * DEADLINE_S])
@pytest.mark.parametrize("times", [1, 3, 10])
def test_a_model_too_slow_for_a_whole_batch_within_the_deadline_gets_smaller_ones(times: int, text_s: float) -> None:
    capacity_per_s = 2 / text_s

    async def run() -> list[float]:
        model = SlowModel(text_s)
        return await flood(model, batch_queue(model), times * capacity_per_s, 200 * text_s)

    assert len(simulate(run())) >= 0.8 * 200 * text_s * capacity_per_s


def test_a_text_on_which_the_model_fails_fails_alone() -> None:
    calls: list[list[str]] = []

    async def infer(texts: Sequence[str], left_s: float) -> ModelOutputs:
        calls.append(list(texts))
        if "bad" in texts:
            raise ModelFailedError("the model failed: IndexError()")
        return outputs_for(texts)

    async def ask() -> list[Any]:
        loop = asyncio.get_running_loop()
        queue = BatchQueue(infer, ("a", "b"), Limits(1, 16, 16), loop.time)
        futures = [queue.submit(text, loop.time() + 60) for text in ("one", "two", "bad", "three", "four")]
        return await asyncio.gather(*futures, return_exceptions=True)

    answers = asyncio.run(ask())
    assert [isinstance(answer, ModelFailedError) for answer in answers] == [False, False, True, False, False]
    assert calls[0] == ["one", "two", "bad", "three", "four"]
    assert ["bad"] in calls
