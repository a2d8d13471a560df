"""Publish: registry, live repository, release table and aliases agree, whatever happens in between."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest
import sqlalchemy as sa

from pipeline.errors import InputError, RefusedError
from serving.release.manifest import SIGNATURE, content_digest, read_verified, repository
from serving.release.model_repository import package
from serving.release.publish import Published, publish
from serving.release.signature import read_signed
from serving.release.signing_keys import trusted_folder, trusted_keys
from state.database import open_state
from state.tables import releases
from tests.conftest import Project

POINTS = ("before registering", "registered", "staged", "copied", "released")


def publish_of(made: Project, home: Path, package: Path | None = None) -> Published:
    return publish(package or made / "artifacts/package", made / "dvc.lock", "evergreen", home)


PACKED = ("artifacts/export", "artifacts/session", "artifacts/reference/reference.npz")


@pytest.fixture
def in_project(made: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Return the made project, as the current folder."""
    monkeypatch.chdir(made.folder)
    return made


@pytest.fixture(autouse=True)
def _empty_store(mlflow_store: Path, tmp_path: Path) -> None:
    shutil.copy(mlflow_store, tmp_path)


def registered(home: Path) -> tuple[list[int], dict[str, str]]:
    """Return version numbers and aliases of the registry in this home."""
    client = mlflow.MlflowClient(f"sqlite:///{home / 'mlflow.db'}")
    versions = sorted(int(version.version) for version in client.search_model_versions("name = 'evergreen'"))
    aliases = client.get_registered_model("evergreen").aliases
    return versions, {alias: str(version) for alias, version in aliases.items()}


def released(home: Path) -> list[tuple[int, str]]:
    with open_state(home) as engine, engine.begin() as connection:
        return [(row.version, row.role) for row in connection.execute(sa.select(releases).order_by(releases.c.version))]


def test_the_first_package_becomes_champion_everywhere(in_project: Project, tmp_path: Path) -> None:
    published = publish_of(in_project, tmp_path)
    assert (published.release.version, published.release.role, published.already_published) == (1, "champion", False)
    assert registered(tmp_path) == ([1], {"champion": "1"})
    assert read_verified(repository(tmp_path) / "intent-1") == read_verified(in_project / "artifacts/package")


@pytest.mark.parametrize("check", [1, 2])
def test_a_publisher_that_loses_its_lease_adds_nothing(in_project: Project, tmp_path: Path, check: int) -> None:
    checks: list[int] = []

    def check_lease(_connection: sa.Connection) -> None:
        checks.append(1)
        if len(checks) == check:
            raise PermissionError("stale")

    with pytest.raises(PermissionError, match="stale"):
        publish(
            in_project / "artifacts/package", in_project / "dvc.lock", "evergreen", tmp_path, decision=7, check_lease=check_lease
        )
    assert released(tmp_path) == []
    assert publish_of(in_project, tmp_path).release.version == 1


def test_publishing_the_same_content_again_changes_nothing(in_project: Project, tmp_path: Path) -> None:
    publish_of(in_project, tmp_path)
    lineage = (repository(tmp_path) / "intent-1" / "lineage.json").read_bytes()
    again = publish_of(in_project, tmp_path)
    assert again.already_published
    assert registered(tmp_path) == ([1], {"champion": "1"})
    assert (repository(tmp_path) / "intent-1" / "lineage.json").read_bytes() == lineage


def test_lineage_names_content_run_commit_and_data(in_project: Project, tmp_path: Path) -> None:
    published = publish_of(in_project, tmp_path)
    lineage = json.loads((published.folder / "lineage.json").read_text())
    assert lineage["version"] == 1
    assert lineage["content_digest"] == content_digest(read_verified(in_project / "artifacts/package"))
    assert lineage["git_commit"] == in_project.must("git", "rev-parse", "HEAD").strip()
    origin = json.loads((in_project / "artifacts/model/origin.json").read_text())
    assert lineage | origin == lineage
    assert len(lineage["data_digest"]) == 64
    assert lineage["parent_version"] is None


@pytest.fixture(scope="module")
def killed_homes(made: Project, mlflow_store: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return a home for each point at which a publisher was killed; all of them are forks of one process."""
    homes = {point: tmp_path_factory.mktemp("killed") for point in POINTS}
    for home in homes.values():
        shutil.copy(mlflow_store, home)
    program = (
        "import os, signal, sys; from pathlib import Path; from serving.release.publish import publish\n"
        "def publish_until(point, home):\n"
        "    reached = lambda name: os.kill(os.getpid(), signal.SIGKILL) if name == point else None\n"
        "    publish(Path('artifacts/package'), Path('dvc.lock'), 'evergreen', Path(home), reached)\n"
        "for point, home in zip(sys.argv[1::2], sys.argv[2::2]):\n"
        "    pid = os.fork()\n"
        "    if pid == 0:\n"
        "        publish_until(point, home)\n"
        "        os._exit(0)\n"
        "    print(point, os.WTERMSIG(os.waitpid(pid, 0)[1]), flush=True)\n"
    )
    arguments = [str(part) for pair in homes.items() for part in pair]
    ends = made.must("python", "-c", program, *arguments)
    assert [line for line in ends.splitlines() if line.endswith(" 9")] == [f"{point} 9" for point in POINTS], ends
    return homes


@pytest.mark.parametrize("point", POINTS)
def test_a_publish_killed_anywhere_is_completed_by_the_next_call(
    in_project: Project, killed_homes: dict[str, Path], point: str
) -> None:
    home = killed_homes[point]
    publish_of(in_project, home)
    assert registered(home) == ([1], {"champion": "1"})
    assert released(home) == [(1, "champion")]
    assert [path.name for path in repository(home).iterdir()] == ["intent-1"]
    read_verified(repository(home) / "intent-1")


def test_other_content_becomes_the_challenger(in_project: Project, tmp_path: Path) -> None:
    publish_of(in_project, tmp_path)
    other = tmp_path / "other"
    settings = in_project.params.package.model_copy(update={"queue_delay_us": 2000})
    package(*(in_project / name for name in PACKED), other, settings)
    published = publish_of(in_project, tmp_path, other)
    assert (published.release.version, published.release.role) == (2, "challenger")
    assert registered(tmp_path) == ([1, 2], {"champion": "1", "challenger": "2"})


def test_an_altered_package_is_refused_and_nothing_is_written(in_project: Project, tmp_path: Path) -> None:
    altered = tmp_path / "altered"
    shutil.copytree(in_project / "artifacts/package", altered)
    (altered / "labels.txt").write_text("other\n")
    with pytest.raises(RefusedError, match=r"labels\.txt"):
        publish_of(in_project, tmp_path / "home", altered)
    assert not (tmp_path / "home").exists()


def test_without_a_package_the_message_names_the_command_that_makes_one(in_project: Project, tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="dvc repro"):
        publish_of(in_project, tmp_path, tmp_path / "none")
    with pytest.raises(InputError, match="dvc repro"):
        publish(in_project / "artifacts/package", tmp_path / "none", "evergreen", tmp_path)


def test_the_registered_champion_predicts(in_project: Project, tmp_path: Path) -> None:
    publish_of(in_project, tmp_path)
    program = (
        "import mlflow, sys; mlflow.set_tracking_uri(sys.argv[1])\n"
        "answers = mlflow.pyfunc.load_model('models:/evergreen@champion').predict(['where is my parcel?', 'card declined'])\n"
        "print([answer.label for answer in answers])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, f"sqlite:///{tmp_path / 'mlflow.db'}"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stdout.strip() == "['track_order', 'payment_failed']", done.stderr


def test_the_links_of_dvc_are_resolved(in_project: Project, tmp_path: Path) -> None:
    """`dvc config cache.type symlink` and `dvc checkout --relink` leave links to DVC's cache."""
    cache, linked = tmp_path / "cache", tmp_path / "package"
    shutil.copytree(in_project / "artifacts/package", cache)
    for path in [path for path in cache.rglob("*") if path.is_file()]:
        link = linked / path.relative_to(cache)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path)
    folder = publish_of(in_project, tmp_path, linked).folder
    assert not [path for path in folder.rglob("*") if path.is_symlink()]
    assert read_verified(folder) == read_verified(in_project / "artifacts/package")


def test_a_version_that_was_published_before_versions_were_signed_is_signed(in_project: Project, tmp_path: Path) -> None:
    folder = publish_of(in_project, tmp_path).folder
    lineage = (folder / "lineage.json").read_bytes()
    (folder / SIGNATURE).unlink()
    publish_of(in_project, tmp_path)
    read_signed(folder, trusted_keys(trusted_folder(tmp_path)))
    assert (folder / "lineage.json").read_bytes() == lineage


def test_a_damaged_live_folder_is_replaced(in_project: Project, tmp_path: Path) -> None:
    folder = publish_of(in_project, tmp_path).folder
    (folder / "1" / "model.onnx").write_bytes(b"half")
    publish_of(in_project, tmp_path)
    assert read_verified(folder) == read_verified(in_project / "artifacts/package")


def test_a_registry_that_counts_from_one_again_is_refused(
    in_project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_of(in_project, tmp_path)
    other = tmp_path / "other"
    settings = in_project.params.package.model_copy(update={"queue_delay_us": 3000})
    package(*(in_project / name for name in PACKED), other, settings)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'new.db'}")
    mlflow.MlflowClient(f"sqlite:///{tmp_path / 'new.db'}").create_registered_model("evergreen")  # somebody else's
    with pytest.raises(RefusedError, match="another model"):
        publish_of(in_project, tmp_path, other)


def test_a_registry_that_has_lost_the_model_gets_its_versions_again(
    in_project: Project, mlflow_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_of(in_project, tmp_path)
    other = tmp_path / "other"
    settings = in_project.params.package.model_copy(update={"queue_delay_us": 3000})
    package(*(in_project / name for name in PACKED), other, settings)
    shutil.copy(mlflow_store, tmp_path / "new.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'new.db'}")
    published = publish_of(in_project, tmp_path, other)
    assert (published.release.version, published.release.role) == (2, "challenger")
    versions = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'new.db'}").search_model_versions("name = 'evergreen'")
    assert sorted(int(version.version) for version in versions) == [1, 2]
