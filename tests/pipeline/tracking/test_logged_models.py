"""A run has one servable model, whose scores name the data that they were measured on."""

import shutil
from pathlib import Path

import mlflow
import pandas as pd
import pytest
from mlflow.entities import LoggedModel, LoggedModelStatus

from pipeline.tracking import logged_models
from pipeline.tracking.logged_models import ensure_model
from pipeline.tracking.runs import Run, stage_run
from pipeline.tracking.store import EXPERIMENT, connect


@pytest.fixture
def home(mlflow_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a home in whose store a saved model is one file, which takes MLflow seconds otherwise."""
    shutil.copy(mlflow_store, tmp_path)
    connect(tmp_path)

    def save(folder: Path, _described: object, exported: Path) -> None:
        shutil.copytree(exported, folder)

    monkeypatch.setattr(logged_models, "_save", save)
    return tmp_path


def exported(home: Path, content: str) -> Path:
    folder = home / content
    folder.mkdir(exist_ok=True)
    for name in logged_models.MODEL_FILES:
        (folder / name).write_text(content)
    return folder


def trained(home: Path) -> Run:
    """Return a run with a data set and scores."""
    with stage_run("train", {"data.source": "data/few.jsonl"}, home) as run:
        frame = pd.DataFrame({"text": ["a", "b"], "label": ["x", "y"]})
        run.dataset(frame, name="few test", source="data/few.jsonl", context="test", digest="0" * 64)
        run.metrics({"test/accuracy": 0.9, "control/accuracy": 0.8, "train/seconds": 4.0})
    return run


def models() -> list[LoggedModel]:
    experiment = mlflow.get_experiment_by_name(EXPERIMENT).experiment_id
    return list(mlflow.MlflowClient().search_logged_models([experiment]))


def test_a_run_has_one_model_however_often_it_is_asked_for(home: Path) -> None:
    run = trained(home)
    first = ensure_model(str(run.id), exported(home, "one"))
    assert ensure_model(str(run.id), exported(home, "one")) == first
    (model,) = models()
    assert (model.name, model.status, model.model_uri) == ("few", LoggedModelStatus.READY, first)


def test_scores_of_the_model_name_their_data_and_the_run_gets_no_second_point(home: Path) -> None:
    run = trained(home)
    ensure_model(str(run.id), exported(home, "one"))
    (model,) = models()
    measured = {metric.key: (metric.value, metric.dataset_name, metric.dataset_digest) for metric in model.metrics}
    assert measured == {"test/accuracy": (0.9, "few test", "0" * 36), "control/accuracy": (0.8, "few test", "0" * 36)}
    assert len(mlflow.MlflowClient().get_metric_history(str(run.id), "test/accuracy")) == 1
    assert [output.model_id for output in mlflow.get_run(str(run.id)).outputs.model_outputs] == [model.model_id]


def test_an_unfinished_model_and_an_earlier_content_are_deleted_and_a_registered_one_stays(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trained(home)
    with monkeypatch.context() as patch:
        patch.setattr(logged_models, "_save", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            ensure_model(str(run.id), exported(home, "one"))
    assert [model.status for model in models()] == [LoggedModelStatus.FAILED]
    ensure_model(str(run.id), exported(home, "one"))
    registered = ensure_model(str(run.id), exported(home, "two"))
    assert [model.model_uri for model in models()] == [registered]
    mlflow.register_model(registered, "evergreen")
    third = ensure_model(str(run.id), exported(home, "three"))
    assert {model.model_uri for model in models()} == {registered, third}
