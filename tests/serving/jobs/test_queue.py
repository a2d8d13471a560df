"""The queue on SQLite and PostgreSQL: an accepted job ends once, whichever worker dies."""

import json
import secrets
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa

from pipeline.params import Jobs, Params
from serving.jobs.outbound import CallbackRefusedError
from serving.jobs.queue import (
    FIRST_RETRY_S,
    LONGEST_RETRY_S,
    BadKeyError,
    Claim,
    Job,
    KeyReusedError,
    QueueFullError,
    backoff_s,
    claim_next,
    fail,
    find,
    finish,
    release,
    renew,
    stored_bytes,
    submit,
    sweep,
)
from state.tables import jobs
from tests.serving.jobs.polling import count_by_status

NOW = 1_800_000_000.0
URL = "https://hooks.example.com/evergreen"


@pytest.fixture
def settings(params: Params) -> Jobs:
    return params.jobs.model_copy(update={"lease_s": 60.0, "max_attempts": 3, "retention_s": 1000.0})


def submit_job(
    state: sa.Engine,
    settings: Jobs,
    *texts: str,
    caller: str = "ana",
    key: str | None = None,
    callback: str | None = None,
    now: float = NOW,
) -> Job:
    payload = {"texts": list(texts)}
    with state.begin() as connection:
        return submit(connection, payload, caller=caller, idempotency_key=key, callback_url=callback, now=now, settings=settings)


def claim_due(state: sa.Engine, settings: Jobs, now: float = NOW, owner: str = "worker") -> Claim:
    claim = claim_next(state, owner=owner, now=now, settings=settings)
    assert claim is not None
    return claim


def job_of(state: sa.Engine, id: str) -> Job:
    with state.begin() as connection:
        job = find(connection, id, "ana")
    assert job is not None
    return job


def column(state: sa.Engine, id: str, name: str) -> object:
    with state.begin() as connection:
        return connection.execute(sa.select(jobs.c[name]).where(jobs.c.id == id)).scalar_one()


def test_a_job_is_queued_then_running_then_done_with_its_result(state: sa.Engine, settings: Jobs) -> None:
    job = submit_job(state, settings, "where is my parcel?")
    assert job == job_of(state, job.id)
    assert (job.status, job.attempts, job.result, job.error, job.finished_at) == ("queued", 0, None, None, None)
    claim = claim_due(state, settings)
    assert (claim.id, claim.payload, claim.attempts) == (job.id, {"texts": ["where is my parcel?"]}, 1)
    assert job_of(state, job.id).status == "running"
    assert finish(state, claim, '[{"label": "track_order"}]', now=NOW + 1)
    ended = job_of(state, job.id)
    assert (ended.status, ended.result, ended.finished_at) == ("done", [{"label": "track_order"}], NOW + 1)


def test_jobs_are_claimed_in_the_order_they_came(state: sa.Engine, settings: Jobs) -> None:
    submitted = [submit_job(state, settings, str(number), now=NOW + number).id for number in range(5)]
    assert [claim_due(state, settings, NOW + 10).id for _ in submitted] == submitted
    assert claim_next(state, owner="late", now=NOW + 10, settings=settings) is None


def test_any_text_survives_the_table(state: sa.Engine, settings: Jobs) -> None:
    texts = ["nul \0 inside", "lone \ud800 surrogate", "emoji 🌲", ""]
    submit_job(state, settings, *texts)
    claim = claim_due(state, settings)
    assert claim.payload == {"texts": texts}
    assert fail(state, claim, "nul \0, lone \ud800 surrogate", now=NOW, settings=settings)
    assert job_of(state, claim.id).error == "nul \\0, lone \\ud800 surrogate"


@pytest.mark.parametrize("id", ["", "no-such-job", "\0", "f" * 32, "\ud800"])
def test_an_unknown_id_finds_nothing(state: sa.Engine, id: str) -> None:
    with state.begin() as connection:
        assert find(connection, id, "ana") is None


def test_the_same_request_under_the_same_key_is_the_same_job(state: sa.Engine, settings: Jobs) -> None:
    first = submit_job(state, settings, "a", key="k", callback=URL)
    again = submit_job(state, settings, "a", key="k", callback=URL, now=NOW + 5)
    assert again == first
    finish(state, claim_due(state, settings), "[]", now=NOW + 6)
    assert submit_job(state, settings, "a", key="k", callback=URL, now=NOW + 7).status == "done"
    assert submit_job(state, settings, "a", callback=URL).id != first.id


def test_a_job_belongs_to_its_caller_and_so_does_its_key(state: sa.Engine, settings: Jobs) -> None:
    mine = submit_job(state, settings, "a", key="k")
    theirs = submit_job(state, settings, "b", caller="ben", key="k")  # neither a conflict nor the other caller's job
    assert theirs.id != mine.id
    assert submit_job(state, settings, "b", caller="ben", key="k").id == theirs.id
    with state.begin() as connection:
        assert find(connection, mine.id, "ben") is None
        assert find(connection, theirs.id, "ana") is None
    assert "k" not in (column(state, mine.id, "idempotency_key"), column(state, theirs.id, "idempotency_key"))


@pytest.mark.parametrize(("texts", "callback"), [(("b",), URL), (("a",), None), (("a",), URL + "2")])
def test_another_request_under_the_same_key_is_refused(
    state: sa.Engine, settings: Jobs, texts: tuple[str, ...], callback: str | None
) -> None:
    submit_job(state, settings, "a", key="k", callback=URL)
    with pytest.raises(KeyReusedError):
        submit_job(state, settings, *texts, key="k", callback=callback)


@pytest.mark.parametrize("key", ["", "k" * 201, "nul\0", "ключ", "two\nlines"])
def test_a_key_that_cannot_be_stored_is_refused(state: sa.Engine, settings: Jobs, key: str) -> None:
    with pytest.raises(BadKeyError):
        submit_job(state, settings, "a", key=key)


def test_eight_callers_with_one_key_enter_one_job(state: sa.Engine, settings: Jobs) -> None:
    with ThreadPoolExecutor(8) as pool:
        submitted = list(pool.map(lambda _: submit_job(state, settings, "a", key="k").id, range(16)))
    assert len(set(submitted)) == 1
    with state.begin() as connection:
        assert count_by_status(connection) == {"queued": 1, "callback_none": 1}


def test_a_full_queue_refuses_new_jobs_and_knows_old_ones(state: sa.Engine, settings: Jobs) -> None:
    small = settings.model_copy(update={"max_waiting": 2})
    known = submit_job(state, small, "a", key="k")
    submit_job(state, small, "b")
    with pytest.raises(QueueFullError):
        submit_job(state, small, "c")
    assert submit_job(state, small, "a", key="k") == known
    claim_due(state, small)  # what runs does not wait
    submit_job(state, small, "c")


def test_jobs_that_need_too_much_space_together_are_refused_until_old_ones_are_deleted(state: sa.Engine, settings: Jobs) -> None:
    text = secrets.token_hex(50_000)  # PostgreSQL compresses what repeats
    with state.begin() as connection:
        small = settings.model_copy(update={"max_stored_bytes": stored_bytes(connection) + 250_000})
    submit_job(state, small, text)
    assert finish(state, claim_due(state, small), json.dumps([text]), now=NOW)
    with pytest.raises(QueueFullError, match="space"):
        submit_job(state, small, text)
    assert sweep(state, now=NOW + small.retention_s, settings=small) == 1
    submit_job(state, small, text)


def test_a_callback_that_could_never_be_sent_is_refused_at_once(state: sa.Engine, settings: Jobs) -> None:
    with pytest.raises(CallbackRefusedError):
        submit_job(state, settings, "a", callback="http://127.0.0.1/")
    with state.begin() as connection:
        assert count_by_status(connection) == {}


def test_a_live_job_has_one_owner_until_its_lease_ends(state: sa.Engine, settings: Jobs) -> None:
    submit_job(state, settings, "a")
    first = claim_due(state, settings)
    assert claim_next(state, owner="other", now=NOW + 59.9, settings=settings) is None
    assert renew(state, first, now=NOW + 50, settings=settings)
    assert claim_next(state, owner="other", now=NOW + 109.9, settings=settings) is None
    second = claim_due(state, settings, NOW + 110)
    assert (second.id, second.attempts) == (first.id, 2)
    assert second.fence > first.fence


def test_with_a_stale_fence_nothing_is_written(state: sa.Engine, settings: Jobs) -> None:
    submit_job(state, settings, "a")
    stale = claim_due(state, settings)
    claim = claim_due(state, settings, NOW + 61, owner="other")
    before = job_of(state, claim.id)
    assert not renew(state, stale, now=NOW + 62, settings=settings)
    assert not finish(state, stale, '["stale"]', now=NOW + 62)
    assert not fail(state, stale, "stale", now=NOW + 62, settings=settings)
    assert not release(state, stale)
    assert job_of(state, claim.id) == before
    assert column(state, claim.id, "due_at") == NOW + 61 + settings.lease_s
    assert finish(state, claim, "[]", now=NOW + 63)
    assert not finish(state, claim, '["twice"]', now=NOW + 64)
    assert job_of(state, claim.id).result == []


def test_a_lease_that_ran_out_unnoticed_still_counts(state: sa.Engine, settings: Jobs) -> None:
    submit_job(state, settings, "a")
    claim = claim_due(state, settings)
    assert finish(state, claim, "[]", now=NOW + 600)


def test_a_failed_attempt_is_made_again_after_a_growing_pause(state: sa.Engine, settings: Jobs) -> None:
    job, now = submit_job(state, settings, "a"), NOW
    for attempt in (1, 2):
        claim = claim_due(state, settings, now)
        assert fail(state, claim, f"broken {attempt}", now=now, settings=settings)
        assert (job_of(state, job.id).status, job_of(state, job.id).error) == ("queued", f"broken {attempt}")
        now += backoff_s(attempt)
        assert claim_next(state, owner="early", now=now - 0.1, settings=settings) is None
    assert fail(state, claim_due(state, settings, now), "broken for good", now=now, settings=settings)
    ended = job_of(state, job.id)
    assert (ended.status, ended.error, ended.attempts, ended.finished_at) == ("failed", "broken for good", 3, now)
    assert claim_next(state, owner="late", now=now + 1e6, settings=settings) is None


def test_pauses_double_up_to_a_limit() -> None:
    assert [backoff_s(attempt) / FIRST_RETRY_S for attempt in (1, 2, 3, 4)] == [1, 2, 4, 8]
    assert backoff_s(10_000) == LONGEST_RETRY_S


def test_a_job_that_ends_every_worker_is_failed_and_called_back(state: sa.Engine, settings: Jobs) -> None:
    poison = submit_job(state, settings, "a", callback=URL)
    sound = submit_job(state, settings, "b", now=NOW + 1e4)
    for attempt in range(3):
        assert claim_due(state, settings, NOW + 100 * attempt).id == poison.id
    assert claim_due(state, settings, NOW + 1e5).id == sound.id
    ended = job_of(state, poison.id)
    assert (ended.status, ended.callback_status, ended.result) == ("failed", "pending", None)
    assert ended.error is not None
    assert "3 workers" in ended.error


def test_a_released_job_is_first_in_line_and_has_lost_no_attempt(state: sa.Engine, settings: Jobs) -> None:
    first = submit_job(state, settings, "a")
    submit_job(state, settings, "b", now=NOW + 1)
    for _ in range(settings.max_attempts + 2):
        claim = claim_due(state, settings, NOW + 2)
        assert (claim.id, claim.attempts) == (first.id, 1)
        assert release(state, claim)
    assert not finish(state, claim, "[]", now=NOW + 3)


def test_ended_jobs_are_swept_after_their_time_unless_a_callback_is_on_its_way(state: sa.Engine, settings: Jobs) -> None:
    plain = submit_job(state, settings, "a", key="k")
    called = submit_job(state, settings, "b", callback=URL, now=NOW + 1)
    for _ in range(2):
        finish(state, claim_due(state, settings, NOW + 2), "[]", now=NOW + 2)
    live = submit_job(state, settings, "c", now=NOW + 3)
    assert sweep(state, now=NOW + 1001.9, settings=settings) == 0
    assert sweep(state, now=NOW + 1e6, settings=settings) == 1
    with state.begin() as connection:
        assert find(connection, plain.id, "ana") is None
        assert find(connection, called.id, "ana") is not None
        assert find(connection, live.id, "ana") is not None
    for status, swept in (("sending", 0), ("given_up", 1)):
        with state.begin() as connection:
            connection.execute(jobs.update().where(jobs.c.id == called.id).values(callback_status=status))
        assert sweep(state, now=NOW + 1e6, settings=settings) == swept
    assert submit_job(state, settings, "another", key="k").status == "queued"


def test_a_sweep_takes_all_however_many(state: sa.Engine, settings: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.jobs.queue.SWEEP_BATCH", 4)
    for number in range(10):
        submit_job(state, settings, str(number))
        finish(state, claim_due(state, settings), "[]", now=NOW)
    assert sweep(state, now=NOW + 1e6, settings=settings) == 10


def test_only_a_job_with_a_url_has_a_callback(state: sa.Engine, settings: Jobs) -> None:
    for url, status in ((None, "none"), (URL, "pending")):
        job = submit_job(state, settings, "a", callback=url)
        assert job.callback_status == "none"
        finish(state, claim_due(state, settings), "[]", now=NOW)
        assert job_of(state, job.id).callback_status == status


def test_eight_workers_never_claim_the_same_job(state: sa.Engine, settings: Jobs) -> None:
    submitted = {submit_job(state, settings, str(number)).id for number in range(40)}

    def claim_all(owner: int) -> list[str]:
        claimed = []
        while claim := claim_next(state, owner=str(owner), now=NOW, settings=settings):
            claimed.append(claim.id)
        return claimed

    with ThreadPoolExecutor(8) as pool:
        claimed = [id for part in pool.map(claim_all, range(8)) for id in part]
    assert len(claimed) == 40
    assert set(claimed) == submitted


def test_a_row_that_another_transaction_locks_is_skipped(state: sa.Engine, settings: Jobs) -> None:
    if state.dialect.name == "sqlite":
        pytest.skip("SQLite has one writer at a time: no other can read while a row is locked")
    locked, free = submit_job(state, settings, "a"), submit_job(state, settings, "b", now=NOW + 1)
    with state.begin() as connection:
        connection.execute(sa.select(jobs.c.id).where(jobs.c.id == locked.id).with_for_update())
        assert claim_due(state, settings, NOW + 2).id == free.id
        assert claim_next(state, owner="other", now=NOW + 2, settings=settings) is None


def test_jobs_and_callbacks_have_a_status_each(state: sa.Engine, settings: Jobs) -> None:
    submit_job(state, settings, "a", callback=URL)
    submit_job(state, settings, "b", now=NOW + 1)
    finish(state, claim_due(state, settings), "[]", now=NOW)
    with state.begin() as connection:
        assert count_by_status(connection) == {"done": 1, "queued": 1, "callback_pending": 1, "callback_none": 1}
