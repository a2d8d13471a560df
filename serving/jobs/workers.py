"""Workers that answer queued jobs inside an event loop: claim, answer while the lease is kept, write down what became of it.

What answers is handed in; the database is asked in threads. Nothing is remembered between two jobs: all state is in the table.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, NamedTuple

import sqlalchemy as sa
import structlog

from pipeline.params import Jobs
from serving.jobs.queue import Claim, Payload, claim, fail, finish, hand_back, renew, sweep

Answer = Callable[[Payload], Awaitable[list[dict[str, Any]]]]
Tally = Callable[[str], None]  # hears what became of each attempt; for metrics

log = structlog.get_logger()


class Desk(NamedTuple):
    """What the workers of one process share."""

    engine: sa.Engine
    settings: Jobs
    answer: Answer
    owner: str  # for people who read the table; the fence tells claims apart
    clock: Callable[[], float]
    tally: Tally


async def work(
    engine: sa.Engine,
    settings: Jobs,
    answer: Answer,
    *,
    owner: str,
    clock: Callable[[], float],
    stop: asyncio.Event,
    tally: Tally = lambda _outcome: None,
) -> None:
    """Answer jobs, `settings.workers` at a time, and sweep, until `stop` is set; jobs in hand then go back into the queue.

    An exception of `answer` is a failed attempt. `tally` hears done, retried, failed, handed_back, lost (the lease ran out and
    what was done is thrown away) and error (the database failed; the workers go on).
    """
    desk = Desk(engine, settings, answer, owner, clock, tally)
    async with asyncio.TaskGroup() as group:
        for _ in range(settings.workers):
            group.create_task(repeat(lambda: _answer_next(desk, stop), settings.poll_ms / 1000, stop, tally))
        group.create_task(repeat(lambda: _sweep(desk), settings.lease_s, stop, tally))


async def repeat(step: Callable[[], Awaitable[bool]], idle_s: float, stop: asyncio.Event, tally: Tally) -> None:
    """Take a step again and again until `stop`; pause for `idle_s` when it found nothing to do (False) or failed."""
    while not stop.is_set():
        try:
            found = await step()
        except Exception:
            log.exception("a step failed and is tried again")
            tally("error")
            found = False
        if not found:
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), idle_s)


async def _sweep(desk: Desk) -> bool:
    await asyncio.to_thread(sweep, desk.engine, now=desk.clock(), settings=desk.settings)
    return False


async def _answer_next(desk: Desk, stop: asyncio.Event) -> bool:
    """Claim a job and see it through; False: none was due."""
    held = await asyncio.to_thread(claim, desk.engine, owner=desk.owner, now=desk.clock(), settings=desk.settings)
    if held is None:
        return False
    answering = asyncio.create_task(_encoded_answer(desk, held))
    losing = asyncio.create_task(_keep_lease(desk, held))
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait((answering, losing, stopping), return_when=asyncio.FIRST_COMPLETED)
    finally:  # also when this worker is cancelled: the job is not left to its lease
        is_answered, is_lost = answering.done(), losing.done()
        for task in (answering, losing, stopping):
            task.cancel()
        await asyncio.gather(answering, losing, stopping, return_exceptions=True)
        if is_lost and not is_answered:
            desk.tally("lost")
        else:
            await _settle(desk, held, answering if is_answered else None)
    return True


async def _encoded_answer(desk: Desk, held: Claim) -> str:
    return await asyncio.to_thread(json.dumps, await desk.answer(held.payload), allow_nan=False)


async def _keep_lease(desk: Desk, held: Claim) -> None:
    """Renew the lease; return when it is lost."""
    is_ours = True
    while is_ours:
        await asyncio.sleep(desk.settings.lease_s / 3)
        try:
            is_ours = await asyncio.to_thread(renew, desk.engine, held, now=desk.clock(), settings=desk.settings)
        except Exception:
            log.exception("jobs: a lease could not be renewed", job=held.id)
            desk.tally("error")


async def _settle(desk: Desk, held: Claim, answering: asyncio.Task[str] | None) -> None:
    """Write down what became of an attempt; when the database cannot be reached, the lease will end it."""
    try:
        outcome, written = await asyncio.to_thread(_write_down, desk, held, answering)
    except Exception:
        log.exception("jobs: what became of a job could not be written", job=held.id)
        desk.tally("error")
    else:
        desk.tally(outcome if written else "lost")


def _write_down(desk: Desk, held: Claim, answering: asyncio.Task[str] | None) -> tuple[str, bool]:
    """The outcome, and whether it was written: a stale fence is refused."""
    now = desk.clock()
    if answering is None:
        return "handed_back", hand_back(desk.engine, held)
    error = asyncio.CancelledError("cancelled") if answering.cancelled() else answering.exception()
    if error is None:
        return "done", finish(desk.engine, held, answering.result(), now=now)
    is_last = held.attempts >= desk.settings.max_attempts
    # one traceback a job: while Triton is away every job fails, and each would say the same five times
    log.warning("jobs: an attempt failed", job=held.id, attempt=held.attempts, error=repr(error), exc_info=is_last and error)
    return "failed" if is_last else "retried", fail(
        desk.engine, held, f"{type(error).__name__}: {error}", now=now, settings=desk.settings
    )
