"""Stage `control`: fit logistic regression on the frozen encoder, and predict the test rows.

It depends on the split and the base alone, so trials of other training settings take it from DVC's cache. What it fits travels
with the version, as a second model that the champion is compared with in traffic.
"""

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np
from sklearn.linear_model import LogisticRegression

from pipeline.card.frozen_control import CONTROL, Floats, FrozenControl, save_control
from pipeline.data.records import Example, labels_of, read_examples, write_json
from pipeline.errors import run_stage
from pipeline.metrics import Indices, fit_temperature
from pipeline.network.base_model import base_folder, sha256_of
from pipeline.network.frozen_encoder import fit_control, frozen_embeddings
from pipeline.output.plain_text import print_line
from pipeline.params import Evaluate, Model, load_params


class ControlPredictions(NamedTuple):
    """The label of each test row, and the probability that the control gives it."""

    labels: list[str]
    confidence: list[float]


class ControlResult(NamedTuple):
    """Predictions for the test rows, without calibration, and the model that made them."""

    predicted: ControlPredictions
    model: FrozenControl


def control(train: list[Example], val: list[Example], test: list[Example], model: Model, settings: Evaluate) -> ControlResult:
    """Fit on the training rows, calibrate on the validation rows, and predict each test row. One pass of the encoder."""
    labels = sorted(set(labels_of(train)))
    embeddings = frozen_embeddings([row.text for row in [*train, *val, *test]], model, settings.batch_size)
    of_train, of_val, of_test = np.split(embeddings, [len(train), len(train) + len(val)])
    fitted = fit_control(of_train, _indices(labels, train), settings.control_c)
    probabilities = fitted.predict_proba(of_test)
    predicted = [labels[number] for number in fitted.classes_[probabilities.argmax(axis=1)]]
    coefficients, intercepts = class_coefficients(fitted)
    frozen = FrozenControl(
        labels=np.array(labels),
        coefficients=coefficients,
        intercepts=intercepts,
        temperature=_temperature(of_val @ coefficients.T + intercepts, labels, val),
        base=model.base,
        revision=model.revision,
        weights_sha256=sha256_of(base_folder(model) / "model.safetensors"),
        max_pieces=model.max_pieces,
        test_ids=np.array([row.id for row in test], dtype=np.str_),
        test_labels=np.array(predicted, dtype=np.str_),
    )
    return ControlResult(ControlPredictions(predicted, probabilities.max(axis=1).tolist()), frozen)


def class_coefficients(fitted: LogisticRegression) -> tuple[Floats, Floats]:
    """Return coefficients (classes, width) and intercepts (classes,); of two classes scikit-learn has those of the second."""
    coefficients, intercepts = fitted.coef_.astype(np.float32), fitted.intercept_.astype(np.float32)
    if len(coefficients) == 1:
        coefficients, intercepts = np.vstack([0 * coefficients, coefficients]), np.append(0 * intercepts, intercepts)
    return coefficients, intercepts


def _temperature(logits: Floats, labels: list[str], rows: list[Example]) -> float:
    return fit_temperature(logits.astype(np.float64), _indices(labels, rows)).value if rows else 1.0


def _indices(labels: list[str], rows: list[Example]) -> Indices:
    numbers = {label: number for number, label in enumerate(labels)}
    return np.array([numbers[label] for label in labels_of(rows)], dtype=np.int64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--split", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    params = load_params()
    train, val, test = (read_examples(args.split / f"{side}.parquet") for side in ("train", "val", "test"))
    result = control(train, val, test, params.model, params.evaluate)
    write_json(args.out / "predicted.json", result.predicted._asdict())
    save_control(args.out / CONTROL, result.model)
    right = np.mean([a == b for a, b in zip(result.predicted.labels, labels_of(test), strict=True)])
    print_line(f"frozen encoder + logistic regression: {right:.1%} of {len(test)} test rows → {args.out}/predicted.json")


if __name__ == "__main__":
    run_stage(main)
