"""The names of a comparison: the working tree, a version, a git revision with its own files, a run of MLflow."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import mlflow
import numpy as np
import pytest
from typer.testing import CliRunner

from evergreen.cli import app
from monitoring.retrain.history.compared_models import PREDICTIONS, TEST_ROWS, find_model
from monitoring.retrain.history.sources import Sources, open_sources
from pipeline.data.columns import Columns
from pipeline.data.records import make_example, write_examples
from pipeline.errors import InputError
from pipeline.params import Params
from pipeline.row_predictions import write_predictions
from pipeline.tracking.runs import stage_run
from tests.conftest import ROOT


def git(*arguments: str) -> None:
    subprocess.run(["git", *arguments], check=True, capture_output=True)


def write_run(text: str, answer: str, epochs: int) -> None:
    """Write what a run leaves: params, the test row and its prediction."""
    row = make_example({"text": text, "label": "yes"}, Columns("text", "label"), max_text_chars=100, source="test")
    write_examples(TEST_ROWS, [row])
    shares = np.array([[0.75, 0.25]]) if answer == "yes" else np.array([[0.25, 0.75]])
    write_predictions(PREDICTIONS, [row.id], ["yes"], shares, ["yes", "no"])
    values = (ROOT / "params.yaml").read_text(encoding="utf-8").replace("epochs: 6", f"epochs: {epochs}", 1)
    Path("params.yaml").write_text(values, encoding="utf-8")


@pytest.fixture
def sources(tmp_path: Path, params: Params, mlflow_store: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sources]:
    """Return the sources of a project with a branch `right` and, in the working tree, a model that is wrong."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EVERGREEN_HOME", str(tmp_path / "live"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "live").mkdir(mode=0o700)
    (tmp_path / "live" / "mlflow.db").write_bytes(mlflow_store.read_bytes())
    git("init", "--quiet", "--initial-branch=main")
    git("config", "user.email", "tests@example.org")
    git("config", "user.name", "tests")
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").touch()
    (tmp_path / ".gitignore").write_text("live/\n", encoding="utf-8")
    write_run("a text of the branch", "yes", 6)
    git("add", "--all")
    git("commit", "--quiet", "--message", "right")
    git("branch", "right")
    write_run("a text of the branch", "no", 8)
    with open_sources(tmp_path / "live", params) as opened:
        yield opened


def test_a_revision_is_compared_with_the_working_tree(sources: Sources) -> None:
    right, here = find_model("right", sources), find_model("workspace", sources)
    assert (right.rows[0].predicted, here.rows[0].predicted) == ("yes", "no")
    assert (right.params["train.epochs"], here.params["train.epochs"]) == ("6", "8")
    shown = CliRunner().invoke(app, ["compare", "right"]).output
    assert "1 test rows in common" in shown
    assert "B loses 1, gains 0" in shown
    assert "“a text of the branch”" in shown
    assert "train.epochs" in shown
    assert max(map(len, shown.splitlines())) <= 100


def test_a_run_is_found_by_its_id_and_its_name(sources: Sources) -> None:
    with stage_run("evaluate", {"train.epochs": "6"}, sources.home) as run:
        run.files(PREDICTIONS.parent)
    named = mlflow.get_run(run.id).info.run_name
    for name in (str(run.id), named):
        found = find_model(name, sources)
        assert (found.rows[0].predicted, found.params) == ("no", {"train.epochs": "6"})
    with stage_run("train", {"train.epochs": "7"}, sources.home) as run:
        pass
    with pytest.raises(InputError, match=r"no predictions\.parquet of this run"):
        find_model(str(run.id), sources)


def test_an_unknown_name_is_answered_with_where_names_are(sources: Sources) -> None:
    with pytest.raises(InputError, match="no experiment, branch, tag or commit"):
        find_model("puffy-daks", sources)
    with pytest.raises(InputError, match="MLflow has no such run"):
        find_model("0" * 32, sources)
    PREDICTIONS.unlink()
    with pytest.raises(InputError, match="dvc repro evaluate"):
        find_model("workspace", sources)
