"""Workers on SQLite and PostgreSQL: every job is answered and ends once, through failures, lost leases, stops and kill -9."""

import asyncio
import json
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from structlog.testing import capture_logs

from pipeline.params import Jobs, Params
from serving.jobs import workers
from serving.jobs.queue import Claim, claim_next, submit
from serving.jobs.workers import Answer, work
from state.tables import jobs
from tests.serving.jobs.polling import DEADLINE_S, count_by_status, until

ROOT = Path(__file__).parents[3]
NOTE_ENDINGS = {
    "sqlite": [
        "CREATE TRIGGER note AFTER UPDATE OF status ON jobs WHEN NEW.status IN ('done', 'failed') "
        "BEGIN INSERT INTO endings VALUES (NEW.id); END"
    ],
    "postgresql": [
        "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO endings VALUES (NEW.id); RETURN NEW; END'",
        "CREATE TRIGGER note AFTER UPDATE OF status ON jobs FOR EACH ROW WHEN (NEW.status IN ('done', 'failed')) "
        "EXECUTE FUNCTION note()",
    ],
}
LONG_LEASE = {"lease_s": 1e9}
CHILD = """
import asyncio, sys, time
from pathlib import Path
from pipeline.params import Jobs
from state.database import open_state
from serving.jobs.workers import work

async def answer(job):
    if job.payload["texts"] == sys.argv[3:]:
        print("hangs", flush=True)
        await asyncio.sleep(3600)
    await asyncio.sleep(0.03)
    return [{"label": text} for text in job.payload["texts"]]

with open_state(Path(sys.argv[1])) as engine:
    settings = Jobs.model_validate_json(sys.argv[2])
    asyncio.run(work(engine, settings, answer, owner="child", clock=time.time, stop=asyncio.Event()))
"""


@pytest.fixture
def settings(params: Params) -> Jobs:
    return params.jobs.model_copy(update={"workers": 4, "poll_ms": 10, "max_attempts": 3})


@pytest.fixture(autouse=True)
def logged() -> Iterator[list[Any]]:
    """Capture log lines: printing a traceback takes longer than many jobs."""
    with capture_logs() as lines:
        yield lines


@pytest.fixture
def endings(state: sa.Engine) -> Callable[[], list[str]]:
    """Return the ids of jobs in the order they ended, written by a trigger, which would record a second ending too."""
    with state.begin() as connection:
        for statement in ("CREATE TABLE endings (id VARCHAR(32))", *NOTE_ENDINGS[state.dialect.name]):
            connection.exec_driver_sql(statement)

    def read() -> list[str]:
        with state.begin() as connection:
            return list(connection.scalars(sa.text("SELECT id FROM endings")))

    return read


def submit_jobs(state: sa.Engine, settings: Jobs, *texts: str) -> list[str]:
    """Submit one job for each text."""
    with state.begin() as connection:
        return [
            submit(
                connection,
                {"texts": [text]},
                caller="ana",
                idempotency_key=None,
                callback_url=None,
                now=time.time(),
                settings=settings,
            ).id
            for text in texts
        ]


def rows(state: sa.Engine) -> dict[str, Any]:
    """Return the rows by the text of their job."""
    with state.begin() as connection:
        return {json.loads(row.payload)["texts"][0]: row for row in connection.execute(sa.select(jobs))}


def counted(state: sa.Engine, status: str) -> int:
    with state.begin() as connection:
        return count_by_status(connection).get(status, 0)


async def echo(job: Claim) -> list[dict[str, Any]]:
    return [{"label": text} for text in job.payload["texts"]]


@asynccontextmanager
async def working(
    state: sa.Engine, settings: Jobs, answer: Answer, clock: Callable[[], float] = time.time
) -> AsyncIterator[Counter[str]]:
    """Run workers while the block runs and stop them properly; yield the outcomes they counted."""
    outcomes: Counter[str] = Counter()

    def count(outcome: str) -> None:
        outcomes[outcome] += 1

    stop = asyncio.Event()
    task = asyncio.create_task(work(state, settings, answer, owner="test", clock=clock, stop=stop, count_outcome=count))
    try:
        yield outcomes
    finally:
        stop.set()
        await asyncio.wait_for(task, 30)


def hurried() -> float:
    """A clock on which the pause before a retry is over at once; leases must be long on it."""
    return time.time() * 10_000


def test_four_workers_answer_two_hundred_jobs_once_each(
    state: sa.Engine, settings: Jobs, endings: Callable[[], list[str]]
) -> None:
    texts = [str(number) for number in range(200)]
    submitted = submit_jobs(state, settings, *texts)

    async def run() -> Counter[str]:
        async with working(state, settings, echo) as outcomes:
            await until(lambda: counted(state, "done") == 200)
        return outcomes

    assert asyncio.run(run()) == {"done": 200}
    assert Counter(endings()) == Counter(submitted)
    assert all(json.loads(row.result) == [{"label": text}] for text, row in rows(state).items())


def test_an_answer_that_fails_is_retried(state: sa.Engine, settings: Jobs) -> None:
    attempts: Counter[str] = Counter()

    async def answer(job: Claim) -> Any:
        (text,) = job.payload["texts"]
        attempts[text] += 1
        if text == "for good" or attempts[text] == 1:
            raise RuntimeError(f"{text} is broken")
        return await echo(job)

    submit_jobs(state, settings, "once", "for good")

    async def run() -> Counter[str]:
        async with working(state, settings.model_copy(update=LONG_LEASE), answer, hurried) as outcomes:
            await until(lambda: counted(state, "done") == counted(state, "failed") == 1)
        return outcomes

    assert asyncio.run(run()) == {"retried": 3, "done": 1, "failed": 1}
    by_text = rows(state)
    assert (by_text["once"].status, by_text["once"].error, by_text["once"].attempts) == ("done", None, 2)
    assert (by_text["for good"].error, by_text["for good"].attempts) == ("RuntimeError: for good is broken", 3)


@pytest.mark.parametrize("result", [[{"confidence": float("nan")}], [{"label": object()}]])
def test_a_result_that_is_not_json_is_a_failed_attempt(state: sa.Engine, settings: Jobs, result: Any) -> None:
    async def answer(_job: Claim) -> Any:
        return result

    submit_jobs(state, settings, "a")

    async def run() -> None:
        async with working(state, settings.model_copy(update=LONG_LEASE), answer, hurried):
            await until(lambda: counted(state, "failed") == 1)

    asyncio.run(run())
    failed = rows(state)["a"]
    assert (failed.status, failed.result, failed.attempts) == ("failed", None, 3)


def test_a_lease_is_renewed_for_as_long_as_the_answer_takes(state: sa.Engine, settings: Jobs) -> None:
    brief = settings.model_copy(update={"lease_s": 0.6})
    submit_jobs(state, settings, "slow")

    async def run() -> Counter[str]:
        done = asyncio.Event()

        async def answer(job: Claim) -> Any:
            await done.wait()
            return await echo(job)

        async with working(state, brief, answer) as outcomes:
            await until(lambda: counted(state, "running") == 1)
            begin = time.time()
            await until(lambda: rows(state)["slow"].due_at > begin + 3 * brief.lease_s)
            done.set()
            await until(lambda: counted(state, "done") == 1)
        return outcomes

    assert asyncio.run(run()) == {"done": 1}
    assert rows(state)["slow"].attempts == 1


def test_a_worker_that_lost_its_job_stops_answering_it(state: sa.Engine, settings: Jobs) -> None:
    brief = settings.model_copy(update={"lease_s": 0.3, "workers": 1})  # another worker could take a lease that ran out here
    submit_jobs(state, settings, "a")

    async def run() -> Counter[str]:
        cancelled = asyncio.Event()

        async def answer(_job: Claim) -> Any:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                cancelled.set()
                raise

        async with working(state, brief, answer) as outcomes:
            await until(lambda: counted(state, "running") == 1)
            thief = claim_next(state, owner="thief", now=time.time() + 3600, settings=settings)
            assert thief is not None
            await asyncio.wait_for(cancelled.wait(), DEADLINE_S)
        return outcomes

    assert asyncio.run(run()) == {"lost": 1}
    row = rows(state)["a"]
    assert (row.status, row.owner, row.attempts) == ("running", "thief", 2)


@pytest.mark.parametrize("way", ["stop", "cancel"])
def test_what_runs_when_the_workers_stop_goes_back_into_the_queue(state: sa.Engine, settings: Jobs, way: str) -> None:
    async def answer(_job: Claim) -> Any:
        await asyncio.sleep(3600)

    async def run() -> None:
        stop = asyncio.Event()
        task = asyncio.create_task(work(state, settings, answer, owner="test", clock=time.time, stop=stop))
        await until(lambda: counted(state, "running") == settings.workers)
        stop.set() if way == "stop" else task.cancel()
        await asyncio.wait({task}, timeout=30)
        assert task.done()

    submit_jobs(state, settings, *"abcdef")
    asyncio.run(run())
    assert {(row.status, row.attempts, row.owner) for row in rows(state).values()} == {("queued", 0, None)}


def test_a_worker_cancelled_while_it_claims_hands_the_job_back(
    state: sa.Engine, settings: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_claimed, may_return = threading.Event(), threading.Event()

    def claim_slowly(*args: Any, **options: Any) -> Claim | None:
        claim = claim_next(*args, **options)
        is_claimed.set()
        may_return.wait(30)
        return claim

    async def run() -> None:
        task = asyncio.create_task(work(state, one, echo, owner="test", clock=time.time, stop=asyncio.Event()))
        await until(is_claimed.is_set)
        task.cancel()
        await asyncio.sleep(0)  # the cancellation reaches the worker before its claim does
        may_return.set()
        await asyncio.wait({task}, timeout=30)
        assert task.cancelled()

    monkeypatch.setattr(workers, "claim_next", claim_slowly)
    one = settings.model_copy(update={"workers": 1})
    submit_jobs(state, settings, "a")
    asyncio.run(run())
    assert [(row.status, row.attempts, row.owner) for row in rows(state).values()] == [("queued", 0, None)]


def test_workers_outlive_a_database_that_fails_for_a_while(state: sa.Engine, settings: Jobs) -> None:
    def rename(old: str, new: str) -> None:
        with state.begin() as connection:
            connection.exec_driver_sql(f"ALTER TABLE {old} RENAME TO {new}")

    async def run() -> Counter[str]:
        async with working(state, settings, echo) as outcomes:
            await asyncio.to_thread(rename, "jobs", "elsewhere")
            await until(lambda: outcomes["error"] >= settings.workers)
            await asyncio.to_thread(rename, "elsewhere", "jobs")
            await until(lambda: counted(state, "done") == 1)
        return outcomes

    submit_jobs(state, settings, "a")
    assert asyncio.run(run())["done"] == 1


def test_without_workers_old_jobs_are_still_swept(state: sa.Engine, settings: Jobs) -> None:
    idle = settings.model_copy(update={"workers": 0, "lease_s": 0.05, "retention_s": 10.0})
    submit_jobs(state, settings, "new", "old")
    with state.begin() as connection:
        ended = {"status": "done", "due_at": time.time() - 11}
        connection.execute(jobs.update().where(jobs.c.payload.contains("old")).values(ended))

    async def run() -> None:
        async with working(state, idle, echo):
            await until(lambda: set(rows(state)) == {"new"})

    asyncio.run(run())
    assert rows(state)["new"].status == "queued"


@contextmanager
def child(home: Path, settings: Jobs, hangs_at: str) -> Iterator[subprocess.Popen[str]]:
    """Start a process with workers; SIGKILL it at the end of the block."""
    arguments = [sys.executable, "-c", CHILD, str(home), settings.model_dump_json(), hangs_at]
    with subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not is_so():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.01)


def test_killed_workers_lose_no_job_and_end_none_twice(
    state: sa.Engine, settings: Jobs, tmp_path: Path, endings: Callable[[], list[str]]
) -> None:
    brief = settings.model_copy(update={"lease_s": 2.0, "max_attempts": 9})
    texts = [f"text {number}" for number in range(90)]
    submitted = submit_jobs(state, settings, *texts)
    with child(tmp_path, brief, "text 20") as process:  # dies while it answers a job, whatever else it does
        assert process.stdout is not None
        assert process.stdout.readline() == "hangs\n"
        wait_for(lambda: counted(state, "done") >= 25)
    assert rows(state)["text 20"].status == "running"
    with child(tmp_path, brief, "none"):  # dies anywhere
        wait_for(lambda: counted(state, "done") >= 50)
    assert counted(state, "done") < 90
    before = rows(state)["text 20"]  # the second process may have left it alone, died while answering it too, or done it
    with child(tmp_path, brief, "none"):
        wait_for(lambda: counted(state, "done") == 90)
    assert Counter(endings()) == Counter(submitted)
    by_text = rows(state)
    assert by_text["text 20"].attempts == before.attempts + (before.status == "running") >= 2
    assert {text: json.loads(row.result) for text, row in by_text.items()} == {text: [{"label": text}] for text in texts}
