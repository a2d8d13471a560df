"""An argument that the program gets and no other user can read; paths that a shell takes as one word."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from pipeline.errors import ToolError
from serving.triton.hidden_argument import PLACEHOLDER, VARIABLE, start_with_hidden
from serving.triton.shell_path import shell_path

PROGRAM = "import sys; print(sys.argv[1:], flush=True); sys.stdin.read()"


def test_the_program_gets_the_argument_and_its_command_line_does_not_show_it(tmp_path: Path) -> None:
    log = tmp_path / "log"
    command = [sys.executable, "-c", PROGRAM, "--open=1"]
    with log.open("wb") as output:
        process = start_with_hidden(command, "--key=secret", environment=os.environ, output=output)
    shown = Path(f"/proc/{process.pid}/cmdline").read_bytes().split(b"\0")
    process.wait(timeout=30)  # standard input of the tests is at its end
    assert log.read_text() == "['--open=1', '--key=secret']\n"
    assert shown[-3:] == [b"--open=1", PLACEHOLDER.encode(), b""]
    assert VARIABLE not in os.environ


def test_where_the_kernel_refuses_the_program_does_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.triton.hidden_argument.PTRACE_TRACEME", 12345)
    log = tmp_path / "log"
    with log.open("wb") as output, pytest.raises(PermissionError):
        start_with_hidden([sys.executable, "-c", PROGRAM], "--key=secret", environment=os.environ, output=output)
    assert log.read_text() == ""


@pytest.mark.parametrize("name", ["my home", "it's", '"$HOME"', "a;b&c|d", "`id`", "hömé", "new\nline", "*"])
def test_a_path_of_any_characters_becomes_one_word_of_a_shell(name: str, tmp_path: Path) -> None:
    folder = tmp_path / name
    folder.mkdir()
    (folder / "file").write_text("inside")
    word = shell_path(folder)
    shown = subprocess.run(f"cat {word}/file", shell=True, capture_output=True, text=True, check=True)  # noqa: S602
    assert shown.stdout == "inside"
    assert shell_path(folder) == word
    assert shell_path(tmp_path) == tmp_path


def test_a_folder_of_links_that_others_can_write_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / f"evergreen-{os.geteuid()}").mkdir()
    (tmp_path / f"evergreen-{os.geteuid()}").chmod(0o777)
    with pytest.raises(ToolError, match="another user can write"):
        shell_path(tmp_path / "my home")
