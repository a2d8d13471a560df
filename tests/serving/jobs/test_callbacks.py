"""Signed callbacks on SQLite and PostgreSQL: sent at least once until accepted, and recognisable when sent twice."""

import asyncio
import hashlib
import json
import signal
import ssl
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from aiohttp import web
from structlog.testing import capture_logs

from pipeline.params import Jobs, Params
from serving.jobs.callbacks import Delivery, deliver, next_delivery, record, sign, verify
from serving.jobs.outbound import is_public, open_post
from serving.jobs.queue import claim_next, fail, finish, submit
from state.tables import jobs
from tests.serving.jobs.polling import until
from tests.serving.jobs.receiver import Receiver, receiving

ROOT = Path(__file__).parents[3]
NOW = 1_000_000_000.0  # long ago: what was due then is due on a real clock
KEY = b"0123456789abcdef"
BODY = b'{"id": "a"}'
RESULT = [{"label": "track_order"}]
CHILD = """
import asyncio, ssl, sys, time
from pathlib import Path
from pipeline.params import Jobs
from serving.jobs.callbacks import deliver
from serving.jobs.outbound import open_post
from state.database import open_state

async def run(engine, settings):
    names = {"is_allowed": lambda address: True, "resolve": lambda host, port: ["127.0.0.1"]}
    tls = ssl.create_default_context()
    async with open_post(timeout_s=settings.callback_timeout_s, tls=tls, **names) as post:
        await deliver(engine, settings, post, sys.argv[3].encode(), clock=time.time, draw=lambda: 0.5, stop=asyncio.Event())

with open_state(Path(sys.argv[1])) as engine:
    asyncio.run(run(engine, Jobs.model_validate_json(sys.argv[2])))
"""


@pytest.fixture
def settings(params: Params) -> Jobs:
    return params.jobs.model_copy(update={"poll_ms": 10, "callback_attempts": 3, "lease_s": 60.0, "max_attempts": 1})


@pytest.fixture(autouse=True)
def logged() -> Iterator[list[Any]]:
    """Capture log lines."""
    with capture_logs() as lines:
        yield lines


def end_job(state: sa.Engine, settings: Jobs, url: str, *, error: str | None = None, now: float = NOW) -> str:
    """Submit and end a job, so that its callback is due."""
    with state.begin() as connection:
        job = submit(
            connection, {"texts": ["a"]}, caller="ana", idempotency_key=None, callback_url=url, now=now, settings=settings
        )
    claim = claim_next(state, owner="worker", now=now, settings=settings)
    assert claim is not None
    assert claim.id == job.id
    if error is None:
        assert finish(state, claim, json.dumps(RESULT), now=now)
    else:
        assert fail(state, claim, error, now=now, settings=settings)
    return job.id


def next_due(state: sa.Engine, settings: Jobs, now: float = NOW) -> Delivery:
    delivery = next_delivery(state, now=now, settings=settings)
    assert delivery is not None
    return delivery


def callback_state(state: sa.Engine, id: str) -> tuple[str, int]:
    """Return the status of a callback and its attempts so far."""
    with state.begin() as connection:
        row = connection.execute(sa.select(jobs).where(jobs.c.id == id)).one()
    return row.callback_status, row.callback_attempts


def hurried() -> float:
    """A clock on which the pause before a retry is over at once."""
    return NOW + (time.time() - NOW) * 10_000


@asynccontextmanager
async def delivering(
    state: sa.Engine, settings: Jobs, clock: Callable[[], float] = time.time, *, everywhere: bool = True
) -> AsyncIterator[Counter[str]]:
    """Deliver while the block runs, with every name resolved to loopback; yield the outcomes counted."""
    outcomes: Counter[str] = Counter()

    def count(outcome: str) -> None:
        outcomes[outcome] += 1

    is_allowed = (lambda _address: True) if everywhere else is_public
    context = ssl.create_default_context()
    async with open_post(
        timeout_s=settings.callback_timeout_s, is_allowed=is_allowed, resolve=lambda _host, _port: ["127.0.0.1"], tls=context
    ) as post:
        stop = asyncio.Event()
        task = asyncio.create_task(
            deliver(state, settings, post, KEY, clock=clock, draw=lambda: 0.5, stop=stop, count_outcome=count)
        )
        try:
            yield outcomes
        finally:
            stop.set()
            await asyncio.wait_for(task, 30)


def hook(receiver: Receiver) -> str:
    return f"http://hooks.example:{receiver.port}/done"


def test_the_signature_is_the_documented_one() -> None:
    padded = KEY.ljust(64, b"\0")  # HMAC by its definition, RFC 2104
    inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in padded) + b"1000000000." + BODY).digest()
    signature = hashlib.sha256(bytes(byte ^ 0x5C for byte in padded) + inner).hexdigest()
    assert sign(BODY, KEY, int(NOW)) == {
        "Evergreen-Timestamp": "1000000000",
        "Evergreen-Signature": f"v1={signature}",
    }


def test_what_was_signed_is_verified_whatever_the_case_of_the_headers() -> None:
    headers = sign(BODY, KEY, int(NOW))
    assert verify(BODY, headers, KEY, NOW + 299, 300)
    assert verify(BODY, {name.upper(): value for name, value in headers.items()}, KEY, NOW - 299, 300)


@pytest.mark.parametrize(
    "changed",
    [
        {"body": BODY + b" "},
        {"key": KEY + b"0"},
        {"now": NOW + 301},
        {"now": NOW - 301},
        {"Evergreen-Timestamp": "1000000001"},
        {"Evergreen-Timestamp": "01000000000"},
        {"Evergreen-Timestamp": "١٠٠٠٠٠٠٠٠٠"},
        {"Evergreen-Timestamp": ""},
        {"Evergreen-Signature": ""},
        {"Evergreen-Signature": "v1="},
        {"Evergreen-Signature": "v1=é"},
        {"Evergreen-Signature": "v1=\ud800"},
    ],
)
def test_anything_else_is_not(changed: dict[str, Any]) -> None:
    headers = sign(BODY, KEY, int(NOW)) | {name: value for name, value in changed.items() if name.startswith("Evergreen")}
    assert not verify(changed.get("body", BODY), headers, changed.get("key", KEY), changed.get("now", NOW), 300)


def test_without_headers_nothing_is_verified() -> None:
    assert not verify(BODY, {}, KEY, NOW, 300)


def test_the_end_of_a_job_is_delivered_signed_and_once(state: sa.Engine, settings: Jobs) -> None:
    async def run() -> None:
        async with receiving() as receiver:
            done = end_job(state, settings, hook(receiver))
            failed = end_job(state, settings, hook(receiver), error='nothing "worked"\n', now=NOW + 1)
            async with delivering(state, settings) as outcomes:
                await until(lambda: {callback_state(state, done), callback_state(state, failed)} == {("delivered", 1)})
        assert outcomes == {"delivered": 2}
        assert len(receiver.requests) == 2
        bodies = {request.headers["Idempotency-Key"]: json.loads(request.body) for request in receiver.requests}
        assert bodies == {
            done: {"id": done, "status": "done", "result": RESULT},
            failed: {"id": failed, "status": "failed", "error": 'nothing "worked"\n'},
        }
        for request in receiver.requests:
            assert verify(request.body, request.headers, KEY, time.time(), 60)
            assert request.headers["Content-Type"] == "application/json"

    asyncio.run(run())


def test_it_is_sent_again_until_it_is_accepted(state: sa.Engine, settings: Jobs) -> None:
    replies = iter((500, 404, 202))

    async def reply(_request: web.Request) -> web.StreamResponse:
        return web.Response(status=next(replies))

    async def run() -> None:
        async with receiving(reply) as receiver:
            job = end_job(state, settings, hook(receiver))
            async with delivering(state, settings.model_copy(update={"lease_s": 1e9}), hurried) as outcomes:
                await until(lambda: callback_state(state, job) == ("delivered", 3))
        assert outcomes == {"retried": 2, "delivered": 1}
        assert {request.headers["Idempotency-Key"] for request in receiver.requests} == {job}

    asyncio.run(run())


@pytest.mark.parametrize("status", [301, 307, 400, 503, None])
def test_one_that_is_never_accepted_is_given_up(state: sa.Engine, settings: Jobs, status: int | None) -> None:
    async def run() -> None:
        async with receiving() as elsewhere:

            async def reply(request: web.Request) -> web.StreamResponse:
                if status is None:
                    assert request.transport is not None
                    request.transport.close()
                return web.Response(status=status or 200, headers={"Location": hook(elsewhere)})

            async with receiving(reply) as receiver:
                job = end_job(state, settings, hook(receiver))
                async with delivering(state, settings.model_copy(update={"lease_s": 1e9}), hurried) as outcomes:
                    await until(lambda: callback_state(state, job) == ("given_up", 3))
        assert outcomes == {"retried": 2, "given_up": 1}
        assert (len(receiver.requests), len(elsewhere.requests)) == (3, 0)

    asyncio.run(run())


@pytest.mark.parametrize("where", ["http://hooks.example", "http://127.0.0.1"])
def test_a_private_address_is_given_up_without_a_request(state: sa.Engine, settings: Jobs, logged: list[Any], where: str) -> None:
    lenient = settings.model_copy(update={"callback_private": "allow"})  # when it was submitted

    async def run() -> None:
        async with receiving() as receiver:
            job = end_job(state, lenient, f"{where}:{receiver.port}/")
            async with delivering(state, settings, everywhere=False):
                await until(lambda: callback_state(state, job) == ("given_up", 1))
        assert not receiver.requests
        assert any("private" in line.get("error", "") for line in logged)

    asyncio.run(run())


def test_pauses_grow_and_a_lease_keeps_others_off(state: sa.Engine, settings: Jobs) -> None:
    job, now = end_job(state, settings, "http://hooks.example/"), NOW
    for attempt in (1, 2):
        delivery = next_due(state, settings, now)
        assert (delivery.id, delivery.attempt) == (job, attempt)
        lease_s = settings.callback_timeout_s + settings.lease_s
        assert next_delivery(state, now=now + lease_s - 0.1, settings=settings) is None
        assert record(state, delivery, "pending", due_at=now + 10)
        assert next_delivery(state, now=now + 9.9, settings=settings) is None
        now += 10


def test_a_late_attempt_writes_nothing_over_a_newer_one(state: sa.Engine, settings: Jobs) -> None:
    job = end_job(state, settings, "http://hooks.example/")
    late = next_due(state, settings)
    newer = next_due(state, settings, NOW + 1000)
    assert newer.attempt == 2
    assert not record(state, late, "given_up", due_at=NOW)
    assert callback_state(state, job) == ("sending", 2)
    assert record(state, newer, "delivered", due_at=NOW)
    assert not record(state, newer, "pending", due_at=NOW)


def test_a_callback_that_ends_every_sender_is_given_up(state: sa.Engine, settings: Jobs) -> None:
    job = end_job(state, settings, "http://hooks.example/")
    for attempt in range(settings.callback_attempts):
        next_due(state, settings, NOW + 1000 * attempt)
    assert next_delivery(state, now=NOW + 1e6, settings=settings) is None
    assert callback_state(state, job) == ("given_up", 3)


def test_eight_senders_never_claim_the_same_callback(state: sa.Engine, settings: Jobs) -> None:
    ended = [end_job(state, settings, "http://hooks.example/") for _ in range(30)]

    def claim_all(_: int) -> list[str]:
        claimed = []
        while delivery := next_delivery(state, now=NOW, settings=settings):
            claimed.append(delivery.id)
        return claimed

    with ThreadPoolExecutor(8) as pool:
        claimed = [id for part in pool.map(claim_all, range(8)) for id in part]
    assert Counter(claimed) == Counter(ended)


def test_a_slow_receiver_does_not_delay_the_others(state: sa.Engine, settings: Jobs) -> None:
    async def run() -> None:
        freed = asyncio.Event()

        async def wait(_request: web.Request) -> web.StreamResponse:
            await freed.wait()
            return web.Response()

        async with receiving(wait) as slow, receiving() as quick:
            slow_job = end_job(state, settings, hook(slow))
            others = [end_job(state, settings, hook(quick), now=NOW + 1) for _ in range(5)]
            async with delivering(state, settings):
                await until(lambda: all(callback_state(state, id)[0] == "delivered" for id in others))
                assert callback_state(state, slow_job)[0] == "sending"
                freed.set()  # the stop that follows waits for it
            assert callback_state(state, slow_job) == ("delivered", 1)

    asyncio.run(run())


def test_a_sender_killed_before_it_recorded_the_outcome_leads_to_a_second_delivery(
    state: sa.Engine, settings: Jobs, tmp_path: Path
) -> None:
    arguments = [sys.executable, "-c", CHILD, str(tmp_path), settings.model_dump_json(), KEY.decode()]
    later = time.time() + settings.lease_s + settings.callback_timeout_s + 60

    async def run() -> None:
        async def reply(_request: web.Request) -> web.StreamResponse:
            process.kill()  # before it can record the outcome: the reply below reaches no one
            await asyncio.to_thread(process.wait)
            return web.Response(status=204)

        async with receiving(reply) as receiver:
            job = end_job(state, settings, hook(receiver))
            with subprocess.Popen(arguments, cwd=ROOT) as process:
                await until(lambda: process.poll() is not None)
            assert process.returncode == -signal.SIGKILL
            assert callback_state(state, job) == ("sending", 1)
            async with delivering(state, settings, lambda: later):
                await until(lambda: callback_state(state, job) == ("delivered", 2))
        first, second = receiver.requests
        assert first.headers["Idempotency-Key"] == second.headers["Idempotency-Key"] == job
        assert first.body == second.body
        assert verify(first.body, first.headers, KEY, time.time(), 60)
        assert verify(second.body, second.headers, KEY, later, 60)

    asyncio.run(run())
