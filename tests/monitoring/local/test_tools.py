"""Where the programs come from: PATH when recent enough, else Debian's packages, else an error that says what to install."""

import os
import subprocess
from pathlib import Path

import pytest

from monitoring.local import tools as bringing
from monitoring.local.tools import HERE, PROGRAMS, SHARE, bring, find, on_path, start_in, version_of
from pipeline.errors import ToolError


def program(folder: Path, name: str, version: str, *, stream: str = "") -> Path:
    """A program that tells its version as Prometheus' do; old ones on stderr."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\necho '{name}, version {version} (branch: HEAD)' {stream}\n")
    (folder / name).chmod(0o755)
    return folder / name


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH that holds nothing else."""
    folder = tmp_path / "path"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def test_programs_on_the_path_are_taken_when_they_are_recent(path: Path, tmp_path: Path) -> None:
    given = {one.name: program(path, one.names[-1], f"{one.at_least[0]}.{one.at_least[1]}.0") for one in PROGRAMS}
    said: list[str] = []
    bring(tmp_path / "tools", said.append)
    assert {name: find(tmp_path / "tools", name).resolve() for name in given} == given
    assert (tmp_path / "tools/ready").is_file()
    assert len(said) == 4
    assert start_in(tmp_path / "tools") == tmp_path / "tools"


@pytest.mark.parametrize(("version", "taken"), [("2.41.9", False), ("2.42.0+ds", True), ("3.5.0", True), ("nonsense", False)])
def test_what_is_too_old_is_left_alone(version: str, taken: bool, path: Path) -> None:
    program(path, "prometheus", version)
    assert (on_path(PROGRAMS[0]) is not None) == taken


def test_a_version_is_read_wherever_it_is_told(path: Path) -> None:
    assert version_of(program(path, "amtool", "0.25.0", stream=">&2")) == (0, 25)
    assert version_of(path / "absent") is None


def test_without_debian_the_error_says_what_to_install(path: Path, tmp_path: Path) -> None:
    program(path, "prometheus", "2.30.0")
    with pytest.raises(ToolError) as caught:
        bring(tmp_path / "tools", print)
    assert "prometheus ≥ 2.42, promtool ≥ 2.42, alertmanager ≥ 0.25, amtool ≥ 0.25" in caught.value.what
    assert "brew install prometheus alertmanager" in caught.value.do
    assert not (tmp_path / "tools/ready").exists()


def test_apt_that_cannot_download_is_quoted(path: Path, tmp_path: Path) -> None:
    for name, does in (("apt-get", "echo 'E: no network' >&2; exit 100"), ("dpkg-deb", "exit 0")):
        (path / name).write_text(f"#!/bin/sh\n{does}\n")
        (path / name).chmod(0o755)
    with pytest.raises(ToolError, match="E: no network"):
        bring(tmp_path / "tools", print)
    assert list((tmp_path / "tools").iterdir()) == [tmp_path / "tools/bin"]  # nothing half done is left


def test_a_program_that_was_not_brought_is_named_with_the_way_to_it(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match=r"make \.tools/ready"):
        find(tmp_path, "promtool")


def test_the_path_that_leads_to_where_a_program_starts_is_as_long_as_debians(tmp_path: Path) -> None:
    assert len(HERE) == len(SHARE)
    (tmp_path / "alertmanager").mkdir()
    (tmp_path / "alertmanager/default.tmpl").write_text("found")
    command = ["cat", os.fsdecode(HERE) + "/alertmanager/default.tmpl"]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, text=True).stdout == "found"


def test_what_was_unpacked_finds_its_own_templates(tools: Path) -> None:
    unpacked = tools / "share"
    if not unpacked.is_dir():
        pytest.skip("the programs are those of the PATH")
    assert (unpacked / "alertmanager/default.tmpl").is_file()
    for one in bringing.PROGRAMS:
        assert SHARE not in find(tools, one.name).read_bytes(), one.name
