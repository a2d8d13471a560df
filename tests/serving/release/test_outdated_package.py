"""A trial ends with its scores: the package beside it is of an earlier model, and whoever uses it learns that."""

import json
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import evergreen
from evergreen import exporting, inspection, predicting, releasing
from pipeline.data.records import write_json
from pipeline.errors import EvergreenError, InputError
from pipeline.params import Params
from serving.release import publish
from serving.release.offline import find_package, outdated_note
from tests.conftest import ROOT
from tests.monitoring.retrain.gate.small_models import fit, load_rows, write_manifest, write_package

ORIGIN = {"mlflow_run_id": "0" * 32, "git_commit": "c" * 40, "git_dirty": False, "data_digest": "d" * 64}
SCORES = {"test": {"accuracy": 0.75}, "control": {"accuracy": 0.5}}
NOTE = "artifacts/package is of an earlier model than the last one trained here; to package that one: make repro"


@pytest.fixture(scope="module")
def package(params: Params, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make artifacts as `make repro` leaves them; return the package."""
    folder = write_package(fit(load_rows(params.split).train[:400]), tmp_path_factory.mktemp("project") / "artifacts" / "package")
    exported = json.loads((folder / "1" / "model.json").read_text())
    write_json(folder / "1" / "model.json", exported | {"origin": ORIGIN})
    write_json(folder / "card.json", {"scores": SCORES})
    return write_manifest(folder)


@pytest.fixture(autouse=True)
def _finished(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the artifacts be those of the package, and work beside them without a champion."""
    leave(package)
    monkeypatch.setenv("EVERGREEN_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(package.parents[1])
    for name in ("params.yaml", "dvc.yaml", "pipeline"):
        if not Path(name).exists():
            Path(name).symlink_to(ROOT / name)


def leave(package: Path, scores: Any = SCORES, **origin: Any) -> None:
    """Leave the training and the evaluation of a trial beside the package."""
    write_json(package.parent / "model" / "origin.json", ORIGIN | origin)
    write_json(package.parent / "evaluation" / "metrics.json", scores)


def test_the_package_of_the_last_training_needs_no_note(package: Path) -> None:
    assert outdated_note(package) == ""


def test_a_package_without_artifacts_beside_it_needs_no_note(package: Path, tmp_path: Path) -> None:
    (tmp_path / "package").symlink_to(package)
    assert outdated_note(tmp_path / "package") == ""


@pytest.mark.parametrize(
    "changed", [{"mlflow_run_id": "1" * 32}, {"data_digest": "e" * 64}, {"scores": {"test": {"accuracy": 0.8}}}]
)
def test_a_package_of_another_training_is_named(package: Path, changed: dict[str, Any]) -> None:
    leave(package, **changed)
    assert NOTE in outdated_note(package)
    assert NOTE in find_package(None, Path("home"), package).notes[0]


def test_a_training_without_a_tracked_run_is_known_by_its_scores(package: Path) -> None:
    leave(package, mlflow_run_id=None)
    assert outdated_note(package) == ""


def test_python_warns_of_it(package: Path) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        evergreen.load("artifacts")
    assert [str(warning.message) for warning in caught] == []
    leave(package, mlflow_run_id="1" * 32)
    for name in ("artifacts", None):
        with pytest.warns(RuntimeWarning, match="of an earlier model"):
            evergreen.load(name)


def test_predict_says_it_beside_the_rows(package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    leave(package, mlflow_run_id="1" * 32)
    (tmp_path / "in.csv").write_text("text\nwhere is my parcel?\n")
    predicting.predict(str(tmp_path / "in.csv"), out=str(tmp_path / "out.csv"), model=None, gateway=None)
    assert " ".join(capsys.readouterr().err.split()).count("is of an earlier model") == 1


@pytest.mark.parametrize(
    "command",
    [
        lambda folder: exporting.export(folder / "exported"),
        lambda _folder: inspection.gate(),
        lambda _folder: releasing.publish(None),
    ],
)
def test_who_hands_it_on_learns_it_first(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: Any
) -> None:
    def stop(*_: object) -> None:
        raise InputError("publish", "this is a test", "go on")

    monkeypatch.setattr(publish, "publish", stop)
    leave(package, mlflow_run_id="1" * 32)
    with suppress(EvergreenError):  # this small package has less than a gate needs
        command(tmp_path)
    assert "is of an earlier model" in " ".join(capsys.readouterr().out.split())
