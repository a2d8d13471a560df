"""Stage `train`: fine-tune the encoder with a cosine head, track the run in MLflow, and write the chosen epoch."""

import argparse
import csv
import json
from hashlib import sha256
from pathlib import Path

import pandas as pd

from pipeline import charts
from pipeline.atomic_write import atomic_write
from pipeline.data.records import Example, digest_examples, labels_of, read_examples, write_json
from pipeline.errors import run_stage
from pipeline.home import find_home, git, is_dirty
from pipeline.learning.accumulation import distributed_state
from pipeline.learning.fit import Prepared, fine_tune, prepare, summary, training_inputs
from pipeline.learning.loop import FitResult
from pipeline.learning.resume import open_checkpoints
from pipeline.learning.training_state import Table
from pipeline.network.trained_model import save_trained
from pipeline.output.plain_text import print_line
from pipeline.params import Data, Params, flatten, load_params
from pipeline.tracking.descriptions import percent
from pipeline.tracking.runs import Run, stage_run


def write_table(path: Path, table: Table) -> None:
    """Write a csv with the keys of the first row as its header."""
    with atomic_write(path) as part, part.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, table[0].keys() if table else ["step"])
        writer.writeheader()
        writer.writerows(table)


def write_curves(folder: Path, fitted: FitResult, run: Run) -> None:
    """Write tables and summary as files, and log the summary. Scores are left out: the curves and stage `evaluate` log them."""
    numbers = summary(fitted)
    write_table(folder / "steps.csv", fitted.steps)
    write_table(folder / "epochs.csv", fitted.epochs)
    write_json(folder / "metrics.json", numbers)
    run.metrics({f"train/{name}": value for name, value in numbers.items() if not name.startswith("val_")})
    run.figure(charts.learning_curve(fitted.epochs), "learning_curve")


def log_datasets(run: Run, digests: dict[str, str], sides: dict[str, list[Example]], data: Data) -> str:
    """Log one dataset for each side, with its digest; return the digest of all sides."""
    if "spread" in sides:
        digests = {**digests, "spread": digest_examples(sides["spread"])}
    for side, rows in sides.items():
        frame = pd.DataFrame({"text": [row.text for row in rows], "label": labels_of(rows)})
        source = str(data.unlabelled if side == "spread" else data.source)
        run.dataset(frame, name=f"{Path(source).stem} {side}", source=source, context=side, digest=digests[side])
    whole = sha256("".join(digests[side] for side in sorted(digests)).encode()).hexdigest()
    sizes = ", ".join(f"{len(examples)} {side}" for side, examples in sides.items())
    run.note("Data", f"{data.source}: {sizes} rows, {len(set(labels_of(sides['train'])))} classes")
    run.tags({"data.digest": whole, **{f"data.digest.{side}": digest for side, digest in digests.items()}})
    return whole


def log_spread(run: Run, folder: Path) -> None:
    """Log report, numbers and picture of stage `spread`, which has no MLflow run; do nothing when it had no texts."""
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    if not report["texts"]:
        return
    run.file(folder / "report.json", "spread")
    run.metrics({f"spread/{count}": report[count] for count in ("texts", "held_back", "spread")})
    if report["held_out"]["rows"]:
        run.metrics({f"spread/held_out_{score}": report["held_out"][score] for score in ("accuracy", "control")})
        run.figure(charts.certainty(report["held_out"]["by_certainty"], report["held_out"]["accuracy"]), "spread_certainty")


def train(prepared: Prepared, sides: dict[str, list[Example]], paths: argparse.Namespace, params: Params) -> FitResult:
    """Train in an MLflow run, resuming from a checkpoint where there is one; write the model and the curves."""
    home = find_home()
    tracked = {
        k: v for name in ("data", "split", "spread", "model", "train") for k, v in flatten(getattr(params, name), name).items()
    }
    with (
        open_checkpoints(training_inputs(prepared, params), home, params.train.checkpoint_s) as checkpoints,
        stage_run("train", tracked, home, continues=checkpoints.run if checkpoints else None) as run,
    ):
        if checkpoints:
            checkpoints.run = run.id
        digests = json.loads((paths.split / "report.json").read_text(encoding="utf-8"))["digests"]
        digest = log_datasets(run, digests, sides, params.data)
        log_spread(run, paths.spread)
        fitted = fine_tune(prepared, params, run, checkpoints, home)
        origin = {"mlflow_run_id": run.id, "git_commit": git("rev-parse", "HEAD"), "git_dirty": is_dirty(), "data_digest": digest}
        save_trained(paths.model, fitted.state, prepared.labels, origin)
        write_curves(paths.curves, fitted, run)
    return fitted


def describe_training(fitted: FitResult) -> str:
    """Return the best epoch, its accuracy, the speed and the memory in one line; all numbers are in metrics.json."""
    numbers = summary(fitted)
    return (
        f"best epoch {numbers['best_epoch']} of {numbers['epochs']}, accuracy {percent(numbers['val_accuracy'])} on validation; "
        f"{numbers['seconds']:.0f} s, {numbers['examples_per_second']:.0f} rows/s, {numbers['memory_peak_mib']:.0f} MiB"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--split", type=Path, required=True)
    parser.add_argument("--spread", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--curves", type=Path, required=True)
    args = parser.parse_args()
    params = load_params()
    sides = {side: read_examples(args.split / f"{side}.parquet") for side in ("train", "val", "test")}
    if spread := read_examples(args.spread / "rows.parquet"):
        sides["spread"] = spread
    prepared = prepare([*sides["train"], *spread], sides["val"], params)
    if distributed_state().is_main_process:
        print_line(f"{describe_training(train(prepared, sides, args, params))} → {args.model}")
    else:  # a worker of torchrun computes its part; the main process logs and writes
        fine_tune(prepared, params, Run(None), None, find_home())


if __name__ == "__main__":
    run_stage(main)
