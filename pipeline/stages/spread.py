"""Stage `spread`: label unlabelled texts by their labelled neighbours, for training only."""

import argparse
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.data.near_duplicates import near_pairs_across
from pipeline.data.records import Example, labels_of, normalise_label, read_examples, write_examples, write_json
from pipeline.data.unlabelled import read_unlabelled, trainable
from pipeline.errors import run_stage
from pipeline.output.plain_text import print_line, print_lines
from pipeline.params import Model, Params, Spread, load_params

EXAMPLES_SHOWN = 10
BATCH = 64
FIFTHS = 5
LEVEL = 0.05  # of the test that spreading is better than its control

Indices = NDArray[np.int64]
Flags = NDArray[np.bool_]
Spreader = Callable[[Indices], tuple[Indices, NDArray[np.float64]]]  # labelled rows → class and certainty of all texts


class Spreading(NamedTuple):
    """Texts with their spread labels and their certainty in `meta`, and the report."""

    rows: list[Example]
    report: dict[str, Any]


def spread(labelled: list[Example], unlabelled: list[Example], model: Model, settings: Spread, control_c: float) -> Spreading:
    """Label texts by their neighbours in the frozen encoder; labelled rows held out in turn measure how many are right."""
    from pipeline.learning.label_spreading import UNKNOWN, neighbour_graph, spread_labels, strongest_class
    from pipeline.network.frozen_encoder import frozen_embeddings  # imports torch; most projects have nothing to spread

    labels = sorted(set(labels_of(labelled)))
    truth = np.array([labels.index(label) for label in labels_of(labelled)], dtype=np.int64)
    names = [normalise_label(label) for label in labels] if settings.label_names == "texts" else []
    texts = [*(row.text for row in [*labelled, *unlabelled]), *names]
    embeddings = frozen_embeddings(texts, model, BATCH, "embed")
    print_line(f"joining {len(texts)} texts with their neighbours")
    graph = neighbour_graph(embeddings, settings)

    def spread_from(rows: Indices) -> tuple[Indices, NDArray[np.float64]]:
        targets = np.full(len(texts), UNKNOWN, dtype=np.int64)
        targets[rows] = truth[rows]
        targets[len(texts) - len(names) :] = np.arange(len(names))
        return strongest_class(spread_labels(graph, targets, len(labels), settings.reach))

    predicted, certainty = spread_from(np.arange(len(labelled)))
    unlabelled_part = slice(len(labelled), len(labelled) + len(unlabelled))
    reached = [
        row.model_copy(update={"label": labels[label], "meta": {"certainty": round(float(sure), 4)}})
        for row, label, sure in zip(unlabelled, predicted[unlabelled_part], certainty[unlabelled_part], strict=True)
        if label != UNKNOWN
    ]
    rows = [row for row in reached if row.meta["certainty"] >= settings.min_certainty]
    report = {
        "labelled": len(labelled),
        "spread": len(rows),
        "out_of_reach": len(unlabelled) - len(reached),
        "below_min_certainty": len(reached) - len(rows),
        "held_out": score_held_out(truth, spread_from, embeddings, settings, control_c),
        "classes": dict(sorted(Counter(labels_of(rows)).items())),
        "least_certain_kept": _least_certain(rows),
    }
    return Spreading(rows, report)


def score_held_out(
    truth: Indices, spread_from: Spreader, embeddings: NDArray[np.float32], settings: Spread, control_c: float
) -> dict[str, Any]:
    """Hide the labels of labelled rows in turn and score the labels that spread to them, in all and by fifths of certainty.

    The control is logistic regression on the same embeddings of the rows whose labels are not hidden.
    """
    from pipeline.metrics import mcnemar
    from pipeline.network.frozen_encoder import fit_control

    fold = _folds(truth, settings)
    hidden = np.flatnonzero(fold >= 0)
    if not len(hidden):
        return {"rows": 0}
    right, certainty = np.zeros(len(truth), dtype=bool), np.zeros(len(truth))
    control_right = np.zeros(len(truth), dtype=bool)
    for number in range(settings.folds):
        held_out, visible = np.flatnonzero(fold == number), np.flatnonzero(fold != number)
        if not len(held_out):
            continue
        predicted, certainty_of = spread_from(visible)
        right[held_out], certainty[held_out] = predicted[held_out] == truth[held_out], certainty_of[held_out]
        control = fit_control(embeddings[visible], truth[visible], control_c)
        control_right[held_out] = control.predict(embeddings[held_out]) == truth[held_out]
    return {
        "rows": len(hidden),
        "folds": settings.folds,
        "accuracy": round(float(right[hidden].mean()), 4),
        "control": round(float(control_right[hidden].mean()), 4),
        "p": round(mcnemar(int((right & ~control_right).sum()), int((control_right & ~right).sum()), "greater"), 4),
        "by_certainty": _by_certainty(hidden, right, certainty),
    }


def _folds(truth: Indices, settings: Spread) -> Indices:
    """Return the fold (N,) in which each row is held out, stratified by class; -1 for the only row of a class."""
    fold = np.full(len(truth), -1)
    shuffled = np.random.default_rng(settings.seed).permutation(len(truth))
    for label in np.unique(truth):
        rows = shuffled[truth[shuffled] == label]
        if len(rows) > 1:
            fold[rows] = np.arange(len(rows)) % settings.folds
    return fold


def _by_certainty(hidden: Indices, right: Flags, certainty: NDArray[np.float64]) -> list[dict[str, float]]:
    """Return size, lowest certainty and accuracy of each fifth of the hidden rows, least certain first."""
    fifths = [part for part in np.array_split(hidden[np.argsort(certainty[hidden])], FIFTHS) if len(part)]
    return [
        {"from": round(float(certainty[part[0]]), 4), "rows": len(part), "accuracy": round(float(right[part].mean()), 4)}
        for part in fifths
    ]


def _least_certain(rows: list[Example]) -> list[dict[str, Any]]:
    least = sorted(rows, key=lambda row: row.meta["certainty"])[:EXAMPLES_SHOWN]
    return [{"text": row.text, "label": row.label, **row.meta} for row in least]


def spread_file(unlabelled_file: Path, split_folder: Path, params: Params) -> Spreading:
    """Run the stage on the texts of a file that may be trained on, and count the others in the report."""
    unlabelled = read_unlabelled(unlabelled_file, params.data)
    train, val, test = (read_examples(split_folder / f"{side}.parquet") for side in ("train", "val", "test"))
    test_share = json.loads((split_folder / "report.json").read_text(encoding="utf-8"))["test_share"]
    texts = trainable(unlabelled.texts, (train, val, test), params.split, test_share)
    spreading = Spreading([], {"spread": 0, "held_out": {"rows": 0}})
    if texts:
        spreading = spread(train, texts, params.model, params.spread, params.evaluate.control_c)
    both = [row.text for row in [*spreading.rows, *test]]
    near = near_pairs_across(both, len(spreading.rows), params.data.near_duplicate_jaccard)
    counts = {
        "file": str(unlabelled_file),
        "texts": len(unlabelled.texts),
        "held_back": len(unlabelled.texts) - len(texts),
        "set_aside": unlabelled.bad,
        "near_pairs_test": len(near),
    }
    return Spreading(spreading.rows, counts | spreading.report)


def summary(report: dict[str, Any]) -> str:
    """Return the result in one line, with a warning when spreading is not shown to be better than the control."""
    if not report["texts"]:
        return f"{report['file']} has no texts: training uses labelled rows only"
    line = (
        f"{report['spread']} of {report['texts']} unlabelled texts have a label now, "
        f"{report['held_back']} held back (in the split, or test rows once labelled)"
    )
    held_out = report["held_out"]
    if not held_out["rows"]:
        return line
    line += f"; accuracy on held-out labels: {held_out['accuracy']:.1%} (control without these texts: {held_out['control']:.1%})"
    if held_out["p"] < LEVEL:
        return line
    doubt = f"not shown to be better than the control (McNemar, p = {held_out['p']:.2f})"
    return f"{line}\nwarning: {doubt}: compare with a training without data.unlabelled, or label more texts first"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--split", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    params = load_params()  # the file's name comes from here: on the command line a shell would read it
    spreading = spread_file(params.data.unlabelled, args.split, params)
    write_examples(args.out / "rows.parquet", spreading.rows)
    write_json(args.out / "report.json", spreading.report)
    print_lines(summary(spreading.report))


if __name__ == "__main__":
    run_stage(main)
