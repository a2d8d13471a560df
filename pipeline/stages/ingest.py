"""Stage `ingest`: turn source, test file and feedback into clean rows and a report. Bad rows are set aside, not lost."""

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.atomic_write import atomic_write
from pipeline.data.csv_tables import write_csv
from pipeline.data.given_labels import AppliedLabels, LabelRules, apply_given_labels, label_rules
from pipeline.data.labelled_files import LocatedExample, QuarantinedRow, read_feedback, read_labelled, without_conflicts
from pipeline.data.near_duplicates import Pair, find_near_duplicates
from pipeline.data.records import (
    Example,
    digest_examples,
    labels_of,
    normalise_label,
    write_examples,
    write_json,
)
from pipeline.errors import InputError, run_stage
from pipeline.output.plain_text import print_line
from pipeline.params import Data, load_params

EXAMPLES_SHOWN = 20
ADVICE = (  # words of a reason, what to do
    ("data.max_text_chars", "shorten the texts, or raise data.max_text_chars"),
    ("label is too long", "shorten the labels, or choose another column with data.label_column"),
    ("several labels", "give each text one label"),
    ("label is not a text", "write labels as texts or whole numbers"),
    ("a quote joins", "close or double the quotes"),
)


class IngestResult(NamedTuple):
    """Rows to split, supplied test rows (often none), rows set aside, and the report."""

    rows: list[Example]
    test: list[Example]
    quarantined: list[QuarantinedRow]
    report: dict[str, Any]


def ingest(source_file: Path, test_file: Path, feedback_folder: Path, data: Data, rules: LabelRules) -> IngestResult:
    """Read, validate, merge and de-duplicate; raise `InputError` when the data as a whole cannot be trained on.

    Labels from people change the rows only as far as `rules` and `pipeline.data.given_labels` allow.
    """
    source, bad = read_labelled(source_file, data, is_source=True)
    feedback, bad_feedback = read_feedback(feedback_folder, data)
    test, bad_test = read_labelled(test_file, data)
    _refuse_spellings([*source, *feedback, *test])
    accepted, conflicts = without_conflicts(source)
    _refuse_many_bad_rows(source_file, accepted, [*bad, *conflicts], data.max_quarantined_share)
    _refuse_bad_test_rows(bad_test)
    applied = apply_given_labels(
        _unique([row.example for row in accepted]),
        [row.example for row in test],
        [row.example for row in feedback],
        rules,
    )
    in_test = {located.example.id for located in test}
    rows = [example for example in applied.rows if example.id not in in_test]
    near = find_near_duplicates([row.text for row in rows], data.near_duplicate_jaccard)
    near_report = _near_report(data, rows, near)
    if data.near_duplicates == "drop":
        copies = _copies(near)
        rows = [row for index, row in enumerate(rows) if index not in copies]
    _refuse_classes(source_file, rows, applied.test)
    quarantined = [*bad, *conflicts, *bad_feedback, *_waiting(applied, feedback)]
    report = {
        "source": {"file": str(source_file), "rows": len(source) + len(bad)},
        "feedback": {
            "rows": len(feedback) + len(bad_feedback),
            **_feedback_report(applied),
        },
        "test": {"file": str(test_file), "rows": len(test)},
        "accepted": len(rows),
        "exact_duplicates": len(accepted) + len(feedback) - len(applied.rows) - len(applied.waiting),
        "also_in_test_and_dropped": len({row.id for row in applied.rows} & in_test),
        "near_duplicates": near_report,
        "quarantined": {
            "rows": len(quarantined),
            "reasons": dict(Counter(q.reason.split(":")[0] for q in quarantined).most_common()),
        },
        "classes": dict(sorted(Counter(labels_of(rows)).items())),
        "digest": digest_examples(sorted([*rows, *applied.test], key=lambda e: e.id)),
    }
    return IngestResult(rows, applied.test, quarantined, report)


def _unique(rows: list[Example]) -> list[Example]:
    """Return the rows without those whose text comes again later."""
    return list({row.id: row for row in rows}.values())


def _waiting(applied: AppliedLabels, feedback: list[LocatedExample]) -> list[QuarantinedRow]:
    """Set aside the labels that are not used yet, with the line that they came from."""
    places = {located.example.id: located for located in feedback}
    waiting = []
    for example, reason in applied.waiting:
        place = places[example.id]
        fields = {"text": example.text, "label": example.label}
        waiting.append(QuarantinedRow(place.path, place.line, reason, fields))
    return waiting


def _feedback_report(applied: AppliedLabels) -> dict[str, Any]:
    """Return what became of the labels from people; a disputed label changes nothing until the dispute is settled."""
    names = ("new", "confirms", "overrules", "settled")
    disputed = [{**dispute._asdict(), "labellers": list(dispute.labellers)} for dispute in applied.disputed]
    return {**{name: applied.counts.get(name, 0) for name in names}, "waiting": len(applied.waiting), "disputed": disputed}


def _refuse_many_bad_rows(path: Path, good: list[LocatedExample], bad: list[QuarantinedRow], max_share: float) -> None:
    rows = len(good) + len(bad)
    if rows == 0:
        raise InputError(str(path), "the file has no rows", "set data.source to a file with labelled texts")
    if len(bad) > max_share * rows:
        first = bad[0]
        raise InputError(
            f"{first.path}, line {first.line}",
            f"{len(bad)} of {rows} rows are not usable; the first: {first.reason}",
            f"{_advice(first.reason)}, or raise data.max_quarantined_share to continue without such rows",
        )


def _advice(reason: str) -> str:
    return next((do for words, do in ADVICE if words in reason), "correct the rows")


def _refuse_bad_test_rows(bad: list[QuarantinedRow]) -> None:
    if bad:
        raise InputError(
            f"{bad[0].path}, line {bad[0].line}",
            f"a test row is not usable: {bad[0].reason}",
            f"{_advice(bad[0].reason)}: test files are never altered",
        )


def _refuse_spellings(located: list[LocatedExample]) -> None:
    """Raise `InputError` when one label is spelt in two ways: a model would learn two classes."""
    first_by_spelling: dict[str, LocatedExample] = {}
    for row in located:
        label = row.example.label or ""
        first = first_by_spelling.setdefault(normalise_label(label), row)
        if first.example.label != label:
            raise InputError(
                f"{row.path}, line {row.line}",
                f"the label `{label}` is also spelt `{first.example.label}` ({first.path}, line {first.line})",
                "write both the same way",
            )


def _refuse_classes(path: Path, rows: list[Example], test: list[Example]) -> None:
    classes = set(labels_of(rows))
    if not rows:
        raise InputError(str(path), "every usable row is in the test file too", "add other rows for training")
    if len(classes) < 2:
        raise InputError(str(path), f"all rows have one label: {', '.join(classes) or 'none'}", "a classifier needs at least two")
    unknown = sorted(set(labels_of(test)) - classes)
    if unknown:
        raise InputError(
            str(path),
            f"the test file has labels that no row here has: {', '.join(unknown[:5])}",
            "add rows with these labels, or remove them from the test file",
        )


def _copies(pairs: list[Pair]) -> set[int]:
    """Return the rows to drop so that no near pair remains; the earlier row of a pair stays."""
    dropped: set[int] = set()
    for pair in pairs:  # in the order of their second row
        if pair.first not in dropped:
            dropped.add(pair.second)
    return dropped


def _near_report(data: Data, rows: list[Example], pairs: list[Pair]) -> dict[str, Any]:
    examples = [
        {"first": rows[pair.first].text, "second": rows[pair.second].text, "jaccard": round(pair.jaccard, 3)}
        for pair in pairs[:EXAMPLES_SHOWN]
    ]
    return {
        "action": data.near_duplicates,
        "pairs": len(pairs),
        "share_of_rows": round(len({index for pair in pairs for index in pair[:2]}) / max(1, len(rows)), 5),
        "dropped": len(_copies(pairs)) if data.near_duplicates == "drop" else 0,
        "examples": examples,
    }


def write(ingested: IngestResult, folder: Path) -> None:
    """Write rows, test rows, rows set aside and class sizes, and the report last."""
    write_examples(folder / "rows.parquet", ingested.rows)
    write_examples(folder / "test.parquet", ingested.test)
    with atomic_write(folder / "quarantine.jsonl") as part:
        lines = [json.dumps({**q._asdict(), "path": str(q.path)}, default=str) for q in ingested.quarantined]
        part.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    write_csv(folder / "classes.csv", ("label", "rows"), ingested.report["classes"].items())
    write_json(folder / "report.json", ingested.report)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--feedback", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    params = load_params()
    data = params.data  # file names come from here: on the command line a shell would read them
    ingested = ingest(data.source, data.test, args.feedback, data, label_rules(params))
    write(ingested, args.out)
    report = ingested.report
    aside = report["quarantined"]["rows"]
    print_line(f"{report['accepted']} rows, {len(report['classes'])} classes, {aside} set aside → {args.out}/report.json")
    if disputed := len(report["feedback"]["disputed"]):
        print_line(f"{disputed} labels from people contradict rows that measure the model and change nothing: evergreen disputes")


if __name__ == "__main__":
    run_stage(main)
