"""The stages that train, with real MLflow: a killed run resumes, a failed one is recorded, every fold has a run."""

import os
import signal
import subprocess
import time
from hashlib import sha256
from pathlib import Path
from typing import cast

import mlflow
import pytest

from pipeline.data.records import Example, write_examples, write_json
from pipeline.errors import RefusedError
from pipeline.learning.fit import fine_tune, prepare
from pipeline.network.trained_model import save_trained
from pipeline.params import Params, flatten
from pipeline.stages.cross_validate import cross_validate
from pipeline.tracking.runs import Run, stage_run
from pipeline.tracking.store import EXPERIMENT
from tests.conftest import Project
from tests.pipeline.learning.toy import MONEY, PARCEL, Recorder

COMMAND = (
    "python",
    "-m",
    "pipeline.stages.train",
    "--split",
    "split",
    "--spread",
    "spread",
    "--model",
    "model",
    "--curves",
    "curves",
)
SMALL = {"epochs": 3, "batch_size": 4, "precision": "fp32", "log_every_steps": 1, "checkpoint_s": 0}


def examples(part: slice) -> list[Example]:
    texts_by_label = {"parcel": PARCEL[part], "money": MONEY[part]}
    return [Example(id=text, text=text, label=label) for label, texts in texts_by_label.items() for text in texts]


def sha256_of(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def ready(project: Project) -> Project:
    """Return a project with split rows, whose training has 12 steps and writes a checkpoint after each."""
    project.set(model={"lora_rank": 2}, train=SMALL)
    sides = {"train": slice(0, 7), "val": slice(7, 9), "test": slice(9, 10)}
    for side, part in sides.items():
        write_examples(project / f"split/{side}.parquet", examples(part))
    write_examples(project / "spread/rows.parquet", [])
    write_json(project / "spread/report.json", {"texts": 0})
    write_json(project / "split/report.json", {"digests": dict.fromkeys(sides, "0" * 64)})
    return project


def kill_after_a_checkpoint(project: Project) -> None:
    """Start the stage, and kill -9 it when its second checkpoint is complete."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("EVERGREEN_", "MLFLOW_", "DVC_"))}
    python = str(project / ".venv/bin/python")
    process = subprocess.Popen([python, *COMMAND[1:]], cwd=project.folder, env=environment, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 600
    while len(markers(project)) < 2 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL  # it had not finished
    assert markers(project)


def markers(project: Project) -> list[Path]:
    """Return the markers of complete checkpoints."""
    return list(project.home.glob("checkpoints/*/step-*.json"))


def test_a_killed_training_resumes_in_the_same_run_and_writes_the_bytes_of_an_uninterrupted_one(
    ready: Project, tmp_path: Path
) -> None:
    params, run = ready.params, cast(Run, Recorder())
    uninterrupted = fine_tune(prepare(examples(slice(0, 7)), examples(slice(7, 9)), params), params, run, None, tmp_path)
    save_trained(tmp_path / "expected", uninterrupted.state, ["money", "parcel"], {})
    kill_after_a_checkpoint(ready)
    assert not (ready / "model").exists()
    assert "training_resumed" in ready.must(*COMMAND)
    assert sha256_of(ready / "model/adapter.safetensors") == sha256_of(tmp_path / "expected/adapter.safetensors")
    assert list((ready.home / "checkpoints").iterdir()) == []
    client = mlflow.MlflowClient(f"sqlite:///{ready.home / 'mlflow.db'}")
    (stored,) = client.search_runs([client.get_experiment_by_name(EXPERIMENT).experiment_id])
    assert stored.info.status == "FINISHED"
    assert int(stored.data.tags["resumed_from_step"]) >= 1


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a fresh home of state with its own MLflow."""
    return tmp_path_factory.mktemp("training")


@pytest.fixture(scope="module")
def small(params: Params) -> Params:
    train = params.train.model_copy(update=SMALL | {"epochs": 1, "folds": 2})
    return params.model_copy(update={"train": train, "model": params.model.model_copy(update={"lora_rank": 2})})


def test_exploding_gradients_leave_a_failed_run_with_its_picture_and_no_model(small: Params, home: Path) -> None:
    wild = small.model_copy(update={"train": small.train.model_copy(update={"encoder_lr": 1e30, "head_lr": 1e30, "epochs": 6})})
    with pytest.raises(RefusedError, match="bad steps in a row"), stage_run("train", flatten(wild.train, "train"), home) as run:
        fine_tune(prepare(examples(slice(0, 7)), examples(slice(7, 9)), wild), wild, run, None, home)
    failed = mlflow.get_run(run.id)
    assert failed.info.status == "FAILED"
    assert failed.data.metrics["by_step/lr_backoff"] < 1
    assert [file.path for file in mlflow.MlflowClient().list_artifacts(run.id, "figures")] == ["figures/schedule.png"]


def test_every_fold_is_a_child_of_the_run_that_holds_the_mean(small: Params, home: Path, tmp_path: Path) -> None:
    result = cross_validate(examples(slice(0, 10)), small, tmp_path, home)
    scores = [fold["val_f1_macro"] for fold in result["folds"]]
    assert len(scores) == 2
    assert result["over_folds"]["val_f1_macro"]["mean"] == pytest.approx(sum(scores) / 2)
    children = [mlflow.get_run(fold["run"]) for fold in result["folds"]]
    (parent,) = {child.data.tags["mlflow.parentRunId"] for child in children}
    assert mlflow.get_run(parent).data.metrics["folds/val_f1_macro_mean"] == pytest.approx(sum(scores) / 2)
    assert {run.info.status for run in [*children, mlflow.get_run(parent)]} == {"FINISHED"}
    again = cross_validate(examples(slice(0, 10)), small, tmp_path, home)
    assert [fold["run"] for fold in again["folds"]] == [fold["run"] for fold in result["folds"]]  # not trained again
