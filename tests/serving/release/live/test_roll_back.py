"""Roll-backs and held champions on a real Triton behind a real gateway: under load, killed, and with a registry that is away.

One stack for the file, whose swaps keep the previous champion loaded. The versions differ by temperature, so that a confidence
shows who answered. Each test begins with version 1 alone.
"""

import multiprocessing
import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest
import sqlalchemy as sa
from filelock import FileLock

from pipeline.errors import InputError
from pipeline.params import load_params
from pipeline.tracking import registry as model_registry
from serving.processes.ports import free_port
from serving.release.live import roll_back as rolling_back
from serving.release.live import swap as swapping
from serving.release.live.catch_up import unload_expired
from serving.release.live.roll_back import RolledBack, roll_back
from serving.release.live.swap import route, swap
from serving.release.release_table import make_challenger, versions
from serving.release.routing import Routes, read_routes
from serving.triton import client as triton
from state.database import open_state
from state.tables import routing
from tests.conftest import Project
from tests.faults import stack
from tests.faults.stack import Installation, gateway_routes, registry_roles, release_roles, triton_models
from tests.serving.release.live.answers import TEXTS, ask, assert_answers_as, right

CLIENTS = 3
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["serving.release.live.roll_back"])


@pytest.fixture(scope="module")
def stack_of_three(made: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    folder = tmp_path_factory.mktemp("rollback")
    params = made.params.model_copy(update={"gateway": made.params.gateway.model_copy(update={"routing_poll_ms": 200})})
    installation = stack.lay_out(folder, made / "artifacts/package", made / "dvc.lock", params, hold_s=900.0)
    with stack.serving(installation):
        yield installation


@pytest.fixture
def installation(stack_of_three: Installation) -> Installation:
    """Return the stack with version 1 as champion, nobody before it, and no challenger."""
    if release_roles(stack_of_three)["champion"] != 1:
        swap_to(stack_of_three, 1)
    for version, role in all_roles(stack_of_three).items():
        if role in ("previous", "challenger"):
            take_back(stack_of_three, version)
    assert_serves_only(stack_of_three, 1)
    return stack_of_three


def swap_to(installation: Installation, version: int, hold_s: float = 900.0) -> None:
    release = installation.params.release.model_copy(update={"hold_s": hold_s})
    swap(version, installation.params.model_copy(update={"release": release}), installation.home, [].append)


def take_back(installation: Installation, version: int, announced: list[str] | None = None) -> RolledBack:
    return roll_back(version, installation.params, installation.home, [].append if announced is None else announced.append)


def challenge(installation: Installation, version: int, weight: float = 0.0, shadow: float = 0.0) -> Routes:
    """Make a version challenger with these shares."""
    with open_state(installation.home) as engine, engine.begin() as connection:
        make_challenger(connection, version)
    return set_shares(installation, weight, shadow)


def set_shares(installation: Installation, weight: float, shadow: float) -> Routes:
    return route(installation.params, installation.home, challenger_weight=weight, shadow_share=shadow, announce=[].append)


def routes_of(installation: Installation) -> Routes:
    with open_state(installation.home) as engine, engine.begin() as connection:
        return read_routes(connection)


def all_roles(installation: Installation) -> dict[int, str]:
    with open_state(installation.home) as engine, engine.begin() as connection:
        return {version: str(role) for version, role in versions(connection).items()}


def assert_serves_only(installation: Installation, version: int) -> None:
    """Check that table, registry, gateway and Triton know this version alone, and that it answers."""
    assert release_roles(installation) == {"champion": version}
    assert registry_roles(installation) == {"champion": version}
    assert triton_models(installation) == [f"intent-{version}"]
    stack.wait_until(lambda: gateway_routes(installation)["champion"] == version, 5)
    assert_answers_as(installation, version)


@contextmanager
def asked_all_the_time(installation: Installation) -> Iterator[Counter[int]]:
    """Keep asking with ever new units; yield the answers of each version, and check at the end that all were right."""
    expected = {version: right(installation, version) for version in installation.packages}
    given: Counter[int] = Counter()
    wrong: list[object] = []
    stop = threading.Event()

    def keep_asking(client: int) -> None:
        for number in count():
            if stop.is_set():
                return
            at = number % len(TEXTS)
            try:
                version, answer = ask(installation, TEXTS[at], f"unit {client}-{number}")
            except Exception as error:
                wrong.append(error)
                continue
            given[version] += 1
            if answer != (expected[version][at][0], pytest.approx(expected[version][at][1], abs=0.003)):
                wrong.append((version, TEXTS[at], answer))

    clients = [threading.Thread(target=keep_asking, args=(client,)) for client in range(CLIENTS)]
    for client in clients:
        client.start()
    try:
        yield given
    finally:
        stop.set()
        for client in clients:
            client.join()
    assert not wrong
    assert given.total() > 0


def answered_by(installation: Installation, given: Counter[int], version: int) -> None:
    """Wait until the version has answered a few requests from now on."""
    before = given[version]
    stack.wait_until(lambda: given[version] >= before + 5, 60)


def test_no_request_fails_and_every_answer_is_right_through_all_steps_and_roll_backs(installation: Installation) -> None:
    with asked_all_the_time(installation) as given:
        for challenger in (2, 3):  # of two releases, one is rolled back in the canary, one after its promotion
            challenge(installation, challenger, shadow=1.0)
            for weight in (0.05, 0.25, 0.5):
                set_shares(installation, weight, 1.0)
            answered_by(installation, given, challenger)
            if challenger == 2:
                assert take_back(installation, 2) == RolledBack(2, "challenger", 1, ())
                answered_by(installation, given, 1)
        swap_to(installation, 3)
        answered_by(installation, given, 3)
        assert take_back(installation, 3) == RolledBack(3, "champion", 1, ())
        answered_by(installation, given, 1)
        for version in (2, 3):  # again, with nothing between
            swap_to(installation, version)
            take_back(installation, version)
        answered_by(installation, given, 1)
    assert_serves_only(installation, 1)


def test_the_champion_before_a_swap_stays_loaded_and_returns_without_being_loaded(installation: Installation) -> None:
    swap_to(installation, 2)
    assert triton_models(installation) == ["intent-1", "intent-2"]
    announced: list[str] = []
    assert take_back(installation, 2, announced) == RolledBack(2, "champion", 1, ())
    assert not [line for line in announced if "loaded and warm" in line or "golden" in line]
    assert announced[0].startswith("version 1 answers")
    assert_serves_only(installation, 1)
    assert all_roles(installation) == {1: "champion", 2: "retired", 3: "retired"}


def test_a_champion_that_is_no_longer_held_is_loaded_and_checked_before_it_returns(installation: Installation) -> None:
    swap_to(installation, 2, hold_s=0.0)
    assert triton_models(installation) == ["intent-2"]
    announced: list[str] = []
    with asked_all_the_time(installation):
        take_back(installation, 2, announced)
    assert [line.split(" golden")[0] for line in announced[:2]] == ["intent-1 is loaded and warm", "intent-1: 24"]
    assert_serves_only(installation, 1)


def test_a_challenger_is_rolled_back_in_one_transaction_and_unloaded(installation: Installation) -> None:
    before = challenge(installation, 2, weight=0.25, shadow=1.0)
    assert triton_models(installation) == ["intent-1", "intent-2"]
    assert take_back(installation, 2) == RolledBack(2, "challenger", 1, ())
    after = routes_of(installation)
    assert (after.challenger, after.challenger_weight, after.shadow_share) == (None, 0.0, 0.0)
    assert after.salt != before.salt
    assert_serves_only(installation, 1)


def test_once_its_hold_is_over_the_previous_champion_is_unloaded_by_who_serves(installation: Installation) -> None:
    swap_to(installation, 2, hold_s=3.0)
    assert triton_models(installation) == ["intent-1", "intent-2"]
    stack.wait_until(lambda: triton_models(installation) == ["intent-2"], 60)
    stack.wait_until(lambda: routes_of(installation).keep_previous_until is None, 10)
    assert not unload_expired(installation.params, installation.home, [].append)
    assert release_roles(installation) == {"champion": 2, "previous": 1}
    assert_answers_as(installation, 2)


def test_while_a_swap_runs_nothing_is_unloaded(installation: Installation) -> None:
    swap_to(installation, 2)
    with FileLock(installation.home / "publish.lock"):
        with open_state(installation.home) as engine, engine.begin() as connection:
            connection.execute(routing.update().values(keep_previous_until=1.0))
        assert not unload_expired(installation.params, installation.home, [].append)
        assert triton_models(installation) == ["intent-1", "intent-2"]
    stack.wait_until(lambda: triton_models(installation) == ["intent-2"], 60)


def test_a_roll_back_does_not_wait_for_a_publish_that_runs(installation: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    swap_to(installation, 2)
    monkeypatch.setattr(rolling_back, "LOCK_S", 0.1)
    with FileLock(installation.home / "publish.lock"):
        assert take_back(installation, 2) == RolledBack(2, "champion", 1, ("aliases", "models"))
        stack.wait_until(lambda: gateway_routes(installation)["champion"] == 1, 5)
        assert_answers_as(installation, 1)
    monkeypatch.undo()
    assert take_back(installation, 2) == RolledBack(2, "retired", 1, ())
    assert_serves_only(installation, 1)


def test_a_registry_that_is_away_does_not_stop_a_roll_back(installation: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    swap_to(installation, 2)
    with monkeypatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
        announced: list[str] = []
        assert take_back(installation, 2, announced) == RolledBack(2, "champion", 1, ("aliases",))
        assert any("the registry's aliases are not set" in line for line in announced)
    assert_answers_as(installation, 1)
    assert take_back(installation, 2) == RolledBack(2, "retired", 1, ())
    assert_serves_only(installation, 1)


def test_a_triton_that_is_away_does_not_stop_a_roll_back(installation: Installation) -> None:
    swap_to(installation, 2)
    nobody = installation.params.serve.model_copy(update={"http_port": free_port()})
    params = installation.params.model_copy(update={"serve": nobody})
    assert roll_back(2, params, installation.home, [].append) == RolledBack(2, "champion", 1, ())
    stack.wait_until(lambda: gateway_routes(installation)["champion"] == 1, 5)
    assert_answers_as(installation, 1)


def test_a_refused_lease_or_record_leaves_everything_as_it_was(installation: Installation) -> None:
    swap_to(installation, 2)
    before, routes = all_roles(installation), routes_of(installation)

    def refuse(_connection: sa.Connection) -> None:
        raise PermissionError("the lease is another's")

    def record_and_fail(connection: sa.Connection) -> None:
        assert read_routes(connection).champion == 1  # in the same transaction
        raise PermissionError("no record")

    for options in ({"check_lease": refuse}, {"record": record_and_fail}):
        with pytest.raises(PermissionError):
            roll_back(2, installation.params, installation.home, [].append, **options)
    with pytest.raises(PermissionError):
        swap(3, installation.params, installation.home, [].append, refuse)
    with pytest.raises(PermissionError):
        route(
            installation.params,
            installation.home,
            challenger_weight=0.0,
            shadow_share=0.0,
            announce=[].append,
            record=refuse,
        )
    assert (all_roles(installation), routes_of(installation)) == (before, routes)


def test_without_a_previous_champion_there_is_nothing_to_roll_back_to(installation: Installation) -> None:
    with pytest.raises(InputError, match="no previous champion"):
        take_back(installation, 1)
    with pytest.raises(InputError, match="never published"):
        take_back(installation, 7)
    assert_serves_only(installation, 1)


@pytest.mark.parametrize("role", ["challenger", "champion"])
@pytest.mark.parametrize("point", ["recorded", "answers; gateways follow", "one alias is set", "aliases are set", "is unloaded"])
def test_a_roll_back_killed_anywhere_is_completed_by_the_next_call(installation: Installation, point: str, role: str) -> None:
    if role == "champion":
        swap_to(installation, 2)
    else:
        challenge(installation, 2, weight=0.5, shadow=1.0)
    before = routes_of(installation)
    process = FORKS.Process(target=roll_back_until, args=(installation.folder, installation.home, point))
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    if point == "recorded":  # killed before the commit
        assert routes_of(installation) == before
    else:
        assert (routes_of(installation).champion, routes_of(installation).challenger) == (1, None)
    assert ask(installation, TEXTS[0])[0] in (1, 2)
    done = take_back(installation, 2)
    assert done == RolledBack(2, role if point == "recorded" else "retired", 1, ())  # type: ignore[arg-type]
    assert_serves_only(installation, 1)
    assert (installation.home / "parked/intent-2").is_dir()


def test_models_that_a_killed_roll_back_left_loaded_are_unloaded_by_who_serves(installation: Installation) -> None:
    swap_to(installation, 2)
    process = FORKS.Process(target=roll_back_until, args=(installation.folder, installation.home, "aliases are set"))
    process.start()
    process.join(120)
    stack.wait_until(lambda: triton_models(installation) == ["intent-1"], 60)
    assert registry_roles(installation) == {"champion": 1}


@pytest.mark.parametrize("point", ["is loaded and warm", "golden answers", "recorded", "routed"])
def test_a_route_killed_anywhere_is_completed_by_the_next_call(installation: Installation, point: str) -> None:
    challenge(installation, 2)
    process = FORKS.Process(target=route_until, args=(installation.folder, installation.home, point))
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    assert routes_of(installation).challenger_weight == (0.25 if point == "routed" else 0.0)
    assert ask(installation, TEXTS[0])[0] in (1, 2)
    routes = set_shares(installation, 0.25, 1.0)
    assert (routes.challenger, routes.challenger_weight, routes.shadow_share) == (2, 0.25, 1.0)
    assert triton_models(installation) == ["intent-1", "intent-2"]


def test_after_a_restart_triton_has_the_held_champion_too(installation: Installation) -> None:
    swap_to(installation, 2)
    serve, key = installation.params.serve, triton.key_file(installation.home, installation.params.serve).read_text()
    for model in triton_models(installation):
        triton.unload(serve, model, key)
    from serving.release.live.keep_loaded import load_missing

    assert load_missing(installation.params, installation.home, [].append)
    assert triton_models(installation) == ["intent-1", "intent-2"]


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_at(point: str, line: str) -> None:
    if point in line:
        die()


def roll_back_until(folder: Path, home: Path, point: str) -> None:
    """Roll version 2 back, and kill this process at the point."""
    os.chdir(folder)
    if point == "one alias is set":
        set_alias = model_registry.set_alias
        model_registry.set_alias = lambda *arguments: (set_alias(*arguments), die())  # type: ignore[assignment,func-returns-value]
    elif point == "aliases are set":
        rolling_back.unload_unused = lambda *_: die()
    record = (lambda _connection: die()) if point == "recorded" else swapping.no_record
    roll_back(2, load_params(), home, lambda line: die_at(point, line), record=record)


def route_until(folder: Path, home: Path, point: str) -> None:
    """Give the challenger a quarter of the units, and kill this process at the point."""
    os.chdir(folder)
    if point == "routed":
        swapping.unload_unused = lambda *_: die()
    record = (lambda _connection: die()) if point == "recorded" else swapping.no_record
    announce = lambda line: die_at(point, line)  # noqa: E731
    route(load_params(), home, challenger_weight=0.25, shadow_share=1.0, announce=announce, record=record)
