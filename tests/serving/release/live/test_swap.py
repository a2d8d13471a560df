"""Swaps, rollback and routing on a real Triton behind a real gateway: effects, refusals, and swaps that are killed.

One stack for the file; the versions differ by temperature, so that a confidence shows who answered. Tests run in their order:
version 3 is challenger until it is swapped to.
"""

import json
import multiprocessing
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import combinations
from pathlib import Path

import pytest
from filelock import FileLock
from typer.testing import CliRunner

from evergreen import cli
from pipeline.errors import InputError, RefusedError, ToolError
from pipeline.params import load_params
from pipeline.session.golden_answers import read_golden, write_golden
from serving.release.live import models
from serving.release.live import swap as swapping
from serving.release.live.folders import unpark
from serving.release.live.keep_loaded import load_missing
from serving.release.live.swap import Swapped, route, swap
from serving.release.manifest import repository
from serving.release.routing import read_routes
from serving.release.signature import sign
from serving.release.signing_keys import signing_key
from serving.triton import client as triton
from state.database import open_state
from tests.conftest import Project
from tests.faults import stack
from tests.faults.stack import Installation, gateway_routes, registry_roles, release_roles, triton_models
from tests.serving.release.live.answers import TEXTS, ask, assert_answers_as, right


@pytest.fixture(scope="module")
def installation(made: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    installation = stack.lay_out(tmp_path_factory.mktemp("swap"), made / "artifacts/package", made / "dvc.lock", made.params)
    with stack.serving(installation):
        yield installation


def swap_to(installation: Installation, version: int, announced: list[str] | None = None) -> Swapped:
    return swap(version, installation.params, installation.home, [].append if announced is None else announced.append)


def set_shares(installation: Installation, weight: float, shadow: float = 0.0) -> None:
    route(installation.params, installation.home, challenger_weight=weight, shadow_share=shadow, announce=[].append)


def live_folders(installation: Installation) -> list[str]:
    return sorted(path.name for path in repository(installation.home).iterdir())


def assert_serves_only(installation: Installation, version: int) -> None:
    """Check that table, registry, gateway and Triton agree on this version, and that it answers."""
    assert release_roles(installation)["champion"] == version
    assert registry_roles(installation) == release_roles(installation)
    assert triton_models(installation) == [f"intent-{version}"]
    stack.wait_until(lambda: gateway_routes(installation)["champion"] == version, 3)
    assert_answers_as(installation, version)


def test_the_versions_can_be_told_apart_by_their_answers(installation: Installation) -> None:
    confidences = [[confidence for _, confidence in right(installation, version)] for version in installation.packages]
    for first, second in combinations(confidences, 2):
        assert all(abs(a - b) > 0.01 for a, b in zip(first, second, strict=True))


def test_a_challenger_is_loaded_and_checked_before_it_gets_traffic_and_unloaded_after(installation: Installation) -> None:
    weights: dict[str, object] = {}  # weight at the time of each announced line

    def note(line: str) -> None:
        weights[line] = gateway_routes(installation)["challenger_weight"]

    route(installation.params, installation.home, challenger_weight=0.5, shadow_share=0.0, announce=note)
    assert weights == {
        "intent-3 is loaded and warm": 0.0,
        "intent-3: 24 golden answers equal the offline ones; long texts are answered": 0.0,
    }
    assert triton_models(installation) == ["intent-1", "intent-3"]
    stack.wait_until(lambda: gateway_routes(installation)["challenger_weight"] == 0.5, 3)
    expected = {version: right(installation, version)[0] for version in (1, 3)}
    answers = [ask(installation, TEXTS[0], f"unit {number}") for number in range(40)]
    assert {version for version, _ in answers} == {1, 3}
    assert all(answer == (expected[version][0], pytest.approx(expected[version][1], abs=0.003)) for version, answer in answers)
    set_shares(installation, 0.0)
    assert triton_models(installation) == ["intent-1"]
    assert_answers_as(installation, 1)


def test_an_invalid_share_is_refused_and_leaves_nothing_loaded(installation: Installation) -> None:
    with pytest.raises(InputError, match="is not a share"):
        set_shares(installation, 1.5)
    assert triton_models(installation) == ["intent-1"]
    assert gateway_routes(installation)["challenger_weight"] == 0


def test_a_challenger_with_other_answers_than_offline_gets_no_traffic(installation: Installation) -> None:
    with altered(installation, 3, less_sure_golden_answers), pytest.raises(RefusedError, match="golden answers differ"):
        set_shares(installation, 0.5, shadow=0.5)
    with open_state(installation.home) as engine, engine.begin() as connection:
        assert read_routes(connection).served == {1}
    assert triton_models(installation) == ["intent-1"]


def test_a_swap_moves_release_table_registry_gateway_and_triton_together(installation: Installation) -> None:
    announced: list[str] = []
    assert swap_to(installation, 2, announced) == Swapped(2, 1, True)
    assert release_roles(installation) == {"champion": 2, "previous": 1, "challenger": 3}
    assert_serves_only(installation, 2)
    assert [line for line in announced if "golden" in line] == [
        "intent-2: 24 golden answers equal the offline ones; long texts are answered"
    ]


def test_the_same_swap_again_changes_nothing(installation: Installation) -> None:
    assert swap_to(installation, 2) == Swapped(2, 2, True)
    assert release_roles(installation) == {"champion": 2, "previous": 1, "challenger": 3}
    assert_serves_only(installation, 2)


def test_rollback_returns_to_the_previous_version(installation: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(installation.folder)
    monkeypatch.setenv("EVERGREEN_HOME", str(installation.home))
    done = CliRunner().invoke(cli.app, ["rollback"])
    assert done.exit_code == 0, done.output
    assert release_roles(installation) == {"champion": 1, "challenger": 3}
    assert_serves_only(installation, 1)


def test_a_retired_version_is_parked_and_can_come_back(installation: Installation) -> None:
    swap_to(installation, 3)
    assert live_folders(installation) == ["intent-1", "intent-3"]
    assert (installation.home / "parked" / "intent-2" / "manifest.json").is_file()
    swap_to(installation, 2)
    assert live_folders(installation) == ["intent-2", "intent-3"]
    assert_serves_only(installation, 2)


def test_a_version_that_does_not_load_fails_with_the_servers_message_and_the_champion_still_answers(
    installation: Installation,
) -> None:
    before = release_roles(installation)
    with altered(installation, 3, no_such_luck), pytest.raises(ToolError, match="no such luck"):
        swap_to(installation, 3)
    assert release_roles(installation) == before
    assert_serves_only(installation, 2)


def test_a_failed_load_does_not_stand_in_the_way_of_the_next_swap(installation: Installation) -> None:
    assert swap_to(installation, 3) == Swapped(3, 2, True)
    assert_serves_only(installation, 3)


def test_a_version_with_other_answers_than_offline_is_refused_and_unloaded(installation: Installation) -> None:
    before = release_roles(installation)
    with altered(installation, 2, less_sure_golden_answers), pytest.raises(RefusedError, match="24 of 24 golden answers differ"):
        swap_to(installation, 2)
    assert release_roles(installation) == before
    assert_serves_only(installation, 3)


def test_golden_answers_are_asked_of_the_model_and_not_of_tritons_cache(installation: Installation) -> None:
    with altered(installation, 2, other_temperature), pytest.raises(RefusedError, match="golden answers differ"):
        swap_to(installation, 2)  # it has been loaded before in this server, and was right
    assert_serves_only(installation, 3)


def test_a_champion_whose_golden_answers_differ_is_an_error_but_stays_loaded(installation: Installation) -> None:
    with altered(installation, 3, less_sure_golden_answers), pytest.raises(RefusedError, match="golden answers differ"):
        swap_to(installation, 3)
    assert_serves_only(installation, 3)


def test_a_version_without_golden_answers_is_refused_before_it_is_loaded(installation: Installation) -> None:
    announced: list[str] = []
    with (
        altered(installation, 2, lambda folder: (folder / "golden.json").unlink()),
        pytest.raises(RefusedError, match="no golden"),
    ):
        swap_to(installation, 2, announced)
    assert announced == []
    assert_serves_only(installation, 3)


def test_an_altered_package_is_refused(installation: Installation) -> None:
    with altered(installation, 2, lambda _folder: None) as folder:
        (folder / "labels.txt").write_text("other\n")
        with pytest.raises(RefusedError, match=r"labels\.txt"):
            swap_to(installation, 2)
    assert_serves_only(installation, 3)


def test_the_error_for_a_version_that_was_never_published_lists_those_that_were(installation: Installation) -> None:
    with pytest.raises(InputError, match=r"there are: 3 \(champion\), 2 \(previous\), 1 \(retired\)"):
        swap_to(installation, 7)


def test_a_wrong_key_is_an_error_and_changes_nothing(
    installation: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVERGREEN_TRITON_KEY_FILE", str(tmp_path / "key"))
    with pytest.raises(InputError, match="EVERGREEN_TRITON_KEY_FILE"):
        swap_to(installation, 2)
    (tmp_path / "key").write_text("guessed")
    with pytest.raises(ToolError, match="our key is not its admin key"):
        swap_to(installation, 2)
    monkeypatch.delenv("EVERGREEN_TRITON_KEY_FILE")
    assert_serves_only(installation, 3)


def test_a_remote_server_is_administered_by_the_same_code(
    installation: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(triton.key_file(installation.home, installation.params.serve), tmp_path / "key")
    monkeypatch.setenv("EVERGREEN_TRITON_HOST", "127.0.0.1")
    monkeypatch.setenv("EVERGREEN_TRITON_KEY_FILE", str(tmp_path / "key"))
    elsewhere = installation.params.serve.model_copy(update={"host": "triton.invalid"})
    remote = installation._replace(params=installation.params.model_copy(update={"serve": elsewhere}))
    assert swap_to(remote, 1) == Swapped(1, 3, True)
    monkeypatch.delenv("EVERGREEN_TRITON_KEY_FILE")
    assert_serves_only(installation, 1)


def test_a_client_that_keeps_asking_the_old_version_delays_a_swap_for_a_limited_time(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "DRAIN_TIMEOUT_S", 1.0)
    announced: list[tuple[float, str]] = []
    stopped = threading.Event()

    def keep_asking() -> None:
        while not stopped.is_set():
            try:
                triton.infer_grpc(installation.params.serve, "intent-1", ["where is my parcel?"])
            except triton.TritonError:
                return

    client = threading.Thread(target=keep_asking)
    client.start()
    try:
        swap(2, installation.params, installation.home, lambda line: announced.append((time.monotonic(), line)))
    finally:
        stopped.set()
        client.join()
    promoted_s = next(at for at, line in announced if "is champion" in line)
    unloaded_s = next(at for at, line in announced if "still gets requests after 1 s" in line)
    assert 1.0 <= unloaded_s - promoted_s < 2.5
    assert_serves_only(installation, 2)


@pytest.mark.parametrize("point", ["is loaded and warm", "golden answers equal", "is champion", "is unloaded", "aliases are set"])
def test_a_swap_killed_anywhere_is_completed_by_the_next_call(installation: Installation, point: str) -> None:
    before = release_roles(installation)["champion"]
    version = 3 - before
    process = FORKS.Process(target=swap_until, args=(version, installation.folder, installation.home, point))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert ask(installation, TEXTS[0])[0] in (before, version)
    swap_to(installation, version)
    assert {"champion": version, "previous": before}.items() <= release_roles(installation).items()
    assert live_folders(installation) == ["intent-1", "intent-2"]
    assert_serves_only(installation, version)


FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["serving.release.live.swap"])


def swap_until(version: int, folder: Path, home: Path, point: str) -> None:
    """Swap, and kill this process when this line is announced; the aliases are set when parking begins."""
    os.chdir(folder)

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def note(line: str) -> None:
        if point in line:
            die()

    if point == "aliases are set":
        swapping.park = lambda _home, _in_role: die()  # type: ignore[assignment,return-value,func-returns-value]
    swap(version, load_params(), home, note)


@contextmanager
def altered(installation: Installation, version: int, change: Callable[[Path], object]) -> Iterator[Path]:
    """Yield the version's folder, changed, with its manifest and signature; restore it when the block ends."""
    folder = unpark(installation.home, version)
    original = installation.folder / f"original-{version}"
    shutil.copytree(folder, original)
    try:
        change(folder)
        sign(stack.with_manifest(folder), folder.name, signing_key(installation.home))
        yield folder
    finally:
        shutil.rmtree(folder)
        original.replace(folder)


def less_sure_golden_answers(folder: Path) -> None:
    golden = read_golden(folder)
    write_golden(golden._replace(probabilities=golden.probabilities * 0.8), folder)


def other_temperature(folder: Path) -> None:
    card = json.loads((folder / "1" / "model.json").read_text())
    (folder / "1" / "model.json").write_text(json.dumps(card | {"temperature": 2 * card["temperature"]}))


def no_such_luck(folder: Path) -> None:
    (folder / "1" / "model.py").write_text("raise RuntimeError('no such luck')\n")


def test_a_triton_that_lost_its_models_gets_the_champion_back(installation: Installation) -> None:
    champion = release_roles(installation)["champion"]
    serve, key = installation.params.serve, triton.key_file(installation.home, installation.params.serve).read_text()
    for model in triton_models(installation):
        triton.unload(serve, model, key)
    announced: list[str] = []
    assert load_missing(installation.params, installation.home, announced.append)
    assert_serves_only(installation, champion)
    assert any("golden answers equal the offline ones" in line for line in announced)
    assert not load_missing(installation.params, installation.home, announced.append)


def test_a_swap_that_runs_is_left_alone(installation: Installation) -> None:
    champion = release_roles(installation)["champion"]
    serve, key = installation.params.serve, triton.key_file(installation.home, installation.params.serve).read_text()
    triton.unload(serve, f"intent-{champion}", key)
    with FileLock(installation.home / "publish.lock"):
        assert not load_missing(installation.params, installation.home, [].append)
    assert load_missing(installation.params, installation.home, [].append)
