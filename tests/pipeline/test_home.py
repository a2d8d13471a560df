"""The home of state: set by the environment, or shared by all worktrees of a clone."""

import subprocess
from pathlib import Path

import pytest

from pipeline.errors import EXIT_MISSING_TOOL, ToolError
from pipeline.home import find_home, git, main_worktree


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Create a git repository with one commit, and unset EVERGREEN_HOME."""
    monkeypatch.delenv("EVERGREEN_HOME", raising=False)
    folder = tmp_path / "clone"
    folder.mkdir()
    identity = ["-c", "user.email=tests@example.org", "-c", "user.name=tests"]
    for command in (["init", "--quiet"], [*identity, "commit", "--quiet", "--allow-empty", "--message", "first"]):
        subprocess.run(["git", *command], cwd=folder, check=True)
    return folder


def test_the_home_of_the_environment_is_used_and_created(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVERGREEN_HOME", str(tmp_path / "deep" / "home"))
    assert find_home() == tmp_path / "deep" / "home"
    assert (tmp_path / "deep" / "home").is_dir()


def test_a_relative_home_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EVERGREEN_HOME", "home")
    assert find_home() == tmp_path / "home"


@pytest.mark.parametrize("below", [".", "deep/down"])
def test_the_home_is_live_of_the_clone_from_any_folder(clone: Path, monkeypatch: pytest.MonkeyPatch, below: str) -> None:
    (clone / below).mkdir(parents=True, exist_ok=True)
    monkeypatch.chdir(clone / below)
    assert find_home() == clone / "live"
    assert (clone / "live").is_dir()


def test_an_empty_variable_counts_as_unset(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(clone)
    monkeypatch.setenv("EVERGREEN_HOME", "")
    assert find_home() == clone / "live"


def test_a_linked_worktree_has_the_home_of_the_main_tree(clone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    linked = tmp_path / "linked"
    subprocess.run(["git", "worktree", "add", "--quiet", "-b", "retrain", str(linked)], cwd=clone, check=True)
    monkeypatch.chdir(linked)
    assert main_worktree() == clone
    assert find_home() == clone / "live"
    assert not (linked / "live").exists()


def test_outside_of_git_is_a_tool_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EVERGREEN_HOME", raising=False)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ToolError, match="not a git repository") as caught:
        find_home()
    assert caught.value.exit_code == EXIT_MISSING_TOOL


def test_without_git_is_a_tool_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolError, match="not installed"):
        git("status")
