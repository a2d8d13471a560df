"""Stage `train`: LoRA fine-tuning of the encoder with a cosine head; the best epoch by validation is kept."""

import argparse
import csv
import json
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch

from pipeline import charts
from pipeline.errors import run_stage
from pipeline.home import find_home, git, is_dirty
from pipeline.learning.base import base_folder
from pipeline.learning.batching import load_tokenizer, to_pieces
from pipeline.learning.checkpoint import save_trained
from pipeline.learning.loop import Fitted, Rows, fit, start_from_class_means
from pipeline.learning.model import build
from pipeline.learning.precision import choose
from pipeline.params import Params, flatten, load_params
from pipeline.records import Example, labels_of, read_examples, write_json, written_whole
from pipeline.tracking import Run, stage_run

Table = list[dict[str, float]]


class Training(NamedTuple):
    """The fitted state, the labels by class index, and the curves of the run."""

    fitted: Fitted
    labels: list[str]
    steps: Table
    epochs: Table


def train(rows: list[Example], val: list[Example], params: Params, run: Run) -> Training:
    """Fine-tune on `rows`, watch `val`; curves go to the run as they come."""
    labels = sorted(set(labels_of(rows)))
    precision = choose(params.train.precision)
    torch.manual_seed(params.train.seed)
    folder = base_folder(params.model)
    tokenizer = load_tokenizer(folder, params.model.max_pieces)
    index = {label: i for i, label in enumerate(labels)}

    def as_rows(examples: list[Example]) -> Rows:
        return Rows(
            to_pieces(tokenizer, [e.text for e in examples]), torch.tensor([index[label] for label in labels_of(examples)])
        )

    steps: Table = []
    epochs: Table = []

    def log_step(step: int, values: dict[str, float]) -> None:
        steps.append({"step": step, **values})
        run.metrics({f"train/{name}": value for name, value in values.items()}, step)

    def log_epoch(epoch: int, values: dict[str, float]) -> None:
        epochs.append({"epoch": epoch, **values})
        run.metrics({f"epoch/{name}": value for name, value in values.items()}, epoch)

    train_rows = as_rows(rows)
    classifier = build(folder, len(labels), params.model)
    start_from_class_means(classifier, train_rows, batch_size=params.train.batch_size, precision=precision)
    run.tags({"precision": precision})
    fitted = fit(classifier, train_rows, as_rows(val), params.train, precision, log_step=log_step, log_epoch=log_epoch)
    return Training(fitted, labels, steps, epochs)


def summary(training: Training) -> dict[str, Any]:
    """The numbers of a training that people compare."""
    fitted = training.fitted
    return {
        "best_epoch": fitted.progress.best_epoch,
        "epochs": len(training.epochs),
        "val_f1_macro": fitted.progress.best,
        "seconds": round(fitted.seconds, 1),
        "examples_per_second": round(fitted.examples_per_second, 1),
        "padded_over_real_pieces": round(fitted.padded_over_real_pieces, 4),
    }


def write_table(path: Path, table: Table) -> None:
    """A csv with the keys of the first row as its header."""
    with written_whole(path) as part, part.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, table[0].keys() if table else ["step"])
        writer.writeheader()
        writer.writerows(table)


def log_datasets(run: Run, split_folder: Path, sides: dict[str, list[Example]], source: str) -> str:
    """Tell the run which rows it saw: one dataset a side, with the digest of the split's report; returns the digest of all."""
    digests = json.loads((split_folder / "report.json").read_text(encoding="utf-8"))["digests"]
    for side, rows in sides.items():
        frame = pd.DataFrame({"text": [row.text for row in rows], "label": labels_of(rows)})
        run.dataset(frame, name=side, source=source, context=side, digest=digests[side])
    whole = sha256("".join(digests[side] for side in sorted(digests)).encode()).hexdigest()
    run.tags({"data.digest": whole, **{f"data.digest.{side}": digest for side, digest in digests.items()}})
    return whole


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--split", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--curves", type=Path, required=True)
    args = parser.parse_args()
    params = load_params()
    sides = {side: read_examples(args.split / f"{side}.parquet") for side in ("train", "val", "test")}
    tracked = {k: v for name in ("data", "split", "model", "train") for k, v in flatten(getattr(params, name), name).items()}
    with stage_run("train", tracked, find_home()) as run:
        digest = log_datasets(run, args.split, sides, str(params.data.source))
        training = train(sides["train"], sides["val"], params, run)
        origin = {"mlflow_run_id": run.id, "git_commit": git("rev-parse", "HEAD"), "git_dirty": is_dirty(), "data_digest": digest}
        save_trained(args.model, training.fitted.state, training.labels, origin)
        write_table(args.curves / "steps.csv", training.steps)
        write_table(args.curves / "epochs.csv", training.epochs)
        write_json(args.curves / "metrics.json", summary(training))
        run.metrics({f"train/{name}": value for name, value in summary(training).items()})
        run.figure(charts.learning_curve(training.epochs), "learning_curve")
    print(json.dumps(summary(training)))


if __name__ == "__main__":
    run_stage(main)
