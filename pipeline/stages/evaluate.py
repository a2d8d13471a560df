"""Stage `evaluate`: score the trained model and the frozen control on the same rows, with calibration and intervals.

The encoder passes over the held-out rows once. Later stages read its outputs from `held_out.npz`.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline import charts, metrics
from pipeline.abstention import ABSTAIN_FILE
from pipeline.data.csv_tables import write_csv
from pipeline.data.records import Example, labels_of, read_examples, write_json
from pipeline.data.unlabelled import read_unlabelled
from pipeline.errors import RefusedError, run_stage
from pipeline.held_out_outputs import HeldOutOutputs, save_held_out
from pipeline.home import find_home
from pipeline.network.classifier import ExportedModel, merge_adapters, sketch_projection
from pipeline.network.inference import infer_in_batches
from pipeline.network.trained_model import TrainedModel, load_trained
from pipeline.output.plain_text import print_line, print_lines
from pipeline.params import Abstain, Evaluate, Model, Params, flatten, load_params
from pipeline.row_predictions import PREDICTIONS_FILE, write_predictions
from pipeline.runtime.pieces import count_cut, to_pieces
from pipeline.selective.selection import ModelLogits, SelectiveResult, select
from pipeline.tracking.descriptions import percent
from pipeline.tracking.runs import Run, stage_run

Arrays = NDArray[np.float64]
OUTPUTS = "held_out.npz"
ONLY_DRAWN = ("accuracy_at_coverage_80", "accuracy_at_coverage_95")  # MLflow has the picture of all coverages
UNREACHABLE = "lower abstain.value, bring more test rows, or set abstain.unreachable: answer to serve without a promise"


class Evaluation(NamedTuple):
    """Scores of the trained model; `truth` and `predicted` are class indices of the test rows."""

    metrics: dict[str, dict[str, float]]
    report: dict[str, Any]
    temperature: metrics.TemperatureFit
    truth: metrics.Indices
    predicted: metrics.Indices
    test_logits: Arrays
    classes: list[metrics.ClassScores]
    held_out: HeldOutOutputs


def evaluate(
    trained: TrainedModel, sides: dict[str, list[Example]], control_labels: list[str], model: Model, settings: Evaluate
) -> Evaluation:
    """Score test and validation rows; validation rows fit the temperature. `control_labels` are of the test rows."""
    labels = trained.labels
    index = {label: i for i, label in enumerate(labels)}
    truth = {side: np.array([index[label] for label in labels_of(rows)], dtype=np.int64) for side, rows in sides.items()}
    texts = {side: [row.text for row in rows] for side, rows in sides.items()}
    held_out = held_out_outputs(trained, [*sides["val"], *sides["test"]], model, settings.batch_size)
    split_logits = np.split(np.asarray(held_out.logits, dtype=np.float64), [len(sides["val"])])
    logits = dict(zip(("val", "test"), split_logits, strict=True))
    fitted = metrics.fit_temperature(logits["val"], truth["val"])
    temperature = fitted.value
    predicted = logits["test"].argmax(axis=1)
    control = np.array([index[label] for label in control_labels], dtype=np.int64)
    bootstrap = metrics.Bootstrap(len(predicted), settings.bootstrap_resamples, settings.confidence, settings.seed)
    scores = {
        "test": {
            **_scores(logits["test"], truth["test"], len(labels)),
            **_calibration(logits["test"], truth["test"], temperature, settings),
        },
        "control": _label_scores(control, truth["test"], len(labels)),
        "val": _scores(logits["val"], truth["val"], len(labels)),
        "temperature": {name: float(value) for name, value in fitted._asdict().items()},
    }
    if train_texts := texts["train"][: settings.training_rows]:
        train_logits = logits_of(trained, train_texts, settings.batch_size)
        scores["train"] = _scores(train_logits, truth["train"][: len(train_texts)], len(labels))
    classes = metrics.class_scores(truth["test"], predicted, len(labels), bootstrap)
    report = {
        "rows": {side: len(rows) for side, rows in texts.items()},
        "cut_at_max_pieces": {side: count_cut(trained.tokenizer, rows) for side, rows in texts.items()},
        "temperature": fitted._asdict(),
        "intervals": _intervals(truth["test"], predicted, control, len(labels), bootstrap),
        "classes": {name: {**score._asdict(), "f1": score.f1._asdict()} for name, score in zip(labels, classes, strict=True)},
        "confused_pairs": _confused_pairs(truth["test"], predicted, texts["test"], labels, settings),
    }
    return Evaluation(scores, report, fitted, truth["test"], predicted, logits["test"], classes, held_out)


def with_selection(evaluation: Evaluation, selection: SelectiveResult) -> Evaluation:
    """Add the scores of the coverage curve and of the rule when to abstain."""
    added = selection.scores()
    scores = {group: {**evaluation.metrics.get(group, {}), **added.get(group, {})} for group in {**evaluation.metrics, **added}}
    return evaluation._replace(metrics=scores, report={**evaluation.report, "abstain": selection.facts()})


def select_answers(
    evaluation: Evaluation, trained: TrainedModel, sides: dict[str, list[Example]], control: dict[str, Any], params: Params
) -> SelectiveResult:
    """Fit and judge the rule when to abstain; out-of-scope texts that are rows of the split are left out."""
    known = {row.id for rows in sides.values() for row in rows}
    outside = [row.text for row in read_unlabelled(params.abstain.out_of_scope, params.data).texts if row.id not in known]
    scored = logits_of(trained, outside, params.evaluate.batch_size) if outside else np.zeros((0, len(trained.labels)))
    val = np.asarray(evaluation.held_out.logits[: len(sides["val"])], dtype=np.float64)
    logits = ModelLogits(trained.labels, evaluation.temperature.value, val, evaluation.test_logits, scored)
    return select(logits, sides, control, params.abstain)


def held_out_outputs(trained: TrainedModel, rows: list[Example], model: Model, batch_size: int) -> HeldOutOutputs:
    """Return logits and sketches of the rows, computed in fp32 as in the exported model."""
    exported = ExportedModel(trained.classifier, sketch_projection(trained.classifier.head.weight.shape[1], model))
    pieces = to_pieces(trained.tokenizer, [row.text for row in rows])
    embedding = infer_in_batches(trained.classifier.embed, pieces, batch_size=batch_size, precision="fp32")
    with torch.inference_mode():
        logits, sketch = exported.outputs(embedding)
    return HeldOutOutputs(np.array([row.id for row in rows], dtype=np.str_), logits.numpy(), sketch.numpy())


def logits_of(trained: TrainedModel, texts: list[str], batch_size: int) -> Arrays:
    """Return the logits (N, classes), computed in fp32 as in the exported model."""
    pieces = to_pieces(trained.tokenizer, texts)
    logits = infer_in_batches(trained.classifier.forward, pieces, batch_size=batch_size, precision="fp32")
    return np.asarray(logits.numpy(), dtype=np.float64)


def merged(trained: TrainedModel) -> TrainedModel:
    """Merge the adapters, in place: a third less to compute for the same logits within fp32 rounding."""
    return trained._replace(classifier=merge_adapters(trained.classifier))


def _label_scores(predicted: metrics.Indices, truth: metrics.Indices, classes: int) -> dict[str, float]:
    matrix = metrics.confusion(truth, predicted, classes)
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
    truth: metrics.Indices, predicted: metrics.Indices, control: metrics.Indices, classes: int, bootstrap: metrics.Bootstrap
) -> dict[str, Any]:
    ours, theirs = bootstrap.confusions(truth, predicted, classes), bootstrap.confusions(truth, control, classes)
    intervals = {}
    for name, score in (("accuracy", metrics.accuracy), ("f1_macro", metrics.f1_macro)):
        value = score(metrics.confusion(truth, predicted, classes))
        control_value = score(metrics.confusion(truth, control, classes))
        intervals[name] = bootstrap.interval(value, [score(matrix) for matrix in ours])._asdict()
        gains = [score(a) - score(b) for a, b in zip(ours, theirs, strict=True)]
        intervals[f"{name}_above_control"] = bootstrap.interval(value - control_value, gains)._asdict()
    return intervals


def _confused_pairs(
    truth: metrics.Indices, predicted: metrics.Indices, texts: list[str], labels: list[str], settings: Evaluate
) -> list[dict[str, Any]]:
    pairs = []
    for true, wrong, rows in metrics.most_confused(truth, predicted, settings.confused_pairs):
        examples = np.flatnonzero((truth == true) & (predicted == wrong))[: settings.confused_examples]
        pairs.append({"true": labels[true], "predicted": labels[wrong], "rows": rows, "texts": [texts[i] for i in examples]})
    return pairs


def summary(scores: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Return the few scores that `dvc metrics show` and `dvc exp show` print, four decimals each."""
    chosen = {
        "accuracy": scores["test"]["accuracy"],
        "f1_macro": scores["test"]["f1_macro"],
        "control_accuracy": scores["control"]["accuracy"],
        "val_accuracy": scores["val"]["accuracy"],
    }
    return {name: round(value, 4) for name, value in chosen.items()}


def write(evaluation: Evaluation, labels: list[str], folder: Path) -> None:
    """Write metrics, report, temperature, outputs and `confusion.csv`, which `dvc plots` draws as a confusion matrix."""
    write_json(folder / "metrics.json", evaluation.metrics)
    write_json(folder / "summary.json", summary(evaluation.metrics))
    write_json(folder / "report.json", evaluation.report)
    write_json(folder / "temperature.json", {"temperature": evaluation.temperature.value, "rows": evaluation.temperature.rows})
    save_held_out(folder / OUTPUTS, evaluation.held_out)
    write_json(folder / ABSTAIN_FILE, evaluation.report["abstain"])
    rows = [(labels[t], labels[p]) for t, p in zip(evaluation.truth, evaluation.predicted, strict=True)]
    write_csv(folder / "confusion.csv", ("actual", "predicted"), rows)


def log_to(run: Run, evaluation: Evaluation, labels: list[str], settings: Evaluate, folder: Path) -> None:
    """Log scores, figures and files to the MLflow run."""
    for side, scores in evaluation.metrics.items():
        run.metrics({f"{side}/{name}": value for name, value in scores.items() if name not in ONLY_DRAWN})
    accuracy, control = (evaluation.metrics[side]["accuracy"] for side in ("test", "control"))
    between = evaluation.report["intervals"]["accuracy"]
    interval = f"{settings.confidence:.0%} interval {percent(between['low'])} to {percent(between['high'])}"
    run.note("Test", f"accuracy {percent(accuracy)} ({interval}), frozen control {percent(control)}")
    matrix = metrics.confusion(evaluation.truth, evaluation.predicted, len(labels))
    run.figure(charts.confusion_matrix(matrix, labels), "confusion_matrix")
    run.figure(charts.class_f1(labels, evaluation.classes), "f1_by_class")
    curves = [
        metrics.reliability(metrics.softmax(evaluation.test_logits / t), evaluation.truth, settings.calibration_bins)
        for t in (1.0, evaluation.temperature.value)
    ]
    run.figure(charts.reliability_diagram(*curves), "reliability")
    run.files(folder)


def describe_scores(evaluation: Evaluation) -> str:
    """Return the scores on the test rows in one line; all scores are in metrics.json."""
    model, control = ({name: percent(value) for name, value in evaluation.metrics[side].items()} for side in ("test", "control"))
    return (
        f"{len(evaluation.truth)} test rows: accuracy {model['accuracy']}, macro-F1 {model['f1_macro']}; "
        f"frozen control: {control['accuracy']}, {control['f1_macro']}"
    )


def measure(
    trained: TrainedModel, sides: dict[str, list[Example]], control: dict[str, Any], params: Params, run: Run, folder: Path
) -> tuple[Evaluation, SelectiveResult]:
    """Score a model with merged adapters, write the files of this stage, and log them to the run."""
    scored = evaluate(trained, sides, control["labels"], params.model, params.evaluate)
    selection = select_answers(scored, trained, sides, control, params)
    evaluation = with_selection(scored, selection)
    write(evaluation, trained.labels, folder)
    calibrated = metrics.softmax(evaluation.test_logits / evaluation.temperature.value)
    ids, truth = [row.id for row in sides["test"]], labels_of(sides["test"])
    write_predictions(folder / PREDICTIONS_FILE, ids, truth, calibrated, trained.labels)
    run.figure(charts.coverage_curves(selection.curves, selection.rule()), "coverage")
    log_to(run, evaluation, trained.labels, params.evaluate, folder)
    return evaluation, selection


def refuse_unreachable(selection: SelectiveResult, settings: Abstain) -> None:
    """Raise `RefusedError` when the test rows do not prove the target of abstaining, unless params let the model answer all."""
    if selection.report.problem and settings.unreachable == "refuse":
        raise RefusedError("params.yaml, section abstain", selection.report.problem, UNREACHABLE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--split", type=Path, required=True)
    parser.add_argument("--control", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    params = load_params()
    trained = merged(load_trained(args.model, params.model))  # faster, and what is exported
    sides = {side: read_examples(args.split / f"{side}.parquet") for side in ("train", "val", "test")}
    control = json.loads((args.control / "predicted.json").read_text(encoding="utf-8"))
    settings = {**flatten(params.evaluate, "evaluate"), **flatten(params.abstain, "abstain")}
    with stage_run("evaluate", settings, find_home(), continues=trained.run_id) as run:
        evaluation, selection = measure(trained, sides, control, params, run, args.out)
        print_line(f"{describe_scores(evaluation)} → {args.out}")
        if params.abstain.target != "none" or selection.report.out_of_scope:
            print_lines("\n".join(selection.report.lines()))
        refuse_unreachable(selection, params.abstain)


if __name__ == "__main__":
    run_stage(main)
