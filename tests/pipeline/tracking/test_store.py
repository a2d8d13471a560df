"""What is deleted in MLflow's pages, and a home of state that is moved, stop neither training nor publishing, and are mended."""

import json
import shutil
from pathlib import Path
from typing import Any

import mlflow
import pytest
from structlog.testing import capture_logs

from pipeline.tracking import registry as model_registry
from pipeline.tracking.address import default_uri
from pipeline.tracking.runs import stage_run
from pipeline.tracking.store import EXPERIMENT, EXPERIMENT_TAGS, NOTE, connect, follow_moved_home
from serving.release.manifest import LINEAGE
from serving.release.publish import restore_registry


@pytest.fixture
def home(mlflow_store: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "first home"
    folder.mkdir()
    shutil.copy(mlflow_store, folder)
    connect(folder)
    return folder


@pytest.fixture
def _cheap_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """Log a model of one small file for each run: what these tests ask is where it lies."""

    def ensure_model(run_id: str, exported: Path) -> str:
        client = mlflow.MlflowClient()
        experiment = client.get_experiment_by_name(EXPERIMENT)
        model = client.create_logged_model(experiment.experiment_id, name="model", source_run_id=run_id)
        client.log_model_artifact(model.model_id, str(exported / "model.json"))
        client.finalize_logged_model(model.model_id, "READY")
        return f"models:/{model.model_id}"

    monkeypatch.setattr(model_registry, "ensure_model", ensure_model)


def experiment(home: Path) -> Any:
    return mlflow.MlflowClient(default_uri(home)).get_experiment_by_name(EXPERIMENT)


def names(logs: list[Any]) -> list[str]:
    return [entry["event"] for entry in logs if entry["log_level"] == "warning"]


def release(home: Path, number: int) -> tuple[Path, dict[str, Any]]:
    """Make a published folder, and return its model and lineage."""
    folder = home / f"models/intent-{number}"
    (folder / "1").mkdir(parents=True)
    (folder / "1/model.json").write_text("{}")
    lineage = {"version": number, "content_digest": f"d{number}", "mlflow_run_id": None}
    (folder / LINEAGE).write_text(json.dumps(lineage))
    return folder / "1", lineage


def test_a_deleted_experiment_is_restored_with_its_runs_and_training_is_tracked(home: Path) -> None:
    with stage_run("train", {"train.epochs": "1"}, home) as first:
        pass
    mlflow.delete_experiment(experiment(home).experiment_id)
    with capture_logs() as logs, stage_run("evaluate", {}, home, continues=first.id) as second:
        second.metrics({"test/accuracy": 0.9})
    assert names(logs) == ["mlflow_experiment_restored"]
    assert experiment(home).lifecycle_stage == "active"
    assert second.id == first.id
    assert mlflow.get_run(str(first.id)).data.metrics == {"test/accuracy": 0.9}


def test_an_experiment_that_was_removed_for_good_is_made_anew(mlflow_store: Path, tmp_path: Path) -> None:
    shutil.copy(mlflow_store, tmp_path)
    assert connect(tmp_path) == []
    assert experiment(tmp_path).artifact_location == (tmp_path / "mlartifacts").as_uri()


def test_the_experiment_opens_among_trained_models_also_in_a_store_of_an_earlier_release(home: Path) -> None:
    """MLflow's pages show traces of chats for an experiment without a kind. What a person chose stays."""
    client = mlflow.MlflowClient(default_uri(home))
    assert experiment(home).tags == EXPERIMENT_TAGS
    id = experiment(home).experiment_id
    client.delete_experiment_tag(id, "mlflow.experimentKind")  # as earlier releases left it
    client.set_experiment_tag(id, NOTE, "ours")
    connect(home)
    assert experiment(home).tags == EXPERIMENT_TAGS | {NOTE: "ours"}


@pytest.mark.parametrize("what", ["run", "experiment"])
def test_what_is_deleted_while_a_stage_runs_is_restored_and_nothing_is_lost(home: Path, what: str) -> None:
    with capture_logs() as logs:
        with stage_run("train", {}, home) as run:
            if what == "run":
                mlflow.delete_run(str(run.id))
            else:
                mlflow.delete_experiment(experiment(home).experiment_id)
            run.metrics({"train/loss": 1.0}, 1)
            mlflow.delete_run(str(run.id))
        stored = mlflow.get_run(str(run.id))
    assert names(logs).count("mlflow_run_restored") == 2
    assert (stored.info.lifecycle_stage, stored.info.status) == ("active", "FINISHED")
    assert stored.data.metrics["train/loss"] == 1.0


def test_a_deleted_run_is_restored_when_a_stage_continues_it_or_nests_in_it(home: Path) -> None:
    with stage_run("train", {"train.epochs": "1"}, home) as first:
        pass
    mlflow.delete_run(str(first.id))
    with stage_run("evaluate", {}, home, continues=first.id) as second:
        pass
    mlflow.delete_run(str(first.id))
    with stage_run("fold 1", {}, home, parent=first.id) as nested:
        pass
    assert second.id == first.id
    assert mlflow.get_run(str(nested.id)).data.tags["mlflow.parentRunId"] == first.id
    assert mlflow.get_run(str(first.id)).info.lifecycle_stage == "active"


@pytest.mark.usefixtures("_cheap_models")
def test_a_deleted_model_is_registered_again_under_the_numbers_that_its_versions_had(home: Path) -> None:
    for number in (1, 2, 3):
        assert model_registry.register("evergreen", *release(home, number)) == number
    shutil.rmtree(home / "models/intent-2")
    client = mlflow.MlflowClient()
    client.delete_registered_model("evergreen")
    with capture_logs() as logs:
        model_registry.set_alias("evergreen", "champion", 3)
        assert restore_registry("evergreen", home) == [1, 3]
        model_registry.set_alias("evergreen", "champion", 3)
    assert names(logs) == ["registry_lacks_version", "registry_made_again"]
    aliases = client.get_registered_model("evergreen").aliases
    assert {alias: int(number) for alias, number in aliases.items()} == {"champion": 3}
    assert sorted(int(version.version) for version in client.search_model_versions("name = 'evergreen'")) == [1, 3]
    assert restore_registry("evergreen", home) == []
    assert model_registry.register("evergreen", *release(home, 4)) == 4
    assert model_registry.register("evergreen", home, {"content_digest": "d3"}) == 3


@pytest.mark.usefixtures("_cheap_models")
def test_a_version_shows_scores_and_data_and_no_tag_says_none(home: Path) -> None:
    exported, lineage = release(home, 1)
    with stage_run("train", {"data.source": "data/few.jsonl"}, home) as run:
        run.metrics({"test/accuracy": 0.9, "control/accuracy": 0.8})
        run.tags({"resumed": None})
    lineage |= {"mlflow_run_id": run.id, "parent_version": None, "decision": 7, "git_commit": "a" * 40}
    model_registry.register("evergreen", exported, lineage)
    version = mlflow.MlflowClient().get_model_version("evergreen", "1")
    shown = {"accuracy": "90.0 %", "control": "80.0 %", "data": "data/few.jsonl", "decision": "7", "package": "d1"}
    assert version.tags == shown
    assert version.description == "accuracy 90.0 %, control 80.0 %, data data/few.jsonl; run few"
    assert [tag for tag in mlflow.get_run(str(run.id)).data.tags.values() if tag == "None"] == []


@pytest.mark.usefixtures("_cheap_models")
def test_a_version_of_an_earlier_release_is_found_by_its_content(home: Path) -> None:
    exported, lineage = release(home, 1)
    lineage["content_digest"] = "ab" * 32
    model_registry.register("evergreen", exported, lineage)
    client = mlflow.MlflowClient()
    client.delete_model_version_tag("evergreen", "1", "package")
    client.set_model_version_tag("evergreen", "1", "content_digest", "ab" * 32)  # as earlier releases left it
    assert model_registry.register("evergreen", exported, lineage) == 1
    assert len(client.search_model_versions("name = 'evergreen'")) == 1


@pytest.mark.usefixtures("_cheap_models")
def test_a_deleted_version_costs_its_alias_and_no_more(home: Path) -> None:
    model_registry.register("evergreen", *release(home, 1))
    mlflow.MlflowClient().delete_model_version("evergreen", "1")
    with capture_logs() as logs:
        model_registry.set_alias("evergreen", "champion", 1)
    assert names(logs) == ["registry_lacks_version"]
    assert "was deleted in MLflow" in model_registry.registry_fault("evergreen", 1)


@pytest.mark.usefixtures("_cheap_models")
def test_a_moved_home_is_followed(home: Path, tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("a file of the run")
    with stage_run("train", {}, home) as run:
        run.file(tmp_path / "note.txt", "notes")
    exported, lineage = release(home, 1)
    model_registry.register("evergreen", exported, lineage | {"mlflow_run_id": run.id})
    model_registry.set_alias("evergreen", "champion", 1)
    moved = tmp_path / "second home"
    home.rename(moved)
    with capture_logs() as logs:
        (notice,) = connect(moved)
    assert str(home / "mlartifacts") in notice
    assert names(logs) == ["mlflow_follows_moved_home"]
    assert model_registry.registry_fault("evergreen", 1) == ""
    assert mlflow.artifacts.load_text(f"runs:/{run.id}/notes/note.txt") == "a file of the run"
    assert Path(mlflow.artifacts.download_artifacts("models:/evergreen@champion")).is_relative_to(moved)
    with stage_run("train", {}, moved) as later:  # a new one: MLflow remembers in memory where files of a run lie
        later.file(tmp_path / "note.txt", "more")
    assert list((moved / "mlartifacts").rglob("more/note.txt"))
    assert not home.exists()
    assert connect(moved) == []


def test_artefacts_in_a_place_that_a_person_chose_stay_there(home: Path, tmp_path: Path) -> None:
    import sqlite3

    with sqlite3.connect(home / "mlflow.db") as store:
        store.execute("UPDATE experiments SET artifact_location = 's3://bucket/mlartifacts' WHERE name = ?", (EXPERIMENT,))
    assert follow_moved_home(home) is None
