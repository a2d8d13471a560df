"""A lane under more load than its model can take, on a clock that only the event loop moves: nothing is waited for in earnest."""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

import numpy as np
import pytest

from serving.gateway.batch_queue import Answer, Lane, Limits, OverloadedError
from serving.triton.client import Answers, TritonError

DEADLINE_S, SERVICE_S, BATCH = 0.5, 0.02, 8  # a call of any size takes 20 ms: 400 texts/s


class QuickLoop(asyncio.SelectorEventLoop):
    """Where others sleep, its clock jumps."""

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


def in_quick_time(story: Coroutine[Any, Any, Any]) -> Any:
    loop = QuickLoop()
    try:
        return loop.run_until_complete(story)
    finally:
        loop.close()


class Model:
    """Answers one call after the other, each `service_s` after the one before; slow for a while, if asked to be."""

    def __init__(self) -> None:
        self.lock, self.service_s = asyncio.Lock(), SERVICE_S

    async def ask(self, texts: Sequence[str], left_s: float) -> Answers:
        try:
            async with asyncio.timeout(left_s), self.lock:
                await asyncio.sleep(self.service_s)
        except TimeoutError:
            raise TritonError("no answer in time") from None
        return answers_of(texts)


class SlowModel:
    """Takes its time for each text, on two instances, and works on a call that nobody waits for any more, as Triton does."""

    def __init__(self, text_s: float) -> None:
        self.text_s = text_s
        self.free_at_s = [0.0, 0.0]

    async def ask(self, texts: Sequence[str], left_s: float) -> Answers:
        now = asyncio.get_running_loop().time()
        instance = int(np.argmin(self.free_at_s))
        self.free_at_s[instance] = max(now, self.free_at_s[instance]) + len(texts) * self.text_s
        takes_s = self.free_at_s[instance] - now
        await asyncio.sleep(min(takes_s, left_s))
        if takes_s > left_s:
            raise TritonError("no answer in time")
        return answers_of(texts)


def answers_of(texts: Sequence[str]) -> Answers:
    one = np.ones(len(texts), dtype=np.float32)
    shares = np.tile(np.array([[0.75, 0.25]], dtype=np.float32), (len(texts), 1))
    return Answers(["a"] * len(texts), shares, np.zeros((len(texts), 2), dtype=np.float16), one.astype(np.int32), one)


def lane(model: Model | SlowModel) -> Lane:
    return Lane(model.ask, ["a", "b"], Limits(in_flight=2, waiting=512, batch=BATCH), asyncio.get_running_loop().time)


async def flood(
    model: Model | SlowModel, own: Lane, per_s: float, seconds: float, slow: tuple[float, float] = (0.0, 0.0)
) -> list[float]:
    """Texts at an even rate; when those came back that were answered in time, seconds from the beginning."""
    loop, begun, good = asyncio.get_running_loop(), asyncio.get_running_loop().time(), list[float]()

    async def one() -> None:
        deadline = loop.time() + DEADLINE_S
        try:
            async with asyncio.timeout_at(deadline):
                answer = await own.submit("where is my parcel?", deadline)
        except (TimeoutError, OverloadedError, TritonError):
            return
        assert isinstance(answer, Answer)
        good.append(loop.time() - begun)

    tasks = []
    for number in range(int(per_s * seconds)):
        await asyncio.sleep(max(0.0, begun + number / per_s - loop.time()))
        model.service_s = SERVICE_S * (4 if slow[0] <= loop.time() - begun < slow[1] else 1)
        tasks.append(asyncio.create_task(one()))
    await asyncio.gather(*tasks)
    return good


@pytest.mark.parametrize("times", [2, 3, 10])
def test_what_a_model_can_do_is_done_for_those_who_still_wait(times: int) -> None:
    async def story() -> list[float]:
        model = Model()
        return await flood(model, lane(model), times * BATCH / SERVICE_S, 6.0)

    good = in_quick_time(story())
    assert len(good) >= 0.9 * 6.0 * BATCH / SERVICE_S
    each = np.histogram(good, bins=np.arange(0.5, 6.1, 0.5))[0]
    assert each.min() >= 0.8 * 0.5 * BATCH / SERVICE_S  # there is no half second in which nobody is answered


def test_a_model_that_was_slow_for_a_while_is_used_in_full_again_at_once() -> None:
    async def story() -> list[float]:
        model = Model()
        return await flood(model, lane(model), 3 * BATCH / SERVICE_S, 8.0, slow=(2.0, 4.0))

    good = in_quick_time(story())
    assert sum(4.5 <= at_s < 8.0 for at_s in good) >= 0.9 * 3.5 * BATCH / SERVICE_S


def test_one_text_alone_is_tried_however_slow_the_last_calls_were() -> None:
    async def story() -> int:
        model = Model()
        own = lane(model)
        model.service_s = 10 * DEADLINE_S
        good = []
        for _ in range(30):
            good += await flood(model, own, 1.0, 1.0, slow=(0.0, 0.0))
        return len(good)

    assert in_quick_time(story()) > 0


@pytest.mark.parametrize("text_s", [DEADLINE_S / 16, DEADLINE_S / 4, 0.6 * DEADLINE_S])
@pytest.mark.parametrize("times", [1, 3, 10])
def test_a_model_too_slow_for_a_whole_batch_within_the_deadline_is_asked_for_smaller_ones(times: int, text_s: float) -> None:
    capacity_per_s = 2 / text_s

    async def flooded() -> list[float]:
        model = SlowModel(text_s)
        return await flood(model, lane(model), times * capacity_per_s, 200 * text_s)

    assert len(in_quick_time(flooded())) >= 0.8 * 200 * text_s * capacity_per_s
