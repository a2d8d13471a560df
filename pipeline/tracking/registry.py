"""The registry of models in MLflow, which `publish` writes. Its calls are no telemetry: they raise.

The release table decides which version serves; the registry's aliases follow it.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import mlflow
import structlog
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from pipeline.errors import ToolError
from pipeline.tracking.runs import ensure_model
from pipeline.tracking.store import EXPERIMENT, connect, is_missing, restore_run, tracking_uri

log = structlog.get_logger()


@contextmanager
def registry(home: Path) -> Iterator[list[str]]:
    """Connect to MLflow for registry calls; yield what was mended, and raise `ToolError` with advice when a call fails."""
    try:
        yield connect(home)
    except MlflowException as error:
        what = f"a registry call failed: {str(error)[:300]}"
        do = "check that MLflow runs, then repeat `.venv/bin/evergreen publish`: it continues where it stopped"
        raise ToolError(f"MLflow at {tracking_uri(home)}", what, do) from None


def register(name: str, run_id: str | None, exported: Path, tags: dict[str, str]) -> int:
    """Return the version number of the content `tags['content_digest']`; register it first when it is absent. May raise."""
    digest = tags["content_digest"]
    client = mlflow.MlflowClient()
    versions: list[ModelVersion] = client.search_model_versions(f"name = '{name}' and tags.content_digest = '{digest}'")
    if versions:
        return min(int(entry.version) for entry in versions)
    with _in_run(run_id):
        uri = ensure_model(mlflow.active_run().info.run_id, exported)
    return int(mlflow.register_model(uri, name, tags=tags).version)


@contextmanager
def _in_run(run_id: str | None) -> Iterator[None]:
    """Continue the run, or start a new one when this store does not know it."""
    try:
        known = run_id if run_id and mlflow.get_run(run_id) else None
        if known:
            restore_run(known)
    except MlflowException:
        known = None
    tags = None if known else {"evergreen.trained_in": str(run_id)}
    with mlflow.start_run(run_id=known, tags=tags):
        yield


def set_alias(name: str, alias: str, number: int | None) -> None:
    """Point `models:/name@alias` to version `number`, or remove the alias.

    The registry's aliases follow the release table and decide nothing: a version that was deleted in MLflow's pages, which MLflow
    cannot restore, costs its alias and no more.
    """
    client = mlflow.MlflowClient()
    try:
        aliases = client.get_registered_model(name).aliases
        if number is None:
            if alias in aliases:
                client.delete_registered_model_alias(name, alias)
        elif str(aliases.get(alias)) != str(number):
            client.set_registered_model_alias(name, alias, str(number))
    except MlflowException as error:
        if not is_missing(error):
            raise
        reason = "it was deleted in MLflow; the version is served all the same"
        log.warning("registry_lacks_version", model=name, version=number, alias=alias, reason=reason)


def has_registered_model(name: str) -> bool:
    """Return True when the registry has this model. May raise."""
    try:
        return bool(mlflow.MlflowClient().get_registered_model(name))
    except MlflowException as error:
        if not is_missing(error):
            raise
        return False


def registry_fault(name: str, number: int) -> str:
    """Describe why `models:/name/number` cannot be loaded; empty when it can. Its run is restored. May raise."""
    try:
        version = mlflow.MlflowClient().get_model_version(name, str(number))
        with suppress(MlflowException):  # of another store, or removed for good: the model needs no run
            restore_run(version.run_id)
        files = mlflow.artifacts.list_artifacts(artifact_uri=f"models:/{name}/{number}")
    except MlflowException as error:
        if not is_missing(error):
            raise
        return "it was deleted in MLflow, which cannot restore it; it is served all the same"
    return "" if files else "its files in MLflow are gone; it is served all the same"


def register_again(name: str, versions: Mapping[int, tuple[Path, dict[str, str]]]) -> None:
    """Register versions under the numbers they had, after the whole model was deleted. May raise.

    `versions` gives the folder and tags of each version that still exists. MLflow counts from 1 and never gives a number twice,
    so a version that is gone is registered and deleted.
    """
    client = mlflow.MlflowClient()
    client.create_registered_model(name)
    for number in range(1, max(versions, default=0) + 1):
        if number not in versions:
            gone = client.create_model_version(name, mlflow.get_experiment_by_name(EXPERIMENT).artifact_location)
            client.delete_model_version(name, gone.version)
            continue
        exported, tags = versions[number]
        with _in_run(tags.get("mlflow_run_id")):
            uri = ensure_model(mlflow.active_run().info.run_id, exported)
        mlflow.register_model(uri, name, tags=tags)
    log.warning("registry_made_again", model=name, versions=sorted(versions))
