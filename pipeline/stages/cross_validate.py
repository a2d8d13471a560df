"""`make folds`: train once for each fold of the training and validation rows, and report mean and deviation.

One MLflow run holds the mean and its child runs hold the folds. After an interruption, finished folds are not trained again.
"""

import argparse
import json
from hashlib import sha256
from pathlib import Path
from typing import Any

from pipeline import charts
from pipeline.data.folds import Fold, mean_and_deviation, stratified_folds
from pipeline.data.records import Example, labels_of, read_examples, write_json
from pipeline.errors import run_stage
from pipeline.home import find_home
from pipeline.learning.fit import fine_tune, prepare, summary, training_inputs
from pipeline.learning.resume import open_checkpoints
from pipeline.output.plain_text import print_line
from pipeline.params import Params, flatten, load_params
from pipeline.tracking.runs import Run, stage_run

SCORES = ("val_accuracy", "val_f1_macro", "val_loss")


def cross_validate(rows: list[Example], params: Params, folder: Path, home: Path) -> dict[str, Any]:
    """Return each fold's scores on its held-out rows, and their mean and deviation. The same rows choose the epoch."""
    folds = stratified_folds(labels_of(rows), params.train.folds, params.train.seed)
    tracked = {**flatten(params.model, "model"), **flatten(params.train, "train")}
    with stage_run("cross_validate", tracked, home) as run:
        results = [train_fold(number, fold, rows, params, folder, home, run) for number, fold in enumerate(folds, start=1)]
        overall = mean_and_deviation([{name: result[name] for name in SCORES} for result in results])
        run.metrics({f"folds/{name}_{key}": value for name, statistics in overall.items() for key, value in statistics.items()})
        run.figure(charts.folds([result["val_f1_macro"] for result in results], overall["val_f1_macro"]), "folds")
    return {"folds": results, "over_folds": overall}


def train_fold(
    number: int, fold: Fold, rows: list[Example], params: Params, folder: Path, home: Path, parent: Run
) -> dict[str, Any]:
    """Return the scores of one fold, from its file when the same inputs were trained before."""
    prepared = prepare([rows[i] for i in fold.train], [rows[i] for i in fold.held_out], params)
    inputs = training_inputs(prepared, params)
    key = sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
    path = folder / f"fold-{number}.json"
    stored = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if stored.get("inputs") == key:
        print_line(f"fold {number}: finished earlier")
        return dict(stored)
    tracked = {**flatten(params.model, "model"), **flatten(params.train, "train"), "fold": str(number)}
    with (
        open_checkpoints(inputs, home, params.train.checkpoint_s) as checkpoints,
        stage_run(f"fold {number}", tracked, home, continues=checkpoints.run if checkpoints else None, parent=parent.id) as run,
    ):
        if checkpoints:
            checkpoints.run = run.id
        fitted = fine_tune(prepared, params, run, checkpoints, home)
        run.metrics({f"train/{name}": value for name, value in summary(fitted).items()})
        result = {"fold": number, "rows": len(fold.held_out), "inputs": key, "run": run.id, **summary(fitted)}
        write_json(path, result)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--split", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    rows = [row for side in ("train", "val") for row in read_examples(args.split / f"{side}.parquet")]
    result = cross_validate(rows, load_params(), args.out, find_home())
    write_json(args.out / "folds.json", result)
    for name, statistics in result["over_folds"].items():
        print_line(f"{name}: {statistics['mean']:.4f} ± {statistics['std']:.4f}")


if __name__ == "__main__":
    run_stage(main)
