"""Stage `control`: what the frozen encoder and logistic regression predict for the test rows.

It depends on the split and the base alone, so trials of other training settings take it from DVC's cache.
"""

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.data.records import Example, labels_of, read_examples, write_json
from pipeline.errors import run_stage
from pipeline.network.frozen_encoder import fit_control, frozen_embeddings
from pipeline.output.plain_text import print_line
from pipeline.params import Evaluate, Model, load_params


class ControlPredictions(NamedTuple):
    """The label of each test row, and the probability that the control gives it."""

    labels: list[str]
    confidence: list[float]


def control(train: list[Example], test: list[Example], model: Model, settings: Evaluate) -> ControlPredictions:
    """Predict each test row by logistic regression on the embeddings of the training rows."""
    labels = sorted(set(labels_of(train)))
    truth = np.array([labels.index(label) for label in labels_of(train)], dtype=np.int64)
    embeddings = frozen_embeddings([row.text for row in [*train, *test]], model, settings.batch_size)
    fitted = fit_control(embeddings[: len(train)], truth, settings.control_c)
    probabilities = fitted.predict_proba(embeddings[len(train) :])
    predicted = fitted.classes_[probabilities.argmax(axis=1)]
    return ControlPredictions([labels[number] for number in predicted], probabilities.max(axis=1).tolist())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--split", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    params = load_params()
    train, test = (read_examples(args.split / f"{side}.parquet") for side in ("train", "test"))
    predicted = control(train, test, params.model, params.evaluate)
    write_json(args.out / "predicted.json", predicted._asdict())
    right = np.mean([a == b for a, b in zip(predicted.labels, labels_of(test), strict=True)])
    print_line(f"frozen encoder + logistic regression: {right:.1%} of {len(test)} test rows → {args.out}/predicted.json")


if __name__ == "__main__":
    run_stage(main)
