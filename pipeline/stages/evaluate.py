"""Stage `evaluate`: the trained model on validation and test rows, calibrated, with intervals, beside the frozen control."""

import argparse
import csv
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline import charts, metrics
from pipeline.atomic_write import written_whole
from pipeline.data.records import Example, labels_of, read_examples, write_json
from pipeline.errors import run_stage
from pipeline.home import find_home
from pipeline.network.checkpoint import Trained, load_trained
from pipeline.network.frozen_encoder import fit_control, frozen_embeddings
from pipeline.network.inference import in_batches
from pipeline.params import Evaluate, Model, flatten, load_params
from pipeline.runtime.pieces import to_pieces
from pipeline.tracking import Run, stage_run

Arrays = NDArray[np.float64]


class Evaluation(NamedTuple):
    """What was measured; `guess` and `truth` are class indices of the test rows."""

    metrics: dict[str, dict[str, float]]
    report: dict[str, Any]
    temperature: float
    truth: metrics.Indices
    guess: metrics.Indices
    test_logits: Arrays
    classes: list[metrics.ClassScores]


def evaluate(trained: Trained, sides: dict[str, list[Example]], model: Model, settings: Evaluate) -> Evaluation:
    """Score test and validation rows; the temperature is fitted on validation, the control on the training rows."""
    labels = trained.labels
    index = {label: i for i, label in enumerate(labels)}
    truth = {side: np.array([index[label] for label in labels_of(rows)], dtype=np.int64) for side, rows in sides.items()}
    texts = {side: [row.text for row in rows] for side, rows in sides.items()}
    logits = {side: logits_of(trained, texts[side], settings.batch_size) for side in ("val", "test")}
    temperature = metrics.fit_temperature(logits["val"], truth["val"])
    guess = logits["test"].argmax(axis=1)
    control = frozen_control(texts, truth["train"], model, settings)
    bootstrap = metrics.Bootstrap(len(guess), settings.bootstrap_resamples, settings.confidence, settings.seed)
    scores = {
        "test": {
            **_scores(logits["test"], truth["test"], len(labels)),
            **_calibration(logits["test"], truth["test"], temperature, settings),
        },
        "control": _label_scores(control, truth["test"], len(labels)),
        "val": _scores(logits["val"], truth["val"], len(labels)),
    }
    if learnt := texts["train"][: settings.training_rows]:
        again = logits_of(trained, learnt, settings.batch_size)
        scores["train"] = _scores(again, truth["train"][: len(learnt)], len(labels))
    classes = metrics.class_scores(truth["test"], guess, len(labels), bootstrap)
    report = {
        "rows": {side: len(rows) for side, rows in texts.items()},
        "temperature": temperature,
        "intervals": _intervals(truth["test"], guess, control, len(labels), bootstrap),
        "classes": {label: {**one._asdict(), "f1": one.f1._asdict()} for label, one in zip(labels, classes, strict=True)},
        "confused_pairs": _confused_pairs(truth["test"], guess, texts["test"], labels, settings),
    }
    return Evaluation(scores, report, temperature, truth["test"], guess, logits["test"], classes)


def logits_of(trained: Trained, texts: list[str], batch_size: int) -> Arrays:
    """(N, classes) in fp32 arithmetic, as the exported model computes."""
    pieces = to_pieces(trained.tokenizer, texts)
    logits = in_batches(trained.classifier.forward, pieces, batch_size=batch_size, precision="fp32")
    return np.asarray(logits.numpy(), dtype=np.float64)


def frozen_control(
    texts: dict[str, list[str]], train_truth: metrics.Indices, model: Model, settings: Evaluate
) -> metrics.Indices:
    """Class indices that logistic regression on the untouched encoder's embeddings gives the test rows."""
    embedded = {side: frozen_embeddings(texts[side], model, settings.batch_size) for side in ("train", "test")}
    control = fit_control(embedded["train"], train_truth, settings.control_c)
    return np.asarray(control.predict(embedded["test"]), dtype=np.int64)


def _label_scores(guess: metrics.Indices, truth: metrics.Indices, classes: int) -> dict[str, float]:
    matrix = metrics.confusion(truth, guess, classes)
    return {"accuracy": metrics.accuracy(matrix), "f1_macro": metrics.f1_macro(matrix), "f1_micro": metrics.f1_micro(matrix)}


def _scores(logits: Arrays, truth: metrics.Indices, classes: int) -> dict[str, float]:
    return {**_label_scores(logits.argmax(axis=1), truth, classes), "nll": metrics.negative_log_likelihood(logits, truth)}


def _calibration(logits: Arrays, truth: metrics.Indices, temperature: float, settings: Evaluate) -> dict[str, float]:
    return {
        "nll_calibrated": metrics.negative_log_likelihood(logits, truth, temperature),
        "ece": metrics.calibration_error(metrics.softmax(logits), truth, settings.calibration_bins),
        "ece_calibrated": metrics.calibration_error(metrics.softmax(logits / temperature), truth, settings.calibration_bins),
    }


def _intervals(
    truth: metrics.Indices, guess: metrics.Indices, control: metrics.Indices, classes: int, bootstrap: metrics.Bootstrap
) -> dict[str, Any]:
    ours, theirs = bootstrap.confusions(truth, guess, classes), bootstrap.confusions(truth, control, classes)
    found = {}
    for name, score in (("accuracy", metrics.accuracy), ("f1_macro", metrics.f1_macro)):
        value, other = score(metrics.confusion(truth, guess, classes)), score(metrics.confusion(truth, control, classes))
        found[name] = bootstrap.interval(value, [score(m) for m in ours])._asdict()
        gains = [score(a) - score(b) for a, b in zip(ours, theirs, strict=True)]
        found[f"{name}_above_control"] = bootstrap.interval(value - other, gains)._asdict()
    return found


def _confused_pairs(
    truth: metrics.Indices, guess: metrics.Indices, texts: list[str], labels: list[str], settings: Evaluate
) -> list[dict[str, Any]]:
    pairs = []
    for true, said, rows in metrics.most_confused(truth, guess, settings.confused_pairs):
        where = np.flatnonzero((truth == true) & (guess == said))[: settings.confused_examples]
        pairs.append({"true": labels[true], "predicted": labels[said], "rows": rows, "texts": [texts[i] for i in where]})
    return pairs


def write(evaluation: Evaluation, labels: list[str], folder: Path) -> None:
    """Metrics, report, temperature, and the table that `dvc plots` draws the confusion matrix from."""
    write_json(folder / "metrics.json", evaluation.metrics)
    write_json(folder / "report.json", evaluation.report)
    write_json(folder / "temperature.json", {"temperature": evaluation.temperature})
    with written_whole(folder / "confusion.csv") as part, part.open("w", encoding="utf-8", newline="") as file:
        rows = [(labels[t], labels[g]) for t, g in zip(evaluation.truth, evaluation.guess, strict=True)]
        csv.writer(file).writerows([("actual", "predicted"), *rows])


def log_to(run: Run, evaluation: Evaluation, labels: list[str], settings: Evaluate, folder: Path) -> None:
    """Scores, figures and files into the MLflow run."""
    run.metrics({f"{side}/{name}": value for side, scores in evaluation.metrics.items() for name, value in scores.items()})
    matrix = metrics.confusion(evaluation.truth, evaluation.guess, len(labels))
    run.figure(charts.confusion_matrix(matrix, labels), "confusion_matrix")
    run.figure(charts.class_f1(labels, evaluation.classes), "f1_by_class")
    shown = [
        metrics.reliability(metrics.softmax(evaluation.test_logits / t), evaluation.truth, settings.calibration_bins)
        for t in (1.0, evaluation.temperature)
    ]
    run.figure(charts.reliability_diagram(*shown), "reliability")
    run.files(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--split", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    params = load_params()
    trained = load_trained(args.model, params.model)
    sides = {side: read_examples(args.split / f"{side}.parquet") for side in ("train", "val", "test")}
    with stage_run("evaluate", flatten(params.evaluate, "evaluate"), find_home(), continues=trained.run_id) as run:
        evaluation = evaluate(trained, sides, params.model, params.evaluate)
        write(evaluation, trained.labels, args.out)
        log_to(run, evaluation, trained.labels, params.evaluate, args.out)
    print(json.dumps(evaluation.metrics))


if __name__ == "__main__":
    run_stage(main)
