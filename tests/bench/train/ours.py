"""Train with our loop in a child process of the training bench: the stage's parts, in windows of steps, without validation."""

import argparse
import json
from pathlib import Path

import torch

from pipeline.learning.classification import Rows, classification_task
from pipeline.learning.loop import fit
from pipeline.learning.task import Task
from pipeline.network.base_model import base_folder
from pipeline.network.batching import Batch
from pipeline.network.classifier import build_classifier, use_fused_layers
from pipeline.network.precision import native_precisions
from pipeline.params import Params, load_params
from tests.bench.train.rows import BenchRows, Settings, Windows, read_rows, with_settings


class NoMoreWindowsError(Exception):
    """Raised to end training after the last window."""


def make_task(rows: BenchRows, params: Params, windows: Windows) -> Task:
    """Make the task as stage `train` does, with counted batches."""
    precision = native_precisions()[-1]
    torch.manual_seed(params.train.seed)
    classifier = build_classifier(base_folder(params.model), 1 + max(rows.targets), params.model)
    use_fused_layers(classifier, params.model, precision)
    trained = Rows(rows.pieces, torch.tensor(rows.targets))
    task = classification_task(
        classifier, trained, Rows(trained.pieces[:1], trained.targets[:1]), params.train, precision, params.model.lanes
    )

    def batch(numbers: list[int]) -> Batch:
        result = task.batch(numbers)
        windows.count(len(numbers), result["input_ids"].numel(), int(result["attention_mask"].sum()))
        return result

    return task._replace(batch=batch, validate=lambda: {"loss": 0.0, "accuracy": 0.0, "f1_macro": 0.0})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--settings", type=json.loads, required=True)
    parser.add_argument("--kernels", choices=("modules", "auto"), required=True, help="model.kernels")
    args = parser.parse_args()
    windows = Windows()
    params = with_settings(load_params(), Settings(**args.settings))
    params = params.model_copy(update={"model": params.model.model_copy(update={"kernels": args.kernels})})
    task = make_task(read_rows(args.rows), params, windows)

    def log_step(_step: int, _values: dict[str, float]) -> None:
        if not windows.step():
            raise NoMoreWindowsError

    if windows.wait():
        try:
            fit(task, params.train, log_step=log_step, log_epoch=lambda _epoch, _values: None)
        except NoMoreWindowsError:
            return


if __name__ == "__main__":
    main()
