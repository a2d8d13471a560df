"""The command `predict` on a packaged model: what it writes, prints and imports."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from evergreen.cli import app
from evergreen.predicting import progress_lines
from pipeline.errors import InputError
from pipeline.output.terminal import Terminal
from pipeline.params import Params
from tests.conftest import ROOT
from tests.monitoring.retrain.gate.small_models import fit, load_rows, write_package

TEXTS = "id,text\n1,where is my parcel?\n2,\n3,i want my money back\n"


@pytest.fixture(scope="module")
def package(params: Params, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_package(fit(load_rows(params.split).train[:400]), tmp_path_factory.mktemp("package"))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("EVERGREEN_HOME", str(tmp_path / "home"))
    (tmp_path / "in.csv").write_text(TEXTS, encoding="utf-8")
    return tmp_path


def run(*arguments: str, given: str = "") -> Result:
    return CliRunner().invoke(app, ["predict", *arguments], input=given)


def test_rows_are_predicted_and_a_bad_one_is_counted_after_the_file_is_written(folder: Path, package: Path) -> None:
    done = run(str(folder / "in.csv"), "--out", str(folder / "out.jsonl"), "--model", str(package))
    assert isinstance(done.exception, InputError)
    assert done.exception.exit_code == 2
    assert "1 row has no label" in str(done.exception)
    assert "line 3: text is empty" in str(done.exception)
    assert "2 of 3 rows are predicted" in done.stderr
    rows = [json.loads(line) for line in (folder / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["id"] for row in rows] == ["1", "2", "3"]
    assert [row["predicted_label"] is None for row in rows] == [False, True, False]
    assert sum(rows[0]["probabilities"].values()) == pytest.approx(1, abs=1e-4)
    assert rows[0]["confidence"] == max(rows[0]["probabilities"].values())


def test_stdin_and_stdout_hold_rows_alone(folder: Path, package: Path) -> None:
    done = run("-", "--model", str(package), "--no-probabilities", given="id,text\n1,where is my parcel?\n")
    assert done.exit_code == 0
    header, row = done.stdout.splitlines()
    assert header == "id,text,predicted_label,confidence,model_version,reason"
    assert row.startswith("1,where is my parcel?,")
    assert "1 of 1 rows" in done.stderr


def test_nothing_is_predicted_into_a_file_that_exists(folder: Path, package: Path) -> None:
    (folder / "out.csv").write_text("mine", encoding="utf-8")
    done = run(str(folder / "in.csv"), "--out", str(folder / "out.csv"), "--model", str(package))
    assert "the file exists" in str(done.exception)
    assert (folder / "out.csv").read_text(encoding="utf-8") == "mine"


def test_an_unknown_model_is_named(folder: Path) -> None:
    done = run(str(folder / "in.csv"), "--model", "challenger")
    assert "no published version, no role and no folder" in str(done.exception)


def test_torch_and_mlflow_are_not_imported(folder: Path, package: Path) -> None:
    arguments = ["predict", str(folder / "in.csv"), "--model", str(package), "--format", "jsonl"]
    program = f"""
import sys
from evergreen.cli import app
from pipeline.errors import InputError
try:
    app({arguments!r}, standalone_mode=False)
except InputError:
    print(sorted({{"torch", "transformers", "mlflow", "pandas", "dvc"}} & sys.modules.keys()), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
    assert len(done.stdout.splitlines()) == 3
    assert done.stderr.splitlines()[-1] == "[]"


def test_progress_is_a_line_now_and_then_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    times = iter([0.0, 5.0, 20.0, 25.0, 40.0])
    advance = progress_lines(Terminal(stderr=True), 400, lambda: next(times))
    for _ in range(4):
        advance(100)
    assert capsys.readouterr().err.splitlines() == ["200 of 400 rows, 10 a second, 20 s left"]
