"""The home of state: set by the environment, or shared by all worktrees of a clone."""

import os
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.errors import EXIT_MISSING_TOOL, ToolError
from pipeline.home import find_home, git, main_worktree, require_commit


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
    assert f"cd {tmp_path} && git init && git add --all && git commit" in caught.value.do


def test_without_git_is_a_tool_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolError, match="not installed"):
        git("status")


def run(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.email=tests@example.org", "-c", "user.name=tests", "-c", "protocol.file.allow=always"]
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


def fill(folder: Path, *, commit: bool = True) -> Path:
    """Write what marks a project into the folder, and commit it."""
    (folder / "dvc.yaml").write_text("stages: {}\n")
    (folder / "below").mkdir()
    if commit:
        run(folder, "add", "--all")
        run(folder, "commit", "--quiet", "--message", "project")
    return folder


def submodule(clone: Path, tmp_path: Path) -> Path:
    parent = tmp_path / "parent"
    run(tmp_path, "init", "--quiet", str(parent))
    run(parent, "submodule", "--quiet", "add", str(fill(clone)), "deep/evergreen")
    return parent / "deep/evergreen"


def separate_git_folder(clone: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "checkout"
    (tmp_path / "store").mkdir()
    run(tmp_path, "clone", "--quiet", "--separate-git-dir", str(tmp_path / "store/evergreen.git"), str(fill(clone)), str(folder))
    return folder


def folder_of_a_larger_repository(clone: Path, tmp_path: Path) -> Path:
    (clone / "models/evergreen").mkdir(parents=True)
    (clone / "models/evergreen/dvc.yaml").write_text("stages: {}\n")
    (clone / "models/evergreen/below").mkdir()
    run(clone, "add", "--all")
    run(clone, "commit", "--quiet", "--message", "project")
    return clone / "models/evergreen"


def worktree_of_a_bare_repository(clone: Path, tmp_path: Path) -> Path:
    run(tmp_path, "clone", "--quiet", "--bare", str(fill(clone)), str(tmp_path / "bare.git"))
    run(tmp_path / "bare.git", "worktree", "add", "--quiet", str(tmp_path / "checkout"))
    (tmp_path / "checkout/below").mkdir()
    return tmp_path / "checkout"


def archive(clone: Path, tmp_path: Path) -> Path:
    (tmp_path / "unpacked").mkdir()
    return fill(tmp_path / "unpacked", commit=False)


LAYOUTS = (submodule, separate_git_folder, folder_of_a_larger_repository, worktree_of_a_bare_repository, archive)


@pytest.mark.parametrize("below", [".", "below"])
@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
def test_the_home_lies_in_the_projects_own_folder_however_git_is_laid_out(
    clone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: Callable[[Path, Path], Path], below: str
) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    folder = layout(clone, tmp_path)
    (folder / below).mkdir(exist_ok=True)
    monkeypatch.chdir(folder / below)
    assert main_worktree() == folder
    assert find_home() == folder / "live"


@pytest.mark.parametrize("layout", [submodule, folder_of_a_larger_repository], ids=lambda layout: layout.__name__)
def test_a_linked_worktree_shares_the_home_however_git_is_laid_out(
    clone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: Callable[[Path, Path], Path]
) -> None:
    folder, linked = layout(clone, tmp_path), tmp_path / "linked"
    run(folder, "worktree", "add", "--quiet", "-b", "retrain", str(linked))
    monkeypatch.chdir(linked if layout is submodule else linked / "models/evergreen")
    assert find_home() == folder / "live"


def test_a_process_in_another_worktree_is_told_the_main_one(clone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, linked = separate_git_folder(clone, tmp_path), tmp_path / "linked"
    run(folder, "worktree", "add", "--quiet", "-b", "retrain", str(linked))
    monkeypatch.chdir(linked)
    monkeypatch.setenv("EVERGREEN_MAIN_TREE", str(folder))
    assert main_worktree() == folder


def test_variables_of_another_repository_change_nothing(clone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hook sets them, and a command that it calls would work in the hook's repository."""
    run(tmp_path, "init", "--quiet", "other")
    for name, value in {"GIT_DIR": "other/.git", "GIT_WORK_TREE": "other", "GIT_INDEX_FILE": "other/.git/index"}.items():
        monkeypatch.setenv(name, str(tmp_path / value))
    monkeypatch.chdir(clone)
    assert main_worktree() == clone
    assert git("rev-list", "--count", "HEAD") == "1"


def test_an_archive_needs_a_repository_before_the_pipeline_runs(
    clone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = archive(clone, tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.chdir(folder)
    with pytest.raises(ToolError, match="git init && git add --all"):
        require_commit()
    run(folder, "init", "--quiet")
    with pytest.raises(ToolError, match="no commit yet"):
        require_commit()
    run(folder, "add", "--all")
    run(folder, "commit", "--quiet", "--message", "start")
    require_commit()


def test_an_archive_unpacked_inside_another_repository_is_not_taken_for_it(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (clone / "unpacked").mkdir()
    folder = fill(clone / "unpacked", commit=False)
    monkeypatch.chdir(folder)
    with pytest.raises(ToolError, match="does not track it") as caught:
        require_commit()
    assert f"cd {folder} && git init" in caught.value.do


def test_a_clone_of_another_user_has_one_remedy(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(clone)
    monkeypatch.chdir(clone / "below")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    for call in (find_home, require_commit, lambda: git("status")):
        with pytest.raises(ToolError, match="another user owns") as caught:
            call()
        assert str(caught.value).count("git config --global --add safe.directory") == 1
        assert caught.value.do.endswith(f"safe.directory {clone}")
        assert "archive" not in str(caught.value)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(ToolError, match="sudo chown"):
        find_home()


def test_the_remedy_for_a_foreign_clone_works(clone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(clone)
    monkeypatch.chdir(clone)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    with pytest.raises(ToolError) as caught:
        find_home()
    command = caught.value.do.partition(": ")[2]
    subprocess.run(shlex.split(command), check=True)
    assert find_home() == clone / "live"
