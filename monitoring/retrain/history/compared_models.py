"""Finds the two models of a comparison: the working tree, a version, a DVC experiment or git revision, or an MLflow run."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml

from monitoring.retrain.history.comparison import ComparedModel
from monitoring.retrain.history.sources import Sources, find_version
from pipeline.data.records import read_examples, read_json, texts_by_id
from pipeline.errors import InputError
from pipeline.home import ARTIFACTS
from pipeline.row_predictions import PREDICTIONS_FILE, read_predictions, referenced_predictions
from pipeline.tracking.logged_runs import RUN_ID, LoggedRun, find_run, read_evaluation
from pipeline.tracking.revisions import read_files
from serving.release.offline import find_package

WORKSPACE = "workspace"  # DVC's word for the working tree
PARAMS = Path("params.yaml")
PREDICTIONS = ARTIFACTS / "evaluation" / PREDICTIONS_FILE
TEST_ROWS = ARTIFACTS / "split/test.parquet"
EVALUATE_AGAIN = "score it with this release: .venv/bin/dvc repro evaluate"


def find_model(name: str, sources: Sources) -> ComparedModel:
    """Return the model that a name stands for; raise `InputError` that lists the kinds of names."""
    if name == WORKSPACE:
        return _workspace()
    version = find_version(name, sources)
    if version is not None:
        return _published(version, sources)
    if RUN_ID.fullmatch(name):
        run = find_run(name, sources.home)
        if run is None:
            raise InputError(name, "MLflow has no such run", "make ui shows the runs")
        return _logged(run, sources.home)
    try:
        return _revision(name)
    except InputError:
        run = find_run(name, sources.home)
        if run is not None:
            return _logged(run, sources.home)
        raise


def _workspace() -> ComparedModel:
    if not PREDICTIONS.is_file():
        raise InputError(str(PREDICTIONS), "there is no such file", EVALUATE_AGAIN)
    rows = read_predictions(PREDICTIONS, str(PREDICTIONS))
    return ComparedModel("the working tree", rows, flat_params(PARAMS.read_text(encoding="utf-8")), texts_by_id(TEST_ROWS))


def _published(version: int, sources: Sources) -> ComparedModel:
    """Return a version, with the predictions in its reference and the params of its run."""
    package = find_package(str(version), sources.home)
    rows = referenced_predictions(package.folder / "reference.npz")
    run_id = read_json(package.folder / "1" / "model.json", "the packaged model").get("origin", {}).get("mlflow_run_id")
    run = find_run(run_id, sources.home) if run_id else None
    return ComparedModel(package.title, rows, run.params if run else {}, texts_by_id(TEST_ROWS))


def _logged(run: LoggedRun, home: Path) -> ComparedModel:
    where = f"run {run.name or run.id}"
    content = read_evaluation(run.id, PREDICTIONS_FILE, home)
    if content is None:
        raise InputError(where, f"MLflow has no {PREDICTIONS_FILE} of this run", EVALUATE_AGAIN)
    return ComparedModel(where, read_predictions(pa.BufferReader(content), where), run.params, texts_by_id(TEST_ROWS))


def _revision(name: str) -> ComparedModel:
    files = read_files(name, [PARAMS, PREDICTIONS, TEST_ROWS])
    if PREDICTIONS not in files:
        raise InputError(name, f"this revision has no {PREDICTIONS}", EVALUATE_AGAIN)
    rows = read_predictions(pa.BufferReader(files[PREDICTIONS]), name)
    texts = texts_by_id(TEST_ROWS)
    if TEST_ROWS in files:
        texts |= {row.id: row.text for row in read_examples(pa.BufferReader(files[TEST_ROWS]))}
    return ComparedModel(name, rows, flat_params(files.get(PARAMS, b"").decode("utf-8")), texts)


def flat_params(text: str) -> dict[str, str]:
    """Return `{"train.epochs": "8", …}` of a params.yaml, whichever keys it has."""
    sections: dict[str, Any] = yaml.safe_load(text) or {}
    records = {name: keys for name, keys in sections.items() if isinstance(keys, dict)}
    return {f"{name}.{key}": str(value) for name, keys in records.items() for key, value in keys.items()}
