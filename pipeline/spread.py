"""Stage `spread`: texts that nobody has labelled get the labels of labelled texts near by, for training only."""

import argparse
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from pipeline.errors import InputError, run_stage
from pipeline.params import Data, Model, Spread, load_params
from pipeline.records import (
    TEXT_COLUMNS,
    Columns,
    Example,
    labels_of,
    make_example,
    one_column,
    read_examples,
    read_rows,
    spelling,
    write_examples,
    write_json,
)

EXAMPLES_SHOWN = 20
BATCH = 64
FIFTHS = 5
SpreadFrom = Callable[
    [list[int]], tuple[NDArray[np.int64], NDArray[np.float64]]
]  # labelled rows → class and certainty of every row


class Unlabelled(NamedTuple):
    """Texts of a file, each once, and what was wrong with the rows that are not among them, as `line: reason`."""

    texts: list[Example]
    bad: list[str]


class Spreading(NamedTuple):
    """Texts with the labels that came to them (`meta.certainty` says how clearly), and the report."""

    rows: list[Example]
    report: dict[str, Any]


def read_unlabelled(path: Path, data: Data) -> Unlabelled:
    """The text column alone is read: labels, where there are any, are not looked at. Raises `InputError` as `ingest` does."""
    texts: dict[str, Example] = {}
    bad: list[str] = []
    rows = list(read_rows(path, data))
    names = dict.fromkeys(name for row in rows if row.fields for name in row.fields)
    column = one_column(path, list(names), data.text_column, TEXT_COLUMNS, "data.text_column") if names else ""
    for row in rows:
        try:
            if row.fields is None:
                raise ValueError(row.fault)
            fields = {"text": row.fields.get(column)}
            example = make_example(fields, Columns("text", "label"), max_text_chars=data.max_text_chars, source=path.stem)
        except ValidationError as error:
            bad.append(f"{row.line}: {error.errors()[0]['msg'].removeprefix('Value error, ')}")
        except ValueError as error:
            bad.append(f"{row.line}: {error}")
        else:
            texts.setdefault(example.id, example)
    if len(bad) > data.max_quarantined_share * len(rows):
        what = f"{len(bad)} of {len(rows)} rows hold no usable text; the first: {bad[0].split(': ', 1)[1]}"
        do = "mend the rows, or raise data.max_quarantined_share to go on without them"
        raise InputError(f"{path}, line {bad[0].split(':')[0]}", what, do)
    return Unlabelled(list(texts.values()), bad)


def spread(labelled: list[Example], unlabelled: list[Example], model: Model, settings: Spread) -> Spreading:
    """Labels for texts by their neighbours in the frozen encoder; held-out labelled rows tell how many are right."""
    from pipeline.learning.frozen import frozen_embeddings  # torch and all: most projects have nothing to spread
    from pipeline.learning.label_spreading import UNKNOWN, most_certain, neighbour_graph, spread_labels

    labels = sorted(set(labels_of(labelled)))
    index = {label: i for i, label in enumerate(labels)}
    names = [spelling(label) for label in labels] if settings.label_names == "texts" else []
    texts = [*(row.text for row in [*labelled, *unlabelled]), *names]
    embeddings = frozen_embeddings(texts, model, BATCH, "embed")
    graph = neighbour_graph(embeddings, settings)
    known = np.array([index[label] for label in labels_of(labelled)], dtype=np.int64)

    def spread_from(rows: list[int]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        targets = np.full(len(texts), UNKNOWN, dtype=np.int64)
        targets[rows] = known[rows]
        targets[len(texts) - len(names) :] = np.arange(len(names))
        return most_certain(spread_labels(graph, targets, len(labels), settings.reach))

    guess, certainty = spread_from(list(range(len(labelled))))
    rows: list[Example] = []
    uncertain: list[Example] = []
    out_of_reach = 0
    own = slice(len(labelled), len(labelled) + len(unlabelled))
    for example, label, sure in zip(unlabelled, guess[own], certainty[own], strict=True):
        if label == UNKNOWN:
            out_of_reach += 1
            continue
        row = example.model_copy(update={"label": labels[label], "meta": {"certainty": round(float(sure), 4)}})
        (rows if sure >= settings.min_certainty else uncertain).append(row)
    shown = sorted([*rows, *uncertain], key=lambda row: row.meta["certainty"])[:EXAMPLES_SHOWN]
    report = {
        "labelled": len(labelled),
        "spread": len(rows),
        "out_of_reach": out_of_reach,
        "below_min_certainty": len(uncertain),
        "held_out": held_out(labels_of(labelled), known, spread_from, settings),
        "classes": dict(sorted(Counter(labels_of(rows)).items())),
        "least_certain": [{"text": row.text, "label": row.label, **row.meta} for row in shown],
    }
    return Spreading(rows, report)


def held_out(labels: list[str], known: NDArray[np.int64], spread_from: SpreadFrom, settings: Spread) -> dict[str, Any]:
    """Labelled rows whose labels are hidden in turn: how many get theirs back, in all and by fifths of certainty."""
    from pipeline.learning.folds import stratified_folds

    count = min(settings.folds, min(Counter(labels).values()))
    if count < 2:  # a class of one row cannot be held out
        return {"rows": 0}
    right, sure = np.zeros(len(labels), dtype=bool), np.zeros(len(labels))
    for fold in stratified_folds(labels, count, settings.seed):
        guess, certainty = spread_from(fold.train)
        right[fold.held_out] = guess[fold.held_out] == known[fold.held_out]
        sure[fold.held_out] = certainty[fold.held_out]
    fifths = [part for part in np.array_split(np.argsort(sure), FIFTHS) if len(part)]
    return {
        "rows": len(labels),
        "folds": count,
        "accuracy": round(float(right.mean()), 4),
        "by_certainty": [
            {"from": round(float(sure[part[0]]), 4), "rows": len(part), "accuracy": round(float(right[part].mean()), 4)}
            for part in fifths
        ],
    }


def without_split(unlabelled: list[Example], sides: Iterable[list[Example]]) -> list[Example]:
    """Texts that stand on no side of the split: neither labelled already, nor held out to be tested on."""
    taken = {row.id for rows in sides for row in rows}
    return [row for row in unlabelled if row.id not in taken]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--unlabelled", type=Path, required=True)
    parser.add_argument("--split", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    params = load_params()
    found = read_unlabelled(args.unlabelled, params.data)
    sides = {side: read_examples(args.split / f"{side}.parquet") for side in ("train", "val", "test")}
    texts = without_split(found.texts, sides.values())
    made = spread(sides["train"], texts, params.model, params.spread) if texts else Spreading([], {"spread": 0})
    counts = {"file": str(args.unlabelled), "texts": len(found.texts), "in_split": len(found.texts) - len(texts)}
    write_examples(args.out / "rows.parquet", made.rows)
    write_json(args.out / "report.json", {**counts, "set_aside": found.bad, **made.report})
    told = made.report.get("held_out", {}).get("accuracy")
    known = f"; {told:.1%} of held-out labelled rows get their own label back" if told is not None else ""
    print(f"{len(made.rows)} of {len(texts)} unlabelled texts have a label now{known} → {args.out}/report.json")


if __name__ == "__main__":
    run_stage(main)
