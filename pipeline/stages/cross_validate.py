"""`make folds`: the training of params.yaml once for each fold of the training and validation rows; mean and deviation.

A run of MLflow holds the mean, its children hold the folds. A fold that is done is not trained again after an interruption.
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
from pipeline.params import Params, flatten, load_params
from pipeline.tracking import Run, stage_run

SCORES = ("val_accuracy", "val_f1_macro", "val_loss")


def cross_validate(rows: list[Example], params: Params, folder: Path, home: Path) -> dict[str, Any]:
    """Every fold's scores on its held-out rows, and their mean and deviation; the epoch is chosen on the same rows."""
    folds = stratified_folds(labels_of(rows), params.train.folds, params.train.seed)
    tracked = {**flatten(params.model, "model"), **flatten(params.train, "train")}
    with stage_run("cross_validate", tracked, home) as run:
        found = [one_fold(number, fold, rows, params, folder, home, run) for number, fold in enumerate(folds, start=1)]
        over = mean_and_deviation([{name: fold[name] for name in SCORES} for fold in found])
        run.metrics({f"folds/{name}_{what}": value for name, both in over.items() for what, value in both.items()})
        run.figure(charts.folds([fold["val_f1_macro"] for fold in found], over["val_f1_macro"]), "folds")
    return {"folds": found, "over_folds": over}


def one_fold(
    number: int, fold: Fold, rows: list[Example], params: Params, folder: Path, home: Path, parent: Run
) -> dict[str, Any]:
    """Scores of one fold, trained now or found from before."""
    prepared = prepare([rows[i] for i in fold.train], [rows[i] for i in fold.held_out], params)
    inputs = training_inputs(prepared, params)
    key = sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
    done = folder / f"fold-{number}.json"
    before = json.loads(done.read_text(encoding="utf-8")) if done.exists() else {}
    if before.get("inputs") == key:
        print(f"fold {number}: done before")
        return dict(before)
    tracked = {**flatten(params.model, "model"), **flatten(params.train, "train"), "fold": str(number)}
    with (
        open_checkpoints(inputs, home, params.train.checkpoint_s) as checkpoints,
        stage_run(f"fold {number}", tracked, home, continues=checkpoints.run if checkpoints else None, parent=parent.id) as run,
    ):
        if checkpoints:
            checkpoints.run = run.id
        fitted = fine_tune(prepared, params, run, checkpoints, home)
        run.metrics({f"train/{name}": value for name, value in summary(fitted).items()})
        found = {"fold": number, "rows": len(fold.held_out), "inputs": key, "run": run.id, **summary(fitted)}
        write_json(done, found)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--split", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    rows = [row for side in ("train", "val") for row in read_examples(args.split / f"{side}.parquet")]
    found = cross_validate(rows, load_params(), args.out, find_home())
    write_json(args.out / "folds.json", found)
    for name, both in found["over_folds"].items():
        print(f"{name}: {both['mean']:.4f} ± {both['std']:.4f}")


if __name__ == "__main__":
    run_stage(main)
