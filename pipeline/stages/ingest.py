"""Stage `ingest`: source, test file and feedback become clean rows and a report; bad rows are set aside, never lost."""

import argparse
import csv
import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from pipeline.atomic_write import written_whole
from pipeline.data.near_duplicates import Pair, find_near_duplicates
from pipeline.data.records import (
    Columns,
    Example,
    describe_fault,
    digest_examples,
    find_columns,
    labels_of,
    make_example,
    normalise_label,
    read_rows,
    write_examples,
    write_json,
)
from pipeline.errors import InputError, run_stage
from pipeline.params import Data, load_params

EXAMPLES_SHOWN = 20


class Placed(NamedTuple):
    """An example with the file and line it came from."""

    example: Example
    path: Path
    line: int


class Quarantined(NamedTuple):
    """A row set aside, and why."""

    path: Path
    line: int
    reason: str
    fields: dict[str, Any] | None


class Ingested(NamedTuple):
    """Rows to split, test rows as supplied (often none), rows set aside, and the report."""

    rows: list[Example]
    test: list[Example]
    quarantined: list[Quarantined]
    report: dict[str, Any]


def ingest(source_file: Path, test_file: Path, feedback_folder: Path, data: Data) -> Ingested:
    """Read, validate, merge and de-duplicate; raises `InputError` when the data as a whole cannot be trained on."""
    source, bad = _read_file(source_file, data)
    feedback, bad_feedback = _read_feedback(feedback_folder, data)
    test, bad_test = _read_file(test_file, data)
    _refuse_many(source_file, source, bad, data.max_quarantined_share)
    _refuse_spoilt_test(bad_test)
    _refuse_spellings([*source, *feedback, *test])
    accepted, conflicts = _without_conflicts(source)
    unique = {placed.example.id: placed.example for placed in [*accepted, *feedback]}  # later wins: feedback corrects the corpus
    in_test = {placed.example.id for placed in test}
    rows = [example for example in unique.values() if example.id not in in_test]
    near = find_near_duplicates([row.text for row in rows], data.near_duplicate_jaccard)
    near_report = _near_report(data, rows, near)
    if data.near_duplicates == "drop":
        copies = _copies(near)
        rows = [row for index, row in enumerate(rows) if index not in copies]
    _refuse_classes(source_file, rows, [placed.example for placed in test])
    quarantined = [*bad, *conflicts, *bad_feedback]
    report = {
        "source": {"file": str(source_file), "rows": len(source) + len(bad)},
        "feedback": {
            "rows": len(feedback) + len(bad_feedback),
            "corrects_the_source": len({p.example.id for p in feedback} & {p.example.id for p in accepted}),
        },
        "test": {"file": str(test_file), "rows": len(test)},
        "accepted": len(rows),
        "exact_duplicates": len(accepted) + len(feedback) - len(unique),
        "also_in_test_and_dropped": len(unique.keys() & in_test),
        "near_duplicates": near_report,
        "quarantined": {
            "rows": len(quarantined),
            "reasons": dict(Counter(q.reason.split(":")[0] for q in quarantined).most_common()),
        },
        "classes": dict(sorted(Counter(labels_of(rows)).items())),
        "digest": digest_examples(sorted([*rows, *(p.example for p in test)], key=lambda e: e.id)),
    }
    return Ingested(rows, [placed.example for placed in test], quarantined, report)


def _read_file(path: Path, data: Data, columns: Columns | None = None) -> tuple[list[Placed], list[Quarantined]]:
    """Acceptable and bad rows of one file; the columns are found among the names of all its rows unless they are given."""
    rows = list(read_rows(path, data))
    names = dict.fromkeys(name for row in rows if row.fields for name in row.fields)
    if names and columns is None:
        columns = find_columns(path, names, data)
    good: list[Placed] = []
    bad: list[Quarantined] = []
    for row in rows:
        if row.fields is None or columns is None:
            bad.append(Quarantined(path, row.line, row.fault, row.fields))
            continue
        try:
            example = make_example(row.fields, columns, max_text_chars=data.max_text_chars, source=path.stem)
        except ValidationError as error:
            bad.append(Quarantined(path, row.line, describe_fault(error), row.fields))
        else:
            if example.label is None:
                bad.append(Quarantined(path, row.line, "label is missing", row.fields))
            else:
                good.append(Placed(example, path, row.line))
    return good, bad


def _read_feedback(folder: Path, data: Data) -> tuple[list[Placed], list[Quarantined]]:
    files = [path for path in sorted(folder.glob("*.jsonl")) if path.stat().st_size]
    read = [_read_file(path, data, Columns("text", "label")) for path in files]
    return [placed for good, _ in read for placed in good], [row for _, bad in read for row in bad]


def _without_conflicts(placed: list[Placed]) -> tuple[list[Placed], list[Quarantined]]:
    """Texts that stand in one file under several labels are set aside: nobody here knows which label is right."""
    labels = defaultdict(set)
    for one in placed:
        labels[one.example.id].add(one.example.label)
    clear = [one for one in placed if len(labels[one.example.id]) == 1]
    torn = [one for one in placed if len(labels[one.example.id]) > 1]
    reason = "the same text has several labels: {}"
    return clear, [
        Quarantined(
            o.path,
            o.line,
            reason.format(", ".join(sorted(map(str, labels[o.example.id])))),
            {"text": o.example.text, "label": o.example.label},
        )
        for o in torn
    ]


def _refuse_many(path: Path, good: list[Placed], bad: list[Quarantined], max_share: float) -> None:
    rows = len(good) + len(bad)
    if rows == 0:
        raise InputError(str(path), "the file has no rows", "set data.source to a file with labelled texts")
    if len(bad) > max_share * rows:
        first = bad[0]
        raise InputError(
            f"{first.path}, line {first.line}",
            f"{len(bad)} of {rows} rows are not usable; the first: {first.reason}",
            "mend the rows, or raise data.max_quarantined_share to go on without them",
        )


def _refuse_spoilt_test(bad: list[Quarantined]) -> None:
    if bad:
        raise InputError(
            f"{bad[0].path}, line {bad[0].line}",
            f"a test row is not usable: {bad[0].reason}",
            "mend it: test files are never altered",
        )


def _refuse_spellings(placed: list[Placed]) -> None:
    """One label written in two ways is two classes to a model; that is never meant."""
    known: dict[str, Placed] = {}
    for one in placed:
        label = one.example.label or ""
        other = known.setdefault(normalise_label(label), one)
        if other.example.label != label:
            raise InputError(
                f"{one.path}, line {one.line}",
                f"the label `{label}` is also spelt `{other.example.label}` ({other.path}, line {other.line})",
                "write both the same way",
            )


def _refuse_classes(path: Path, rows: list[Example], test: list[Example]) -> None:
    classes = set(labels_of(rows))
    if not rows:
        raise InputError(str(path), "every usable row is in the test file too", "give other rows to learn from")
    if len(classes) < 2:
        raise InputError(str(path), f"all rows have one label: {', '.join(classes) or 'none'}", "a classifier needs at least two")
    unknown = sorted(set(labels_of(test)) - classes)
    if unknown:
        raise InputError(
            str(path),
            f"the test file has labels that no row here has: {', '.join(unknown[:5])}",
            "add rows, or take them out of the test",
        )


def _copies(pairs: list[Pair]) -> set[int]:
    """Rows to drop so that no near pair is left whole, the earlier row of each pair staying."""
    dropped: set[int] = set()
    for pair in pairs:  # in the order of their second row
        if pair.first not in dropped:
            dropped.add(pair.second)
    return dropped


def _near_report(data: Data, rows: list[Example], pairs: list[Pair]) -> dict[str, Any]:
    shown = [
        {"first": rows[pair.first].text, "second": rows[pair.second].text, "jaccard": round(pair.jaccard, 3)}
        for pair in pairs[:EXAMPLES_SHOWN]
    ]
    return {
        "action": data.near_duplicates,
        "pairs": len(pairs),
        "share_of_rows": round(len({index for pair in pairs for index in pair[:2]}) / max(1, len(rows)), 5),
        "dropped": len(_copies(pairs)) if data.near_duplicates == "drop" else 0,
        "examples": shown,
    }


def write(ingested: Ingested, folder: Path) -> None:
    """Rows, test rows, class sizes, rows set aside, and the report last."""
    write_examples(folder / "rows.parquet", ingested.rows)
    write_examples(folder / "test.parquet", ingested.test)
    with written_whole(folder / "quarantine.jsonl") as part:
        lines = [json.dumps({**q._asdict(), "path": str(q.path)}, default=str) for q in ingested.quarantined]
        part.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    with written_whole(folder / "classes.csv") as part, part.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("label", "rows"), *ingested.report["classes"].items()])
    write_json(folder / "report.json", ingested.report)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--feedback", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    ingested = ingest(args.source, args.test, args.feedback, load_params().data)
    write(ingested, args.out)
    report = ingested.report
    aside = report["quarantined"]["rows"]
    print(f"{report['accepted']} rows, {len(report['classes'])} classes, {aside} set aside → {args.out}/report.json")


if __name__ == "__main__":
    run_stage(main)
