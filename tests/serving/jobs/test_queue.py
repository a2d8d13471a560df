"""The queue on SQLite and PostgreSQL: what is accepted is answered, once in the table, whoever dies on the way."""

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
    census,
    claim,
    fail,
    find,
    finish,
    hand_back,
    renew,
    submit,
    sweep,
)
from state.tables import jobs

NOW = 1_800_000_000.0
URL = "https://hooks.example.com/evergreen"


@pytest.fixture
def settings(params: Params) -> Jobs:
    return params.jobs.model_copy(update={"lease_s": 60.0, "max_attempts": 3, "retention_s": 1000.0})


def enter(
    state: sa.Engine, settings: Jobs, *texts: str, key: str | None = None, callback: str | None = None, now: float = NOW
) -> Job:
    with state.begin() as connection:
        return submit(connection, {"texts": list(texts)}, idempotency_key=key, callback_url=callback, now=now, settings=settings)


def take(state: sa.Engine, settings: Jobs, now: float = NOW, owner: str = "worker") -> Claim:
    held = claim(state, owner=owner, now=now, settings=settings)
    assert held is not None
    return held


def look(state: sa.Engine, id: str) -> Job:
    with state.begin() as connection:
        job = find(connection, id)
    assert job is not None
    return job


def column(state: sa.Engine, id: str, name: str) -> object:
    with state.begin() as connection:
        return connection.execute(sa.select(jobs.c[name]).where(jobs.c.id == id)).scalar_one()


def test_a_job_is_queued_then_running_then_done_with_its_result(state: sa.Engine, settings: Jobs) -> None:
    job = enter(state, settings, "where is my parcel?")
    assert job == look(state, job.id)
    assert (job.status, job.attempts, job.result, job.error, job.finished_at) == ("queued", 0, None, None, None)
    held = take(state, settings)
    assert (held.id, held.payload, held.attempts) == (job.id, {"texts": ["where is my parcel?"]}, 1)
    assert look(state, job.id).status == "running"
    assert finish(state, held, '[{"label": "track_order"}]', now=NOW + 1)
    ended = look(state, job.id)
    assert (ended.status, ended.result, ended.finished_at) == ("done", [{"label": "track_order"}], NOW + 1)


def test_jobs_are_taken_in_the_order_they_came(state: sa.Engine, settings: Jobs) -> None:
    entered = [enter(state, settings, str(number), now=NOW + number).id for number in range(5)]
    assert [take(state, settings, NOW + 10).id for _ in entered] == entered
    assert claim(state, owner="late", now=NOW + 10, settings=settings) is None


def test_any_text_survives_the_table(state: sa.Engine, settings: Jobs) -> None:
    texts = ["nul \0 inside", "lone \ud800 surrogate", "emoji 🌲", ""]
    enter(state, settings, *texts)
    held = take(state, settings)
    assert held.payload == {"texts": texts}
    assert fail(state, held, "nul \0, lone \ud800 surrogate", now=NOW, settings=settings)
    assert look(state, held.id).error == "nul \\0, lone \\ud800 surrogate"


@pytest.mark.parametrize("id", ["", "no-such-job", "\0", "f" * 32, "\ud800"])
def test_an_unknown_id_finds_nothing(state: sa.Engine, id: str) -> None:
    with state.begin() as connection:
        assert find(connection, id) is None


def test_the_same_request_under_the_same_key_is_the_same_job(state: sa.Engine, settings: Jobs) -> None:
    first = enter(state, settings, "a", key="k", callback=URL)
    again = enter(state, settings, "a", key="k", callback=URL, now=NOW + 5)
    assert again == first
    finish(state, take(state, settings), "[]", now=NOW + 6)
    assert enter(state, settings, "a", key="k", callback=URL, now=NOW + 7).status == "done"
    assert enter(state, settings, "a", callback=URL).id != first.id


@pytest.mark.parametrize(("texts", "callback"), [(("b",), URL), (("a",), None), (("a",), URL + "2")])
def test_another_request_under_the_same_key_is_refused(
    state: sa.Engine, settings: Jobs, texts: tuple[str, ...], callback: str | None
) -> None:
    enter(state, settings, "a", key="k", callback=URL)
    with pytest.raises(KeyReusedError):
        enter(state, settings, *texts, key="k", callback=callback)


@pytest.mark.parametrize("key", ["", "k" * 201, "nul\0", "ключ", "two\nlines"])
def test_a_key_that_cannot_be_kept_is_refused(state: sa.Engine, settings: Jobs, key: str) -> None:
    with pytest.raises(BadKeyError):
        enter(state, settings, "a", key=key)


def test_eight_callers_with_one_key_enter_one_job(state: sa.Engine, settings: Jobs) -> None:
    with ThreadPoolExecutor(8) as pool:
        entered = list(pool.map(lambda _: enter(state, settings, "a", key="k").id, range(16)))
    assert len(set(entered)) == 1
    with state.begin() as connection:
        assert census(connection) == {"queued": 1, "callback_none": 1}


def test_a_full_queue_refuses_new_jobs_and_knows_old_ones(state: sa.Engine, settings: Jobs) -> None:
    small = settings.model_copy(update={"max_waiting": 2})
    known = enter(state, small, "a", key="k")
    enter(state, small, "b")
    with pytest.raises(QueueFullError):
        enter(state, small, "c")
    assert enter(state, small, "a", key="k") == known
    take(state, small)  # what runs does not wait
    enter(state, small, "c")


def test_a_callback_that_could_never_be_sent_is_refused_at_once(state: sa.Engine, settings: Jobs) -> None:
    with pytest.raises(CallbackRefusedError):
        enter(state, settings, "a", callback="http://127.0.0.1/")
    with state.begin() as connection:
        assert census(connection) == {}


def test_a_live_job_has_one_owner_until_its_lease_ends(state: sa.Engine, settings: Jobs) -> None:
    enter(state, settings, "a")
    first = take(state, settings)
    assert claim(state, owner="other", now=NOW + 59.9, settings=settings) is None
    assert renew(state, first, now=NOW + 50, settings=settings)
    assert claim(state, owner="other", now=NOW + 109.9, settings=settings) is None
    second = take(state, settings, NOW + 110)
    assert (second.id, second.attempts) == (first.id, 2)
    assert second.fence > first.fence


def test_with_a_stale_fence_nothing_is_written(state: sa.Engine, settings: Jobs) -> None:
    enter(state, settings, "a")
    stale = take(state, settings)
    held = take(state, settings, NOW + 61, owner="other")
    before = look(state, held.id)
    assert not renew(state, stale, now=NOW + 62, settings=settings)
    assert not finish(state, stale, '["stale"]', now=NOW + 62)
    assert not fail(state, stale, "stale", now=NOW + 62, settings=settings)
    assert not hand_back(state, stale)
    assert look(state, held.id) == before
    assert column(state, held.id, "due_at") == NOW + 61 + settings.lease_s
    assert finish(state, held, "[]", now=NOW + 63)
    assert not finish(state, held, '["twice"]', now=NOW + 64)
    assert look(state, held.id).result == []


def test_a_lease_that_ran_out_unnoticed_still_counts(state: sa.Engine, settings: Jobs) -> None:
    enter(state, settings, "a")
    held = take(state, settings)
    assert finish(state, held, "[]", now=NOW + 600)


def test_a_failed_attempt_is_made_again_after_a_growing_pause(state: sa.Engine, settings: Jobs) -> None:
    job, now = enter(state, settings, "a"), NOW
    for attempt in (1, 2):
        held = take(state, settings, now)
        assert fail(state, held, f"broken {attempt}", now=now, settings=settings)
        assert (look(state, job.id).status, look(state, job.id).error) == ("queued", f"broken {attempt}")
        now += backoff_s(attempt)
        assert claim(state, owner="early", now=now - 0.1, settings=settings) is None
    assert fail(state, take(state, settings, now), "broken for good", now=now, settings=settings)
    ended = look(state, job.id)
    assert (ended.status, ended.error, ended.attempts, ended.finished_at) == ("failed", "broken for good", 3, now)
    assert claim(state, owner="late", now=now + 1e6, settings=settings) is None


def test_pauses_double_up_to_a_limit() -> None:
    assert [backoff_s(attempt) / FIRST_RETRY_S for attempt in (1, 2, 3, 4)] == [1, 2, 4, 8]
    assert backoff_s(10_000) == LONGEST_RETRY_S


def test_a_job_that_ends_every_worker_is_failed_and_called_back(state: sa.Engine, settings: Jobs) -> None:
    poison = enter(state, settings, "a", callback=URL)
    sound = enter(state, settings, "b", now=NOW + 1e4)
    for attempt in range(3):
        assert take(state, settings, NOW + 100 * attempt).id == poison.id
    assert take(state, settings, NOW + 1e5).id == sound.id
    ended = look(state, poison.id)
    assert (ended.status, ended.callback_status, ended.result) == ("failed", "pending", None)
    assert ended.error is not None
    assert "3 workers" in ended.error


def test_a_job_handed_back_is_first_in_line_and_lost_no_attempt(state: sa.Engine, settings: Jobs) -> None:
    first = enter(state, settings, "a")
    enter(state, settings, "b", now=NOW + 1)
    for _ in range(settings.max_attempts + 2):
        held = take(state, settings, NOW + 2)
        assert (held.id, held.attempts) == (first.id, 1)
        assert hand_back(state, held)
    assert not finish(state, held, "[]", now=NOW + 3)


def test_ended_jobs_are_swept_after_their_time_unless_a_callback_is_on_its_way(state: sa.Engine, settings: Jobs) -> None:
    plain = enter(state, settings, "a", key="k")
    called = enter(state, settings, "b", callback=URL, now=NOW + 1)
    for _ in range(2):
        finish(state, take(state, settings, NOW + 2), "[]", now=NOW + 2)
    live = enter(state, settings, "c", now=NOW + 3)
    assert sweep(state, now=NOW + 1001.9, settings=settings) == 0
    assert sweep(state, now=NOW + 1e6, settings=settings) == 1
    with state.begin() as connection:
        assert find(connection, plain.id) is None
        assert find(connection, called.id) is not None
        assert find(connection, live.id) is not None
    for status, swept in (("sending", 0), ("given_up", 1)):
        with state.begin() as connection:
            connection.execute(jobs.update().where(jobs.c.id == called.id).values(callback_status=status))
        assert sweep(state, now=NOW + 1e6, settings=settings) == swept
    assert enter(state, settings, "another", key="k").status == "queued"


def test_a_sweep_takes_all_however_many(state: sa.Engine, settings: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.jobs.queue.SWEPT_AT_ONCE", 4)
    for number in range(10):
        enter(state, settings, str(number))
        finish(state, take(state, settings), "[]", now=NOW)
    assert sweep(state, now=NOW + 1e6, settings=settings) == 10


def test_only_a_job_with_a_url_has_a_callback(state: sa.Engine, settings: Jobs) -> None:
    for url, status in ((None, "none"), (URL, "pending")):
        job = enter(state, settings, "a", callback=url)
        assert job.callback_status == "none"
        finish(state, take(state, settings), "[]", now=NOW)
        assert look(state, job.id).callback_status == status


def test_eight_takers_never_hold_the_same_job(state: sa.Engine, settings: Jobs) -> None:
    entered = {enter(state, settings, str(number)).id for number in range(40)}

    def take_all(owner: int) -> list[str]:
        taken = []
        while held := claim(state, owner=str(owner), now=NOW, settings=settings):
            taken.append(held.id)
        return taken

    with ThreadPoolExecutor(8) as pool:
        taken = [id for part in pool.map(take_all, range(8)) for id in part]
    assert len(taken) == 40
    assert set(taken) == entered


def test_a_row_that_another_holds_locked_is_passed_over(state: sa.Engine, settings: Jobs) -> None:
    if state.dialect.name == "sqlite":
        pytest.skip("SQLite has one writer at a time: nobody can look while a row is held")
    held, free = enter(state, settings, "a"), enter(state, settings, "b", now=NOW + 1)
    with state.begin() as connection:
        connection.execute(sa.select(jobs.c.id).where(jobs.c.id == held.id).with_for_update())
        assert take(state, settings, NOW + 2).id == free.id
        assert claim(state, owner="other", now=NOW + 2, settings=settings) is None


def test_the_census_counts_jobs_and_callbacks(state: sa.Engine, settings: Jobs) -> None:
    enter(state, settings, "a", callback=URL)
    enter(state, settings, "b", now=NOW + 1)
    finish(state, take(state, settings), "[]", now=NOW)
    with state.begin() as connection:
        assert census(connection) == {"done": 1, "queued": 1, "callback_pending": 1, "callback_none": 1}
