"""Stage `split`: divide rows into train, validation and test by a hash of their content. Added rows move no other row."""

import argparse
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.data.near_duplicates import near_pairs_across
from pipeline.data.records import Example, digest_examples, labels_of, read_examples, write_examples, write_json
from pipeline.data.split_sides import MIN_TEST_ROWS, Side, hash_to_unit, side_of
from pipeline.errors import EvergreenError, InputError, raise_all, run_stage
from pipeline.output.plain_text import join_names, print_line
from pipeline.params import Split, load_params


class Sides(NamedTuple):
    """Rows by side, the classes too small to test (kept for training by params), and the share of test rows."""

    train: list[Example]
    val: list[Example]
    test: list[Example]
    small_classes: list[str]
    test_share: float  # 0 with a supplied test


def split(rows: list[Example], supplied_test: list[Example], settings: Split) -> Sides:
    """Divide rows by content hash; with a supplied test, rows become train and validation only.

    Raise `InputError` for a class without two test rows or without a training row, unless `small_classes` is `keep`, and for
    validation rows that are missing or whose class has no training row.
    """
    faults: list[EvergreenError] = []
    test_share = 0.0 if supplied_test else settings.test_share
    sides = {row.id: side_of(row, settings.seed, val_share=settings.val_share, test_share=test_share) for row in rows}
    small = _small_classes(rows, supplied_test, sides)
    if small and settings.small_classes == "refuse":
        sizes = Counter(labels_of(rows))
        sized = [f"{label} ({sizes[label]} {'row' if sizes[label] == 1 else 'rows'})" for label in small]
        is_chance = not supplied_test and any(sizes[label] > MIN_TEST_ROWS + 1 for label in small)
        why = "; a hash of each text decides its side, so the shares of a small class vary" if is_chance else ""
        names = join_names(sized, most=10, quote="")
        what = f"classes with fewer than {MIN_TEST_ROWS} test rows, or none to train on: {names}{why}"
        add = "add rows of these classes to the test file" if supplied_test else "collect more rows"
        do = f"{add}; or train on them and do not test them: -S split.small_classes=keep"
        faults.append(InputError("the split", what, do))
    for row in rows:
        if row.label in small:
            sides[row.id] = "train"
    if settings.rows_a_class != "all":
        rows = limit_classes(rows, sides, settings.rows_a_class, settings.seed)
    chosen: dict[Side, list[Example]] = {"train": [], "val": [], "test": list(supplied_test)}
    for row in rows:
        chosen[sides[row.id]].append(row)
    if not chosen["val"]:
        do = "collect more rows, or raise split.val_share"
        faults.append(InputError("the split", "no row is assigned to validation", do))
    if untrained := sorted(set(labels_of(chosen["val"])) - set(labels_of(chosen["train"]))):
        what = f"all rows of a class are assigned to validation: {join_names(untrained, most=10, quote='')}"
        do = "raise split.rows_a_class, lower split.val_share, or try another split.seed"
        faults.append(InputError("the split", what, do))
    raise_all(faults)
    return Sides(chosen["train"], chosen["val"], chosen["test"], small, test_share)


def limit_classes(rows: list[Example], sides: dict[str, Side], rows_a_class: int, seed: int) -> list[Example]:
    """Return all test rows, and at most `rows_a_class` other rows of each class, drawn by a hash of their content."""
    by_class: dict[str, list[Example]] = {}
    for row in rows:
        if sides[row.id] != "test":
            by_class.setdefault(str(row.label), []).append(row)
    drawn: set[str] = set()
    for class_rows in by_class.values():
        drawn.update(
            sorted((row.id for row in class_rows), key=lambda row_id: hash_to_unit(f"{seed}\0few\0{row_id}"))[:rows_a_class]
        )
    return [row for row in rows if sides[row.id] == "test" or row.id in drawn]


def _small_classes(rows: list[Example], supplied_test: list[Example], sides: dict[str, Side]) -> list[str]:
    tested = Counter(labels_of(supplied_test) if supplied_test else [str(r.label) for r in rows if sides[r.id] == "test"])
    trained = {row.label for row in rows if sides[row.id] == "train"}
    return sorted(label for label in set(labels_of(rows)) if tested[label] < MIN_TEST_ROWS or label not in trained)


def report(sides: Sides, jaccard: float) -> dict[str, Any]:
    """Return sizes by side and class, a digest of each side, and near pairs between training and test (never fatal)."""
    texts = [row.text for row in [*sides.train, *sides.test]]
    across = near_pairs_across(texts, len(sides.train), jaccard)
    named = {"train": sides.train, "val": sides.val, "test": sides.test}
    return {
        "rows": {side: len(rows) for side, rows in named.items()},
        "classes": {side: dict(sorted(Counter(labels_of(rows)).items())) for side, rows in named.items()},
        "small_classes_kept_for_training": sides.small_classes,
        "test_share": sides.test_share,
        "near_pairs_train_test": len(across),
        "near_pairs_examples": [[texts[pair.first], texts[pair.second]] for pair in across[:10]],
        "digests": {side: digest_examples(rows) for side, rows in named.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    params = load_params()
    sides = split(read_examples(args.data / "rows.parquet"), read_examples(args.data / "test.parquet"), params.split)
    for side in ("train", "val", "test"):
        write_examples(args.out / f"{side}.parquet", getattr(sides, side))
    write_json(args.out / "report.json", report(sides, params.data.near_duplicate_jaccard))
    print_line(f"{len(sides.train)} train, {len(sides.val)} validation, {len(sides.test)} test rows → {args.out}")


if __name__ == "__main__":
    run_stage(main)
