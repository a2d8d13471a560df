"""A history without a fault breaks no promise; each fault that is put into one is found, and told as its promise."""

from collections.abc import Callable, Iterator

import pytest
import sqlalchemy as sa

from pipeline.params import Params
from tests.faults.history import CHECKS, History, Made, broken, promises, read_tables
from tests.monitoring.retrain.simulation import database, quick, simulate

SEED = 104  # one in which a retrain failed, and the next was done


@pytest.fixture
def lived(params: Params) -> Iterator[tuple[sa.Connection, Callable[[], History]]]:
    """A database in which something has happened, and a way to read it together with files that fit it."""
    with database() as connection:
        world = simulate(SEED, connection, quick(params))

        def read() -> History:
            with connection.begin():
                found = read_tables(connection, frozenset(world.acknowledged), 1)
            decision = {row.version_out: row.decision_id for row in found.retrains}
            made = {version: Made(digest, decision.get(version), f"lock {version}") for version, digest in found.releases.items()}
            locks = {row.id: f"lock {row.version_out}" for row in found.retrains}
            return found._replace(aliases=dict(found.roles), made=made, locks=locks)

        yield connection, read


def test_a_life_full_of_trouble_broke_no_promise(lived: tuple[sa.Connection, Callable[[], History]]) -> None:
    history = lived[1]()
    assert broken(history) == []
    assert all(one.is_kept for one in promises(history))
    assert len(promises(history)) == len(CHECKS) == 8
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
        ("P3", "UPDATE retrain_steps SET fence = 0 WHERE step = 'swap' AND retrain_id = :done"),
        ("P3", "UPDATE retrain_steps SET fence = 99 WHERE step = 'swap' AND retrain_id = :done"),
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
    ],
)
def test_a_fault_in_the_tables_is_found(promise: str, plant: str, lived: tuple[sa.Connection, Callable[[], History]]) -> None:
    connection, read = lived
    with connection.begin():
        done = connection.exec_driver_sql("SELECT max(id) FROM retrains WHERE state = 'done'").scalar_one()
        assert connection.exec_driver_sql(plant.replace(":done", str(done))).rowcount > 0
    assert [words for words in broken(read()) if words.startswith(promise)], broken(read())


PLANTED: dict[str, tuple[str, Callable[[History], History]]] = {
    "two live at once": ("P3", lambda old: old._replace(retrains=[Living(1), Living(2)])),
    "an alias on another version": ("P4", lambda old: old._replace(aliases=old.roles | {"champion": 1})),
    "a champion with other bytes": ("P4", lambda old: with_made(old, "champion", digest="other")),
    "two versions of one decision": ("P4", lambda old: with_made(old, "previous", decision=decision_of_champion(old))),
    "a torn previous champion": ("P5", lambda old: with_made(old, "previous", digest="")),
    "another dvc.lock than the branch has": ("P6", lambda old: with_made(old, "champion", lock="other")),
    "a run that nobody owns": ("P7", lambda old: old._replace(running=1)),
}


class Living:
    """A retrain that runs."""

    def __init__(self, id: int) -> None:
        self.id, self.state, self.step, self.fence = id, "running", "gate", 1
        self.decision_id, self.version_out, self.verdict, self.ended_wall = id, None, None, None


def with_made(old: History, role: str, **changed: object) -> History:
    made = dict(old.made or {})
    made[old.roles[role]] = made[old.roles[role]]._replace(**changed)  # type: ignore[arg-type]
    return old._replace(made=made)


def decision_of_champion(old: History) -> int | None:
    return (old.made or {})[old.roles["champion"]].decision


@pytest.mark.parametrize("what", PLANTED)
def test_a_fault_in_files_and_registry_is_found(what: str, lived: tuple[sa.Connection, Callable[[], History]]) -> None:
    promise, plant = PLANTED[what]
    found = broken(plant(lived[1]()))
    assert [words for words in found if words.startswith(promise)], found
