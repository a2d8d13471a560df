"""The journal on SQLite and PostgreSQL: everything once, whoever writes; a stale owner writes nothing."""

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa

from monitoring.clock import Moment
from monitoring.retrain.alerts import ReceivedAlert, count_unseen, insert_alerts
from monitoring.retrain.decide import ASKED, RELEASE_ASKED, Decision, Episode, PastRetrain, spent_s
from monitoring.retrain.journal import STEPS, Journal, Lease, StaleLeaseError, cancel_retrain, past_retrains, require_lease
from monitoring.retrain_activity import describe_running
from pipeline.process_identity import this_process
from state.tables import alerts, decisions, retrain_steps, retrains

NOW = Moment(1_790_000_000.0, 5000.0, "boot")
NASTY = "'; DROP TABLE alerts; --\n\x00\ud800"


def after(seconds: float) -> Moment:
    return Moment(NOW.wall + seconds, NOW.mono + seconds, NOW.boot)


def alert(name: str = "a", status: str = "firing", **labels: Any) -> ReceivedAlert:
    body = json.dumps({"labels": {"alertname": "EvergreenDrift", "version": "1"} | labels})
    return ReceivedAlert(name, 1_789_999_000.5, status, body)  # type: ignore[arg-type]


def start_all(_connection: sa.Connection, episodes: list[Episode], past: list[PastRetrain]) -> list[Decision]:
    """Start a retrain for the first waiting episode; the others join it."""
    running = next((retrain.id for retrain in past if retrain.state == "running"), None)
    decisions = []
    for number, episode in enumerate(episodes):
        if running is None and number == 0:
            decisions.append(Decision(episode.id, "started", "harm", {"head": "abc", "champion": 1}))
        else:
            decisions.append(Decision(episode.id, "joined", "running", {}, running))
    return decisions


def insert(engine: sa.Engine, *received: ReceivedAlert) -> None:
    with engine.begin() as connection:
        insert_alerts(connection, received, NOW.wall)


def rows(engine: sa.Engine, table: sa.Table) -> list[Any]:
    with engine.connect() as connection:
        return list(connection.execute(sa.select(table).order_by(table.c.id)).all())


@pytest.fixture
def journal(state: sa.Engine) -> Journal:
    return Journal(state.begin, "evergreen")


@pytest.fixture
def engine(state: sa.Engine) -> sa.Engine:
    return state


@pytest.fixture
def lease(journal: Journal, engine: sa.Engine) -> Lease:
    """Return the lease on a retrain that was just claimed."""
    insert(engine, alert())
    journal.record_episodes(NOW)
    journal.decide(start_all, NOW)
    claimed = journal.claim("one", NOW, lease_s=60)
    assert claimed is not None
    return claimed[0]


def test_an_alert_is_inserted_once_and_seen_once(journal: Journal, engine: sa.Engine) -> None:
    with engine.begin() as connection:
        assert insert_alerts(connection, [alert("a"), alert("b"), alert("a")], NOW.wall) == 2
        assert insert_alerts(connection, [alert("a"), alert("a", "resolved")], NOW.wall) == 1
        assert count_unseen(connection) == 3
    assert journal.record_episodes(NOW) == 3
    assert journal.record_episodes(NOW) == 0
    assert [(row.fingerprint, row.verdict, row.is_over, row.version) for row in rows(engine, decisions)] == [
        ("a", "waiting", True, 1), ("b", "waiting", False, 1)
    ]  # fmt: skip
    assert all(row.decision_id for row in rows(engine, alerts))


def test_a_later_end_ends_the_same_episode(journal: Journal, engine: sa.Engine) -> None:
    insert(engine, alert())
    journal.record_episodes(NOW)
    insert(engine, alert(status="resolved"))
    journal.record_episodes(after(9))
    (row,) = rows(engine, decisions)
    assert (row.is_over, row.received_mono) == (True, NOW.mono)


def test_hostile_labels_are_stored_as_text(journal: Journal, engine: sa.Engine) -> None:
    insert(
        engine,
        alert("x", alertname=NASTY, version="../1"),
        alert("y", alertname="n" * 9000, version="99999999999"),
    )
    journal.record_episodes(NOW)
    assert [(len(row.alertname) <= 200, row.version) for row in rows(engine, decisions)] == [(True, 0), (True, 0)]
    assert json.loads(rows(engine, alerts)[0].body)["labels"]["alertname"] == NASTY


def test_a_thousand_alerts_make_one_retrain(journal: Journal, engine: sa.Engine) -> None:
    insert(engine, *(alert(f"f{number}") for number in range(1200)))
    while journal.record_episodes(NOW):
        pass
    made = journal.decide(start_all, NOW)
    assert [decision.outcome for decision in made] == ["started"] + ["joined"] * 1199
    (retrain,) = rows(engine, retrains)
    assert {row.retrain_id for row in rows(engine, decisions)} == {retrain.id}
    assert (retrain.git_commit, retrain.version_in, retrain.step, retrain.fence) == ("abc", 1, "collect", 0)


def test_deciders_at_the_same_moment_start_one_retrain(journal: Journal, engine: sa.Engine) -> None:
    insert(engine, *(alert(f"f{number}") for number in range(20)))

    def decide(_: int) -> list[Decision]:
        journal.record_episodes(NOW)
        return journal.decide(start_all, NOW)

    with ThreadPoolExecutor(8) as pool:
        made = [decision for batch in pool.map(decide, range(8)) for decision in batch]
    assert sorted(decision.outcome for decision in made) == ["joined"] * 19 + ["started"]
    assert len(rows(engine, retrains)) == 1


def test_the_database_refuses_a_second_live_retrain_and_a_second_decision(lease: Lease, engine: sa.Engine) -> None:
    live, decision = rows(engine, retrains)[0]._asdict(), rows(engine, decisions)[0]._asdict()
    for table, row in ((retrains, live | {"id": 99, "decision_id": 99}), (decisions, decision | {"id": 99})):
        with pytest.raises(sa.exc.IntegrityError), engine.begin() as connection:
            connection.execute(table.insert().values(row))


def test_nobody_can_claim_a_retrain_before_its_lease_expires(journal: Journal, lease: Lease) -> None:
    assert journal.claim("two", after(59), lease_s=60) is None
    journal.renew(lease, after(59), lease_s=60, progress="stage train")
    assert journal.claim("two", after(118), lease_s=60) is None
    assert journal.claim("two", after(119)._replace(wall=0.0), lease_s=60) is not None


def test_one_of_many_concurrent_claims_succeeds(journal: Journal, lease: Lease) -> None:
    with ThreadPoolExecutor(8) as pool:
        claims = list(pool.map(lambda number: journal.claim(f"c{number}", after(61), lease_s=60), range(8)))
    assert len([claim for claim in claims if claim]) == 1


def test_a_stale_owner_can_write_nothing(journal: Journal, lease: Lease, engine: sa.Engine) -> None:
    journal.begin_step(lease, NOW)
    claimed = journal.claim("two", after(61), lease_s=60)
    assert claimed is not None
    before = rows(engine, retrains), rows(engine, retrain_steps)
    for write in (
        lambda: journal.renew(lease, after(62), lease_s=60),
        lambda: journal.begin_step(lease, after(62)),
        lambda: journal.end_step(lease, after(62), "done"),
        lambda: journal.postpone(lease, after(62), "why", pause_s=1),
        lambda: journal.finish(lease, after(62), "done", None, ""),
        lambda: journal.job(lease),
    ):
        with pytest.raises(StaleLeaseError):
            write()
    with pytest.raises(StaleLeaseError), engine.begin() as connection:
        require_lease(connection, lease)
    with engine.begin() as connection:
        require_lease(connection, claimed[0])
    assert (rows(engine, retrains), rows(engine, retrain_steps)) == before
    assert [row.outcome for row in before[1]] == ["lost"]


def test_steps_run_in_order_to_the_end(journal: Journal, lease: Lease, engine: sa.Engine) -> None:
    for step in STEPS:
        assert journal.job(lease).step == step
        assert journal.begin_step(lease, NOW) == 1
        if step != "promote":
            journal.end_step(lease, after(1), f"{step} is done", **({"version_out": 2} if step == "publish" else {}))
    journal.finish(lease, after(2), "done", None, "served")
    (row,) = rows(engine, retrains)
    assert (row.state, row.version_out, row.failure, row.owner, row.ended_mono) == ("done", 2, None, None, NOW.mono + 2)
    assert [(step.step, step.outcome) for step in rows(engine, retrain_steps)] == [(step, "done") for step in STEPS]
    assert journal.claim("two", after(500), lease_s=60) is None
    with engine.connect() as connection:
        assert past_retrains(connection, "evergreen")[0].ended == after(2)


def test_a_failed_attempt_is_due_after_a_pause_and_counts(journal: Journal, lease: Lease) -> None:
    journal.begin_step(lease, NOW)
    journal.postpone(lease, NOW, "disk full", pause_s=30)
    assert journal.claim("two", after(29), lease_s=60) is None
    claimed = journal.claim("two", after(30), lease_s=60)
    assert claimed is not None
    assert claimed[1].attempt == 1
    assert journal.begin_step(claimed[0], after(31)) == 2


def test_an_attempt_that_was_given_back_does_not_count(journal: Journal, lease: Lease, engine: sa.Engine) -> None:
    journal.begin_step(lease, NOW)
    journal.postpone(lease, NOW, "stopped", pause_s=0, counts=False)
    claimed = journal.claim("two", after(0), lease_s=60)
    assert claimed is not None
    assert journal.begin_step(claimed[0], after(1)) == 1
    assert len(rows(engine, retrain_steps)) == 1


def gone() -> str:
    """Return the identity of a process that has ended."""
    host, boot, pid, started = this_process().split(" ")
    return f"{host} {boot} {pid} {int(started) - 1}"


def activity(engine: sa.Engine, now: Moment) -> str:
    """Return what `evergreen status` says about the retrain."""
    with engine.connect() as connection:
        return describe_running(connection.execute(sa.select(retrains)).mappings().one(), now)


def test_a_retrain_whose_owner_has_ended_is_claimed_before_its_lease_expires(journal: Journal, engine: sa.Engine) -> None:
    insert(engine, alert())
    journal.record_episodes(NOW)
    journal.decide(start_all, NOW)
    assert journal.claim(gone(), NOW, lease_s=60)
    claimed = journal.claim(this_process(), after(1), lease_s=60)
    assert claimed is not None and claimed[0].fence == 2
    assert journal.claim("another", after(2), lease_s=60) is None


def test_a_retrain_that_nobody_works_on_is_never_called_running(journal: Journal, engine: sa.Engine) -> None:
    insert(engine, alert())
    journal.record_episodes(NOW)
    journal.decide(start_all, NOW)
    assert activity(engine, NOW).startswith("nobody works on it, at step collect")
    lease, _ = journal.claim(this_process(), NOW, lease_s=60) or pytest.fail("not claimed")
    assert activity(engine, after(1)) == "step collect"
    assert activity(engine, after(61)).startswith("nobody works on it")  # it has not renewed its lease
    journal.begin_step(lease, after(1))
    journal.postpone(lease, after(1), "no space left", pause_s=30)
    assert activity(engine, after(2)) == "step collect failed; the next attempt is due at 14:13:51 UTC"
    assert journal.claim(gone(), after(31), lease_s=60)
    text = activity(engine, after(32))  # killed within its lease
    assert text.startswith("nobody works on it, at step collect")
    assert "evergreen retrain --cancel" in text


def test_a_cancelled_retrain_ends_and_its_owner_can_write_nothing(journal: Journal, lease: Lease, engine: sa.Engine) -> None:
    journal.begin_step(lease, NOW)
    with engine.begin() as connection:
        job = cancel_retrain(connection, "evergreen", after(5), "cancelled by a person")
    assert job is not None and job.id == lease.id
    with pytest.raises(StaleLeaseError):
        journal.renew(lease, after(6), lease_s=60, progress="stage train, 39 %")
    (row,) = rows(engine, retrains)
    assert (row.state, row.failure, row.owner, row.ended_mono) == ("cancelled", "cancelled by a person", None, NOW.mono + 5)
    assert [step.outcome for step in rows(engine, retrain_steps)] == ["failed"]
    assert journal.running_job() is None
    with engine.begin() as connection:
        assert cancel_retrain(connection, "evergreen", after(7), "again") is None
    assert journal.claim("another", after(100), lease_s=60) is None


def test_attempts_before_a_step_got_on_are_forgotten(journal: Journal, lease: Lease, engine: sa.Engine) -> None:
    for number in (1, 2):
        assert journal.begin_step(lease, NOW) == number
        claimed = journal.claim("next", after(61 * number), lease_s=60)
        assert claimed is not None
        lease = claimed[0]
    assert journal.begin_step(lease, after(122)) == 3
    journal.renew(lease, after(123), lease_s=60, progress="shadow: 10 texts", is_first_attempt=True)
    assert journal.job(lease).attempt == 1
    claimed = journal.claim("last", after(184), lease_s=60)
    assert claimed is not None
    assert journal.begin_step(claimed[0], after(185)) == 2
    assert [row.attempt for row in rows(engine, retrain_steps)] == [1, 2, 3, 4]


def test_a_requested_release_begins_at_the_shadow_and_costs_no_training(journal: Journal, engine: sa.Engine) -> None:
    insert(engine, alert(alertname=RELEASE_ASKED, version="7"))
    journal.record_episodes(NOW)

    def start_release(_connection: sa.Connection, episodes: list[Episode], _past: list[PastRetrain]) -> list[Decision]:
        (episode,) = episodes
        return [Decision(episode.id, "started", "release", {"head": "abc", "champion": 1}, release=episode.version)]

    journal.decide(start_release, NOW)
    (row,) = rows(engine, retrains)
    assert (row.step, row.version_in, row.version_out, row.git_commit, row.made_wall) == ("shadow", 1, 7, None, NOW.wall)
    assert journal.is_asked(row.id)


def test_what_follows_the_publication_is_no_part_of_a_retrains_cost(journal: Journal, lease: Lease, engine: sa.Engine) -> None:
    for step in STEPS[: STEPS.index("shadow")]:
        journal.begin_step(lease, NOW)
        journal.end_step(lease, after(100), f"{step} is done")
    with engine.connect() as connection:
        assert spent_s(past_retrains(connection, "evergreen"), after(90_000)) == 0  # begun more than a day ago
        assert spent_s(past_retrains(connection, "evergreen"), after(50_000)) == 100


def test_a_retrain_is_asked_for_when_a_request_began_or_joined_it(journal: Journal, engine: sa.Engine) -> None:
    insert(engine, alert())
    journal.record_episodes(NOW)
    journal.decide(start_all, NOW)
    running = journal.running_job()
    assert running is not None and not journal.is_asked(running.id)
    insert(engine, alert("asked-1", alertname=ASKED))
    journal.record_episodes(NOW)
    journal.decide(start_all, NOW)
    assert journal.is_asked(running.id)
