"""The first experiment of a fresh clone: no warning about each output that it is about to make."""

import logging
import subprocess
import sys
from pathlib import Path

from pipeline.tuning.experiment import CHECKOUT, NOT_MADE_YET, is_news

DVC_YAML = """
stages:
  one: {cmd: touch made, params: [value], outs: [made]}
  two: {cmd: touch made_too, deps: [made], outs: [made_too]}
"""


def test_the_first_experiment_does_not_warn_of_what_it_makes(tmp_path: Path) -> None:
    def run(*command: str) -> str:
        done = subprocess.run(command, cwd=tmp_path, check=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        return done.stdout

    (tmp_path / "dvc.yaml").write_text(DVC_YAML)
    (tmp_path / "params.yaml").write_text("value: 1\n")
    run("git", "init", "-q")
    run(sys.executable, "-m", "dvc", "init", "-q")
    run("git", "add", ".")
    run("git", "-c", "user.name=n", "-c", "user.email=e@example.org", "commit", "-qm", "fresh")
    said = run(sys.executable, "-m", "pipeline.tuning.experiment", "-S", "value=2", "two")
    assert "Running stage 'two'" in said
    assert (tmp_path / "made_too").is_file()
    assert "No file hash info found" not in said


def test_dvc_still_warns_so_and_other_warnings_pass() -> None:
    from dvc_data.index import checkout

    record = logging.LogRecord(CHECKOUT, logging.WARNING, "", 0, "the file '%s' is damaged", ("a",), None)
    assert is_news(record)
    assert NOT_MADE_YET in Path(str(checkout.__file__)).read_text(encoding="utf-8")
    assert checkout.__name__ == CHECKOUT
