"""The home of state is its user's alone, also one that an earlier version left open."""

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.errors import InputError
from pipeline.home import keep_private


@pytest.fixture
def _umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


pytestmark = pytest.mark.usefixtures("_umask")


def open_to_others(folder: Path) -> list[str]:
    """Return what group or others may do anything with."""
    paths = [folder, *folder.rglob("*")]
    return [str(path) for path in paths if not path.is_symlink() and stat.S_IMODE(path.stat().st_mode) & 0o077]


def test_what_this_process_and_its_children_write_is_theirs_alone(tmp_path: Path) -> None:
    home = tmp_path / "home"
    keep_private(home)
    (home / "folder").mkdir()
    (home / "folder/file").write_text("a text of a customer")
    subprocess.run([sys.executable, "-c", f"open({str(home / 'other')!r}, 'w').close()"], check=True)
    assert open_to_others(home) == []


def test_an_open_home_of_an_earlier_version_is_closed_once_and_that_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    elsewhere.write_text("not part of it")
    (home / "predictions").mkdir(parents=True)
    (home / "state.db").touch()
    (home / "link").symlink_to(elsewhere)
    home.chmod(0o755)
    keep_private(home)
    assert "could read 2 files and folders" in capsys.readouterr().err
    assert open_to_others(home) == []
    assert stat.S_IMODE(elsewhere.stat().st_mode) == 0o644
    keep_private(home)
    assert capsys.readouterr().err == ""


def test_a_folder_of_other_things_is_left_as_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "documents"
    folder.mkdir()
    folder.chmod(0o755)
    (folder / "letter").write_text("")
    with pytest.raises(InputError, match="EVERGREEN_HOME"):
        keep_private(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755
