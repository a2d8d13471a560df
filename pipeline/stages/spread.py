"""Stage `spread`: texts that nobody has labelled get the labels of labelled texts near by, for training only."""

import argparse
import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from pipeline.data.near_duplicates import near_pairs_across
from pipeline.data.records import (
    TEXT_COLUMNS,
    Columns,
    Example,
    describe_fault,
    labels_of,
    make_example,
    normalise_label,
    read_examples,
    read_rows,
    write_examples,
    write_json,
)
from pipeline.data.split_sides import side_of
from pipeline.errors import InputError, run_stage
from pipeline.params import Data, Model, Split, Spread, load_params

EXAMPLES_SHOWN = 10
BATCH = 64
FIFTHS = 5
LEVEL = 0.05  # of the test that spreading is better than its control

Spreader = Callable[[NDArray[np.int64]], tuple[NDArray[np.int64], NDArray[np.float64]]]  # labelled rows → class, certainty of all


class Unlabelled(NamedTuple):
    """Texts of a file, each once, and what was wrong with the rows that are not among them, as `line: reason`."""

    texts: list[Example]
    bad: list[str]


class Spreading(NamedTuple):
    """Texts with the labels that came to them (`meta.certainty` says how clearly), and the report."""

    rows: list[Example]
    report: dict[str, Any]


def read_unlabelled(path: Path, data: Data) -> Unlabelled:
    """Text and group are read; labels, where there are any, are not looked at. Raises `InputError` as `ingest` does."""
    rows = list(read_rows(path, data))
    names = dict.fromkeys(name for row in rows if row.fields for name in row.fields)
    column = _text_column(path, list(names), data) if names else ""
    texts: dict[str, Example] = {}
    bad: list[str] = []
    for row in rows:
        if row.fields is None:
            bad.append(f"{row.line}: {row.fault}")
            continue
        fields = {"text": row.fields.get(column), "group": row.fields.get("group")}
        try:
            example = make_example(fields, Columns("text", "label"), max_text_chars=data.max_text_chars, source=path.stem)
        except ValidationError as error:
            bad.append(f"{row.line}: {describe_fault(error)}")
        else:
            texts.setdefault(example.id, example)
    if len(bad) > data.max_quarantined_share * len(rows):
        line, reason = bad[0].split(": ", 1)
        what = f"{len(bad)} of {len(rows)} rows hold no usable text; the first: {reason}"
        do = "mend the rows, or raise data.max_quarantined_share to go on without them"
        raise InputError(f"{path}, line {line}", what, do)
    return Unlabelled(list(texts.values()), bad)


def _text_column(path: Path, names: list[str], data: Data) -> str:
    """`data.text_column` where this file has it, else the only one of the usual names: sources may name theirs otherwise."""
    found = [data.text_column] if data.text_column in names else [name for name in TEXT_COLUMNS if name in names]
    if len(found) != 1:
        what = (
            f"several columns could hold the texts: {', '.join(found)}"
            if found
            else f"no column is named {', '.join(TEXT_COLUMNS)}"
        )
        raise InputError(str(path), what, "give the file a header line in which one column is named `text`")
    return found[0]


def free_to_learn(unlabelled: list[Example], sides: Sequence[list[Example]], settings: Split, test_share: float) -> list[Example]:
    """Texts on no side (train, validation, test) and in no group held out, that would not be test rows once labelled."""
    taken = {row.id for rows in sides for row in rows}
    held_out = {row.group for rows in sides[1:] for row in rows if row.group}

    def is_free(row: Example) -> bool:
        side = side_of(row, settings.seed, val_share=settings.val_share, test_share=test_share)
        return row.id not in taken and row.group not in held_out and side != "test"

    return [row for row in unlabelled if is_free(row)]


def spread(labelled: list[Example], unlabelled: list[Example], model: Model, settings: Spread, control_c: float) -> Spreading:
    """Labels for texts by their neighbours in the frozen encoder; held-out labelled rows tell how many are right."""
    from pipeline.learning.label_spreading import UNKNOWN, neighbour_graph, spread_labels, strongest_class
    from pipeline.network.frozen_encoder import frozen_embeddings  # torch and all: most projects have nothing to spread

    labels = sorted(set(labels_of(labelled)))
    known = np.array([labels.index(label) for label in labels_of(labelled)], dtype=np.int64)
    names = [normalise_label(label) for label in labels] if settings.label_names == "texts" else []
    texts = [*(row.text for row in [*labelled, *unlabelled]), *names]
    embeddings = frozen_embeddings(texts, model, BATCH, "embed")
    print(f"joining {len(texts)} texts with their neighbours", flush=True)
    graph = neighbour_graph(embeddings, settings)

    def spread_from(rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        targets = np.full(len(texts), UNKNOWN, dtype=np.int64)
        targets[rows] = known[rows]
        targets[len(texts) - len(names) :] = np.arange(len(names))
        return strongest_class(spread_labels(graph, targets, len(labels), settings.reach))

    guess, certainty = spread_from(np.arange(len(labelled)))
    own = slice(len(labelled), len(labelled) + len(unlabelled))
    reached = [
        row.model_copy(update={"label": labels[label], "meta": {"certainty": round(float(sure), 4)}})
        for row, label, sure in zip(unlabelled, guess[own], certainty[own], strict=True)
        if label != UNKNOWN
    ]
    rows = [row for row in reached if row.meta["certainty"] >= settings.min_certainty]
    report = {
        "labelled": len(labelled),
        "spread": len(rows),
        "out_of_reach": len(unlabelled) - len(reached),
        "below_min_certainty": len(reached) - len(rows),
        "held_out": held_out(known, spread_from, embeddings, settings, control_c),
        "classes": dict(sorted(Counter(labels_of(rows)).items())),
        "least_certain_kept": _shown(rows),
    }
    return Spreading(rows, report)


def held_out(
    known: NDArray[np.int64], spread_from: Spreader, embeddings: NDArray[np.float32], settings: Spread, control_c: float
) -> dict[str, Any]:
    """Labelled rows whose labels are hidden in turn: how many get theirs back, in all and by fifths of certainty.

    Beside it the control: logistic regression on the same embeddings of the rows that show their labels, without any other text.
    A class with fewer rows than folds has one hidden in so many folds; one with a single row keeps it.
    """
    from pipeline.metrics import mcnemar
    from pipeline.network.frozen_encoder import fit_control

    fold = np.full(len(known), -1)
    shuffled = np.random.default_rng(settings.seed).permutation(len(known))
    for one in np.unique(known):
        rows = shuffled[known[shuffled] == one]
        if len(rows) > 1:
            fold[rows] = np.arange(len(rows)) % settings.folds
    hidden = np.flatnonzero(fold >= 0)
    if not len(hidden):
        return {"rows": 0}
    right, sure = np.zeros(len(known), dtype=bool), np.zeros(len(known))
    control = np.zeros(len(known), dtype=bool)
    for number in range(settings.folds):
        out, shown = np.flatnonzero(fold == number), np.flatnonzero(fold != number)
        if not len(out):
            continue
        guess, certainty = spread_from(shown)
        right[out], sure[out] = guess[out] == known[out], certainty[out]
        control[out] = fit_control(embeddings[shown], known[shown], control_c).predict(embeddings[out]) == known[out]
    fifths = [part for part in np.array_split(hidden[np.argsort(sure[hidden])], FIFTHS) if len(part)]
    return {
        "rows": len(hidden),
        "folds": settings.folds,
        "accuracy": round(float(right[hidden].mean()), 4),
        "control": round(float(control[hidden].mean()), 4),
        "p": round(mcnemar(int((right & ~control).sum()), int((control & ~right).sum()), "greater"), 4),
        "by_certainty": [
            {"from": round(float(sure[part[0]]), 4), "rows": len(part), "accuracy": round(float(right[part].mean()), 4)}
            for part in fifths
        ],
    }


def _shown(rows: list[Example]) -> list[dict[str, Any]]:
    least = sorted(rows, key=lambda row: row.meta["certainty"])[:EXAMPLES_SHOWN]
    return [{"text": row.text, "label": row.label, **row.meta} for row in least]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--unlabelled", type=Path, required=True)
    parser.add_argument("--split", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    params = load_params()
    found = read_unlabelled(args.unlabelled, params.data)
    sides = [read_examples(args.split / f"{side}.parquet") for side in ("train", "val", "test")]
    test_share = json.loads((args.split / "report.json").read_text(encoding="utf-8"))["test_share"]
    texts = free_to_learn(found.texts, sides, params.split, test_share)
    counts = {"file": str(args.unlabelled), "texts": len(found.texts), "held_back": len(found.texts) - len(texts)}
    made = (
        spread(sides[0], texts, params.model, params.spread, params.evaluate.control_c)
        if texts
        else Spreading([], {"spread": 0, "held_out": {"rows": 0}})
    )
    learnt = [row.text for row in made.rows]
    near = near_pairs_across([*learnt, *(row.text for row in sides[2])], len(learnt), params.data.near_duplicate_jaccard)
    write_examples(args.out / "rows.parquet", made.rows)
    write_json(args.out / "report.json", {**counts, "set_aside": found.bad, "near_pairs_test": len(near), **made.report})
    print(told(counts, made.report))


def told(counts: dict[str, Any], report: dict[str, Any]) -> str:
    """What happened, in a line."""
    if not counts["texts"]:
        return f"{counts['file']} has no texts: training learns from labelled rows alone"
    back = f"{counts['held_back']} stand in the split or would be test rows"
    said = f"{report['spread']} of {counts['texts']} unlabelled texts have a label now, {back}"
    hidden = report["held_out"]
    if not hidden["rows"]:
        return said
    said += (
        f"; {hidden['accuracy']:.1%} of hidden labels came back (frozen control, without these texts: {hidden['control']:.1%})"
    )
    if hidden["p"] < LEVEL:
        return said
    doubt = f"not shown to be better than the control (McNemar, p = {hidden['p']:.2f})"
    return f"{said}\nwarning: {doubt}: compare with a training without data.unlabelled, or label more texts first"


if __name__ == "__main__":
    run_stage(main)
