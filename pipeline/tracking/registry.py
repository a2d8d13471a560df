"""The registry of models in MLflow, which `publish` writes. Its calls are no telemetry: they raise.

The release table decides which version serves; the registry's aliases follow it.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import mlflow
import structlog
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from pipeline.errors import ToolError
from pipeline.tracking.address import tracking_uri
from pipeline.tracking.descriptions import as_tags, version_description, version_tags
from pipeline.tracking.logged_models import ensure_model
from pipeline.tracking.store import EXPERIMENT, connect, is_missing, restore_run

PACKAGE, SHOWN = "package", 12  # a version's tag with the first characters of its content digest, by which it is found
URGENT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "5"}
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


@contextmanager
def few_attempts() -> Iterator[None]:
    """Let calls to an MLflow server that is away fail within seconds: by default MLflow tries for minutes."""
    before = {name: os.environ.get(name) for name in URGENT}
    os.environ.update(URGENT)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def register(name: str, exported: Path, lineage: Mapping[str, Any]) -> int:
    """Return the version number of the content `lineage['content_digest']`; register it first when it is absent. May raise."""
    digest = lineage["content_digest"]
    client = mlflow.MlflowClient()
    for key, value in ((PACKAGE, digest[:SHOWN]), ("content_digest", digest)):  # the second in versions of earlier releases
        versions: list[ModelVersion] = client.search_model_versions(f"name = '{name}' and tags.{key} = '{value}'")
        if versions:
            return min(int(entry.version) for entry in versions)
    return _register(name, exported, lineage)


def _register(name: str, exported: Path, lineage: Mapping[str, Any]) -> int:
    """Register a version, with what a person compares versions by; the whole lineage is in `lineage.json`."""
    with _in_run(lineage.get("mlflow_run_id")):
        run_id = mlflow.active_run().info.run_id
        uri = ensure_model(run_id, exported)
    run = mlflow.get_run(run_id)
    facts = version_tags(run.data.metrics, run.data.params)
    origin = {key: lineage.get(key) for key in ("parent_version", "decision")}
    tags = facts | as_tags({**origin, PACKAGE: lineage["content_digest"][:SHOWN]})
    number = int(mlflow.register_model(uri, name, tags=tags).version)
    mlflow.MlflowClient().update_model_version(name, str(number), version_description(facts, run.info.run_name))
    return number


@contextmanager
def _in_run(run_id: str | None) -> Iterator[None]:
    """Continue the run, or start a new one when this store does not know it."""
    try:
        known = run_id if run_id and mlflow.get_run(run_id) else None
        if known:
            restore_run(known)
    except MlflowException:
        known = None
    tags = None if known else as_tags({"evergreen.trained_in": run_id})
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


def register_again(name: str, versions: Mapping[int, tuple[Path, Mapping[str, Any]]]) -> None:
    """Register versions under the numbers they had, after the whole model was deleted. May raise.

    `versions` gives the folder and lineage of each version that still exists. MLflow counts from 1 and never gives a number
    twice, so a version that is gone is registered and deleted.
    """
    client = mlflow.MlflowClient()
    client.create_registered_model(name)
    for number in range(1, max(versions, default=0) + 1):
        if number not in versions:
            gone = client.create_model_version(name, mlflow.get_experiment_by_name(EXPERIMENT).artifact_location)
            client.delete_model_version(name, gone.version)
            continue
        _register(name, *versions[number])
    log.warning("registry_made_again", model=name, versions=sorted(versions))
