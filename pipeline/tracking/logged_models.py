"""The servable model of a run in MLflow: one a run, with the scores that it reached on which data set."""

import sys
from importlib.metadata import version
from pathlib import Path
from shutil import rmtree
from tempfile import TemporaryDirectory
from urllib.parse import unquote, urlparse

import mlflow
from mlflow.entities import LoggedModel, LoggedModelOutput, LoggedModelStatus, Metric
from mlflow.entities import Run as StoredRun
from mlflow.models import Model
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

from pipeline.home import close_to_others
from pipeline.runtime.model_files import MODEL_FILES, model_digest
from pipeline.tracking.descriptions import model_name
from pipeline.tracking.store import EXPERIMENT

MODEL_TYPE = "text classifier"
DIGEST = "model_digest"
MEASURED_ON = {"test": "test", "control": "test", "val": "val"}  # group of metrics → side of the split
EXAMPLE = ["where is my parcel?", "the kettle leaks"]


def ensure_model(run_id: str, exported: Path) -> str:
    """Return the URI of the run's servable model with this content; log the model first when it is absent. May raise.

    A run has one model: an unfinished one, and an earlier content that no version was registered from, are deleted.
    """
    client = mlflow.MlflowClient()
    experiment = mlflow.get_experiment_by_name(EXPERIMENT)
    digest = model_digest(exported)
    # MLflow's own filter on `status` finds nothing in an SQL store, which keeps it as a number
    models = client.search_logged_models([experiment.experiment_id], filter_string=f"source_run_id = '{run_id}'")
    complete = [model for model in models if model.status == LoggedModelStatus.READY and model.tags.get(DIGEST) == digest]
    registered = {version.source for version in client.search_model_versions(f"run_id = '{run_id}'")}
    kept = min(complete, key=lambda model: (model.model_uri not in registered, model.creation_timestamp), default=None)
    if kept is None:
        kept = _log_model(client, client.get_run(run_id), experiment.experiment_id, exported, digest)
    for model in models:
        if model.model_id != kept.model_id and model.model_uri not in registered:
            client.delete_logged_model(model.model_id)
    return str(kept.model_uri)


def _log_model(client: mlflow.MlflowClient, run: StoredRun, experiment_id: str, exported: Path, digest: str) -> LoggedModel:
    """Log the model step by step: `pyfunc.log_model` would copy every metric, those of the machine too, without data set."""
    run_id = run.info.run_id
    logged: LoggedModel = client.create_logged_model(
        experiment_id, model_name(run.info.run_name), run_id, {DIGEST: digest}, run.data.params, MODEL_TYPE
    )
    try:
        client.log_batch(run_id, metrics=_metrics_with_data(client, run, logged.model_id))
        described = Model(
            artifact_path=logged.artifact_location, model_uuid=logged.model_id, run_id=run_id, model_id=logged.model_id
        )
        with TemporaryDirectory() as folder:
            _save(Path(folder) / "model", described, exported)
            client.log_model_artifacts(logged.model_id, str(Path(folder) / "model"))
        client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
    except BaseException:
        client.finalize_logged_model(logged.model_id, LoggedModelStatus.FAILED)
        raise
    client.finalize_logged_model(logged.model_id, LoggedModelStatus.READY)
    location = urlparse(logged.artifact_location)
    if location.scheme == "file":
        close_to_others(Path(unquote(location.path)))  # MLflow copies files with their modes
    return logged


def _save(folder: Path, described: Model, exported: Path) -> None:
    package = Path(__file__).parents[1]
    sys.path.insert(0, str(package))  # MLflow runs the input example now, before it knows where `runtime` is
    try:
        mlflow.pyfunc.save_model(
            folder,
            mlflow_model=described,
            python_model=str(package / "tracking" / "pyfunc_model.py"),
            code_paths=[str(package / "runtime")],
            artifacts={name: str(exported / name) for name in MODEL_FILES},
            input_example=EXAMPLE,
            pip_requirements=[f"{name}=={version(name)}" for name in ("mlflow", "numpy", "onnxruntime", "tokenizers")],
        )
    finally:
        sys.path.remove(str(package))
    for cache in folder.rglob("__pycache__"):
        rmtree(cache)


def _metrics_with_data(client: mlflow.MlflowClient, run: StoredRun, model_id: str) -> list[Metric]:
    """Return the run's scores on rows of the split as scores of the model, each with the data set that it was measured on.

    Time and value are those of the run's own metric, so that the run gets no second point.
    """
    sides = {
        tag.value: given.dataset for given in run.inputs.dataset_inputs for tag in given.tags if tag.key == MLFLOW_DATASET_CONTEXT
    }
    metrics = []
    for key in run.data.metrics:
        data = sides.get(MEASURED_ON.get(key.partition("/")[0], ""))
        if data:
            last = client.get_metric_history(run.info.run_id, key)[-1]
            given = (model_id, data.name, data.digest, run.info.run_id)
            metrics.append(Metric(key, last.value, last.timestamp, last.step, *given))
    return metrics
