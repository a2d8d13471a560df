"""Programs come from PATH if recent enough, else from Debian's packages; else an error says what to install."""

import os
import subprocess
from pathlib import Path

import pytest

from monitoring.local.tools import (
    PROGRAMS,
    SHARE,
    WORKING_DIRECTORY,
    find_on_path,
    find_tool,
    install_tools,
    version_of,
    working_directory,
)
from pipeline.errors import ToolError


def program(folder: Path, name: str, version: str, *, stream: str = "") -> Path:
    """Write a program that prints its version as Prometheus' programs do; old releases use stderr."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\necho '{name}, version {version} (branch: HEAD)' {stream}\n")
    (folder / name).chmod(0o755)
    return folder / name


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the only folder on PATH."""
    folder = tmp_path / "path"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def test_recent_programs_on_the_path_are_used(path: Path, tmp_path: Path) -> None:
    paths = {known.name: program(path, known.names[-1], f"{known.at_least[0]}.{known.at_least[1]}.0") for known in PROGRAMS}
    lines: list[str] = []
    install_tools(tmp_path / "tools", lines.append)
    assert {name: find_tool(tmp_path / "tools", name).resolve() for name in paths} == paths
    assert (tmp_path / "tools/ready").is_file()
    assert len(lines) == 4
    assert working_directory(tmp_path / "tools") == tmp_path / "tools"


@pytest.mark.parametrize(("version", "used"), [("2.41.9", False), ("2.42.0+ds", True), ("3.5.0", True), ("nonsense", False)])
def test_programs_that_are_too_old_are_ignored(version: str, used: bool, path: Path) -> None:
    program(path, "prometheus", version)
    assert (find_on_path(PROGRAMS[0]) is not None) == used


def test_a_version_is_read_from_either_stream(path: Path) -> None:
    assert version_of(program(path, "amtool", "0.25.0", stream=">&2")) == (0, 25)
    assert version_of(path / "absent") is None


def test_without_debian_the_error_says_what_to_install(path: Path, tmp_path: Path) -> None:
    program(path, "prometheus", "2.30.0")
    with pytest.raises(ToolError) as caught:
        install_tools(tmp_path / "tools", print)
    assert "prometheus ≥ 2.42, promtool ≥ 2.42, alertmanager ≥ 0.25, amtool ≥ 0.25" in caught.value.what
    assert "brew install prometheus alertmanager" in caught.value.do
    assert not (tmp_path / "tools/ready").exists()


def test_a_failed_download_is_quoted(path: Path, tmp_path: Path) -> None:
    for name, script in (("apt-get", "echo 'E: no network' >&2; exit 100"), ("dpkg-deb", "exit 0")):
        (path / name).write_text(f"#!/bin/sh\n{script}\n")
        (path / name).chmod(0o755)
    with pytest.raises(ToolError, match="E: no network"):
        install_tools(tmp_path / "tools", print)
    assert list((tmp_path / "tools").iterdir()) == [tmp_path / "tools/bin"]  # nothing incomplete is left


def test_a_missing_program_is_named_with_the_command_that_installs_it(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match=r"make \.tools/ready"):
        find_tool(tmp_path, "promtool")


def test_the_replacement_path_is_as_long_as_debians(tmp_path: Path) -> None:
    assert len(WORKING_DIRECTORY) == len(SHARE)
    (tmp_path / "alertmanager").mkdir()
    (tmp_path / "alertmanager/default.tmpl").write_text("found")
    command = ["cat", os.fsdecode(WORKING_DIRECTORY) + "/alertmanager/default.tmpl"]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, text=True).stdout == "found"


def test_unpacked_programs_find_their_templates(tools: Path) -> None:
    unpacked = tools / "share"
    if not unpacked.is_dir():
        pytest.skip("the programs are from PATH")
    assert (unpacked / "alertmanager/default.tmpl").is_file()
    for known in PROGRAMS:
        assert SHARE not in find_tool(tools, known.name).read_bytes(), known.name
