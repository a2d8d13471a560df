"""`evergreen doctor` mends what has one right answer and names the rest."""

import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from evergreen import doctor
from evergreen.doctor import Finding
from pipeline.errors import ToolError


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Create a project with one commit, and go there."""
    folder = tmp_path / "clone"
    (folder / ".dvc/tmp").mkdir(parents=True)
    (folder / "dvc.yaml").write_text("stages: {}\n")
    identity = ["-c", "user.email=tests@example.org", "-c", "user.name=tests"]
    for command in (["init", "--quiet"], ["add", "--all"], [*identity, "commit", "--quiet", "--message", "first"]):
        subprocess.run(["git", *command], cwd=folder, check=True)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("EVERGREEN_HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir(mode=0o700)
    return folder


def states(findings: Iterator[Finding]) -> list[str]:
    return [finding.state for finding in findings]


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_files_that_other_users_can_read_become_private(tmp_path: Path) -> None:
    home = tmp_path / "home"
    for name, bits in (
        ("state.db", 0o644),
        ("predictions/segment", 0o664),
        ("dvc-remote/files/object", 0o444),
        ("run.sh", 0o755),
    ):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).touch()
        (home / name).chmod(bits)
    (home / "link").symlink_to(tmp_path)
    before = mode(tmp_path)
    assert states(doctor.check_modes(home)) == ["mended"]
    assert (mode(home / "state.db"), mode(home / "predictions"), mode(home / "run.sh")) == (0o600, 0o700, 0o700)
    assert (mode(home / "dvc-remote/files/object"), mode(tmp_path)) == (0o444, before)
    assert states(doctor.check_modes(home)) == ["well"]


def test_dvc_is_pointed_at_this_clone_and_home_and_a_damaged_list_of_locks_is_deleted(clone: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    assert states(doctor.check_dvc(home)) == ["well"]
    settings = (clone / ".dvc/config.local").read_text()
    assert str(home / "dvc-remote") in settings
    (clone / ".dvc/config.local").write_text(settings.replace(str(home), "/elsewhere"))
    (clone / doctor.RWLOCK).write_text('{"artifacts/da')
    assert states(doctor.check_dvc(home)) == ["mended", "mended", "well"]
    assert (clone / ".dvc/config.local").read_text() == settings
    assert not (clone / doctor.RWLOCK).exists()
    (clone / doctor.RWLOCK).write_text("{}")
    assert states(doctor.check_dvc(home)) == ["well"]
    assert (clone / doctor.RWLOCK).exists()


def test_the_lock_of_a_killed_git_command_is_named_with_the_command_that_removes_it(clone: Path, tmp_path: Path) -> None:
    assert states(doctor.check_git(tmp_path)) == ["well"]
    (clone / ".git/index.lock").touch()
    (finding,) = doctor.check_git(tmp_path)
    assert finding.state == "open"
    assert finding.text.endswith(f"rm {clone / '.git/index.lock'}")


def test_a_moved_home_and_a_deleted_experiment_are_mended(mlflow_store: Path, tmp_path: Path) -> None:
    import mlflow

    from pipeline.tracking.store import EXPERIMENT, connect

    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    shutil.copy(mlflow_store, first)
    connect(first)
    mlflow.delete_experiment(mlflow.get_experiment_by_name(EXPERIMENT).experiment_id)
    first.rename(second)
    assert states(doctor.check_mlflow(second)) == ["mended", "mended", "well"]
    assert states(doctor.check_mlflow(second)) == ["well"]


def test_a_check_that_fails_stops_no_other_and_the_exit_code_says_that_something_is_open(
    clone: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(_home: Path) -> Iterator[Finding]:
        raise ToolError("git", "it is broken", "mend it")

    assert os.environ["EVERGREEN_HOME"]
    monkeypatch.setattr(doctor, "CHECKS", (fails, lambda _home: iter([Finding("well", "all is well")])))
    with pytest.raises(SystemExit) as ended:
        doctor.doctor()
    assert ended.value.code == 1
    assert capsys.readouterr().out == "✗ git: it is broken; what to do: mend it\n✓ all is well\n"
