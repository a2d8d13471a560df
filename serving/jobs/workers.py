"""Workers that answer queued jobs inside an event loop: claim, answer while the lease is renewed, store the outcome.

The function that answers is passed in; the database is queried in threads. A worker keeps nothing between two jobs: all state is
in the table.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, NamedTuple

import sqlalchemy as sa
import structlog

from pipeline.params import Jobs
from serving.jobs.queue import Claim, claim_next, fail, finish, release, renew, sweep

Answer = Callable[[Claim], Awaitable[list[dict[str, Any]]]]
CountOutcome = Callable[[str], None]  # gets the outcome of each attempt; for metrics

log = structlog.get_logger()


class Context(NamedTuple):
    """The objects that the workers of one process share."""

    engine: sa.Engine
    settings: Jobs
    answer: Answer
    owner: str  # for people who read the table; claims are told apart by their fence
    clock: Callable[[], float]
    count_outcome: CountOutcome


async def work(
    engine: sa.Engine,
    settings: Jobs,
    answer: Answer,
    *,
    owner: str,
    clock: Callable[[], float],
    stop: asyncio.Event,
    count_outcome: CountOutcome = lambda _outcome: None,
) -> None:
    """Answer jobs, `settings.workers` at a time, and sweep, until `stop` is set; unfinished jobs then return to the queue.

    An exception of `answer` is a failed attempt. `count_outcome` gets done, retried, failed, handed_back,
    lost (the lease expired and the result is discarded) and error (the database failed; the workers go on).
    """
    context = Context(engine, settings, answer, owner, clock, count_outcome)
    async with asyncio.TaskGroup() as group:
        for _ in range(settings.workers):
            group.create_task(repeat(lambda: _answer_next(context, stop), settings.poll_ms / 1000, stop, count_outcome))
        group.create_task(repeat(lambda: _sweep(context), settings.lease_s, stop, count_outcome))


async def repeat(step: Callable[[], Awaitable[bool]], idle_s: float, stop: asyncio.Event, count_outcome: CountOutcome) -> None:
    """Repeat a step until `stop`; pause for `idle_s` when it had nothing to do (False) or failed."""
    while not stop.is_set():
        try:
            is_busy = await step()
        except Exception:
            log.exception("a step failed and is tried again")
            count_outcome("error")
            is_busy = False
        if not is_busy:
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), idle_s)


async def _sweep(context: Context) -> bool:
    await asyncio.to_thread(sweep, context.engine, now=context.clock(), settings=context.settings)
    return False


async def _answer_next(context: Context, stop: asyncio.Event) -> bool:
    """Claim a job and bring it to an outcome; return False when none was due."""
    claim = await _claim(context)
    if claim is None:
        return False
    answering = asyncio.create_task(_answer_as_json(context, claim))
    losing = asyncio.create_task(_renew_until_lost(context, claim))
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait((answering, losing, stopping), return_when=asyncio.FIRST_COMPLETED)
    finally:  # also when this worker is cancelled: the job does not have to wait for its lease to expire
        is_answered, is_lost = answering.done(), losing.done()
        for task in (answering, losing, stopping):
            task.cancel()
        await asyncio.gather(answering, losing, stopping, return_exceptions=True)
        if is_lost and not is_answered:
            context.count_outcome("lost")
        else:
            await _settle(context, claim, answering if is_answered else None)
    return True


async def _claim(context: Context) -> Claim | None:
    """Claim a job; a worker that is cancelled meanwhile hands back what its thread has claimed."""
    claiming = asyncio.create_task(
        asyncio.to_thread(claim_next, context.engine, owner=context.owner, now=context.clock(), settings=context.settings)
    )
    try:
        return await asyncio.shield(claiming)
    except asyncio.CancelledError:
        with suppress(Exception):  # a claim that failed has taken nothing
            if claim := await claiming:
                await _settle(context, claim, None)
        raise


async def _answer_as_json(context: Context, claim: Claim) -> str:
    return await asyncio.to_thread(json.dumps, await context.answer(claim), allow_nan=False)


async def _renew_until_lost(context: Context, claim: Claim) -> None:
    """Renew the lease; return when it is lost."""
    is_valid = True
    while is_valid:
        await asyncio.sleep(context.settings.lease_s / 3)
        try:
            is_valid = await asyncio.to_thread(renew, context.engine, claim, now=context.clock(), settings=context.settings)
        except Exception:
            log.exception("jobs: a lease could not be renewed", job=claim.id)
            context.count_outcome("error")


async def _settle(context: Context, claim: Claim, answering: asyncio.Task[str] | None) -> None:
    """Store and count the outcome of an attempt; when the database is away, the lease will expire."""
    try:
        outcome, is_stored = await asyncio.to_thread(_store_outcome, context, claim, answering)
    except Exception:
        log.exception("jobs: the outcome of a job could not be stored", job=claim.id)
        context.count_outcome("error")
    else:
        context.count_outcome(outcome if is_stored else "lost")


def _store_outcome(context: Context, claim: Claim, answering: asyncio.Task[str] | None) -> tuple[str, bool]:
    """Return the outcome, and whether it was stored: a stale fence is refused."""
    now = context.clock()
    if answering is None:
        return "handed_back", release(context.engine, claim)
    error = asyncio.CancelledError("cancelled") if answering.cancelled() else answering.exception()
    if error is None:
        return "done", finish(context.engine, claim, answering.result(), now=now)
    is_last = claim.attempts >= context.settings.max_attempts
    # one traceback for each job: while Triton is away every job fails, and each would repeat it five times
    log.warning("jobs: an attempt failed", job=claim.id, attempt=claim.attempts, error=repr(error), exc_info=is_last and error)
    return "failed" if is_last else "retried", fail(
        context.engine, claim, f"{type(error).__name__}: {error}", now=now, settings=context.settings
    )
