"""Check that a history without a fault breaks no promise, and that each planted fault breaks the promise it belongs to."""

from collections.abc import Callable, Iterator

import pytest
import sqlalchemy as sa

from pipeline.params import Params
from tests.faults.retraining.history import CHECKS, History, VersionFiles, broken, promises, read_tables
from tests.monitoring.retrain.simulation import database, quick, simulate

SEED = 66  # in this simulation a retrain fails and the next succeeds


Simulated = tuple[sa.Connection, Callable[[], History]]


@pytest.fixture
def simulated(params: Params) -> Iterator[Simulated]:
    """Yield a simulated database, and a call that reads it together with matching files."""
    with database() as connection:
        world = simulate(SEED, connection, quick(params))

        def read() -> History:
            with connection.begin():
                history = read_tables(connection, frozenset(world.acknowledged), 1)
            decision = {row.version_out: row.decision_id for row in history.retrains}
            versions = {
                version: VersionFiles(digest, decision.get(version), f"lock {version}")
                for version, digest in history.releases.items()
            }
            locks = {row.id: f"lock {row.version_out}" for row in history.retrains}
            return history._replace(aliases=dict(history.roles), versions=versions, locks=locks)

        yield connection, read


def test_a_simulated_history_with_failures_breaks_no_promise(simulated: Simulated) -> None:
    history = simulated[1]()
    assert broken(history) == []
    assert all(promise.is_kept for promise in promises(history))
    assert len(promises(history)) == len(CHECKS) == 9
    assert {row.state for row in history.retrains} > {"done"}
    assert "previous" in history.roles


@pytest.mark.parametrize(
    ("promise", "plant"),
    [
        ("P1", "DELETE FROM alerts WHERE id = (SELECT max(id) FROM alerts)"),
        ("P2", "UPDATE alerts SET decision_id = NULL WHERE id = 1"),
        ("P2", "DELETE FROM decisions WHERE id = (SELECT max(id) FROM decisions WHERE verdict = 'refused')"),
        ("P2", "UPDATE decisions SET verdict = 'waiting' WHERE verdict = 'refused'"),
        ("P2", "UPDATE decisions SET reason = '' WHERE id = 1"),
        ("P2", "UPDATE decisions SET retrain_id = 1 WHERE verdict = 'refused'"),
        ("P2", "UPDATE decisions SET verdict = 'joined' WHERE verdict = 'started' AND retrain_id = :done"),
        ("P2", "UPDATE retrains SET decision_id = 9999 WHERE id = 1"),
        ("P3", "UPDATE retrain_steps SET fence = 0 WHERE step = 'promote' AND retrain_id = :done"),
        ("P3", "UPDATE retrain_steps SET fence = 99 WHERE step = 'promote' AND retrain_id = :done"),
        ("P3", "UPDATE retrain_steps SET step = 'collect', attempt = 9 WHERE step = 'gate' AND retrain_id = :done"),
        ("P4", "UPDATE releases SET role = 'retired' WHERE role = 'champion'"),
        ("P4", "UPDATE retrains SET verdict = '{\"passed\": false}' WHERE id = :done"),
        ("P4", "UPDATE retrains SET verdict = NULL WHERE id = :done"),
        ("P4", "DELETE FROM releases WHERE role = 'champion'"),
        ("P5", "UPDATE releases SET role = 'retired' WHERE role = 'previous'"),
        ("P8", "UPDATE retrains SET state = 'running' WHERE id = (SELECT max(id) FROM retrains)"),
        ("P8", "UPDATE retrains SET failure = NULL WHERE state != 'done'"),
        ("P8", "UPDATE retrains SET failure = 'why?' WHERE id = :done"),
        ("P8", "UPDATE retrain_steps SET outcome = 'running' WHERE id = 1"),
        ("P8", "UPDATE retrain_steps SET outcome = 'failed', detail = '' WHERE id = 1"),
        ("P11", "UPDATE release_runs SET outcome = NULL WHERE retrain_id = :done"),
        ("P11", "UPDATE release_runs SET outcome = 'rolled_back' WHERE retrain_id = :done"),
        ("P11", "UPDATE release_runs SET broken = 'errors' WHERE retrain_id = :done"),
    ],
)
def test_a_fault_in_the_tables_is_found(promise: str, plant: str, simulated: Simulated) -> None:
    connection, read = simulated
    with connection.begin():
        done = connection.exec_driver_sql("SELECT max(id) FROM retrains WHERE state = 'done'").scalar_one()
        assert connection.exec_driver_sql(plant.replace(":done", str(done))).rowcount > 0
    assert [violation for violation in broken(read()) if violation.startswith(promise)], broken(read())


PLANTED: dict[str, tuple[str, Callable[[History], History]]] = {
    "two retrains live at once": ("P3", lambda old: old._replace(retrains=[RunningRetrain(1), RunningRetrain(2)])),
    "an alias on another version": ("P4", lambda old: old._replace(aliases=old.roles | {"champion": 1})),
    "a champion with other bytes": ("P4", lambda old: with_files(old, "champion", digest="other")),
    "two versions of one decision": ("P4", lambda old: with_files(old, "previous", decision=decision_of_champion(old))),
    "an incomplete previous champion": ("P5", lambda old: with_files(old, "previous", digest="")),
    "another dvc.lock than the branch has": ("P6", lambda old: with_files(old, "champion", lock="other")),
    "a run that nobody owns": ("P7", lambda old: old._replace(running=1)),
}


class RunningRetrain:
    """Stand for a running retrain."""

    def __init__(self, id: int) -> None:
        self.id, self.state, self.step, self.fence = id, "running", "gate", 1
        self.decision_id, self.version_out, self.verdict, self.ended_wall = id, None, None, None


def with_files(old: History, role: str, **changed: object) -> History:
    versions = dict(old.versions or {})
    versions[old.roles[role]] = versions[old.roles[role]]._replace(**changed)  # type: ignore[arg-type]
    return old._replace(versions=versions)


def decision_of_champion(old: History) -> int | None:
    return (old.versions or {})[old.roles["champion"]].decision


@pytest.mark.parametrize("fault", PLANTED)
def test_a_fault_in_files_and_registry_is_found(fault: str, simulated: Simulated) -> None:
    promise, plant = PLANTED[fault]
    violations = broken(plant(simulated[1]()))
    assert [violation for violation in violations if violation.startswith(promise)], violations
