"""`evergreen check` warns about data that git has, and about exactly the data that `dvc exp run` commits."""

import subprocess
from pathlib import Path

import pytest

from pipeline.check.git_tracking import check_git
from pipeline.params import Params
from tests.conftest import ROOT

FILES = ("untracked.csv", "ignored.csv", "added.csv", "tracked.csv")
PIPELINE = """
stages:
  count:
    cmd: cat data/*.csv OUTSIDE | wc -l > rows.txt
    deps: [data/untracked.csv, data/ignored.csv, data/added.csv, data/tracked.csv, OUTSIDE]
    params: [factor]
    outs: [rows.txt]
"""


def run(*command: str, folder: Path | None = None) -> str:
    """Return the output of git, or of DVC in our environment."""
    program = str(ROOT / ".venv/bin/dvc") if command[0] == "dvc" else command[0]
    return subprocess.run([program, *command[1:]], cwd=folder, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a repository with a commit, as the current folder; a file is beside it."""
    folder = tmp_path / "project"
    (folder / "data").mkdir(parents=True)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    outside = tmp_path / "outside.csv"
    outside.write_text("text,label\n")
    run("git", "init", "--quiet")
    for key, value in (("user.email", "tests@example.org"), ("user.name", "tests")):
        run("git", "config", key, value)
    (folder / ".gitignore").write_text("data/ignored.csv\n")
    (folder / "params.yaml").write_text("factor: 1\n")
    (folder / "dvc.yaml").write_text(PIPELINE.replace("OUTSIDE", str(outside)))
    for name in FILES:
        (folder / "data" / name).write_text(f"text,label\n{name},a\n")
    run("git", "add", ".gitignore", "params.yaml", "dvc.yaml", "data/tracked.csv")
    run("git", "commit", "--quiet", "--message", "start")
    return folder


def warnings(params: Params, *files: str | Path) -> list[str]:
    """Return the warnings about these files of rows."""
    shown = []
    for file in files:
        data = params.data.model_copy(update={name: Path(file) for name in ("source", "test", "unlabelled")})
        findings = check_git(params.model_copy(update={"data": data}))
        shown += [finding.text for finding in findings if finding.mark == "warning"]
    return shown


def test_untracked_and_tracked_data_is_warned_about_and_no_other(params: Params, repository: Path) -> None:
    (repository / "data/linked.csv").symlink_to(repository.parent / "outside.csv")
    names = ("untracked.csv", "ignored.csv", "tracked.csv", "linked.csv", "none.csv")
    untracked, tracked = warnings(params, *(f"data/{name}" for name in names), repository.parent / "outside.csv")
    assert untracked.startswith("data/untracked.csv: `dvc exp run` will commit this file to git")
    assert tracked.startswith("data/tracked.csv: git tracks this file")


@pytest.mark.parametrize("name", ["train (1).csv", "a[b]*.csv", ":(top)x.csv", "-x.csv", "ö.csv"])
def test_a_name_that_git_could_read_as_a_pattern_is_a_name(params: Params, repository: Path, name: str) -> None:
    (repository / name).write_text("text,label\n")
    assert len(warnings(params, name)) == 1


def test_shipped_files_are_in_git_on_purpose_until_they_are_changed(params: Params, repository: Path) -> None:
    shipped = repository / "data/support_desk.jsonl"
    shipped.write_text("{}\n")
    run("git", "add", "--all")
    run("git", "commit", "--quiet", "--message", "shipped")
    assert warnings(params, "data/support_desk.jsonl") == []
    shipped.write_text('{"text": "mine"}\n')
    assert len(warnings(params, "data/support_desk.jsonl")) == 1


def test_the_shipped_params_bring_no_warning(params: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert list(check_git(params)) == []


def test_the_warning_tells_what_dvc_exp_run_does(params: Params, repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is warned about is in the experiment's commit; ignored, added and outside files are not."""
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    run("dvc", "init", "--quiet")
    run("dvc", "add", "--quiet", "data/added.csv")
    files = [f"data/{name}" for name in FILES]
    warned = {text.partition(":")[0] for text in warnings(params, *files, repository.parent / "outside.csv")}
    run("dvc", "exp", "run", "--quiet", "--name", "trial", "--set-param", "factor=2")
    (experiment,) = run("git", "for-each-ref", "--format=%(refname)", "refs/exps/**/trial").split()
    committed = set(run("git", "ls-tree", "-r", "--name-only", experiment).split())
    assert warned == {"data/untracked.csv", "data/tracked.csv"}
    assert committed & set(files) == warned
    run("dvc", "add", "--quiet", "data/untracked.csv")
    (earlier,) = warnings(params, "data/untracked.csv")
    assert "an earlier experiment committed this file to git" in earlier
