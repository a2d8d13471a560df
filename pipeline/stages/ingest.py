"""Stage `ingest`: turn source, test file and feedback into clean rows and a report. Bad rows are set aside, not lost."""

import argparse
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.atomic_write import atomic_write
from pipeline.data.csv_tables import write_csv
from pipeline.data.given_labels import FENCED, AppliedLabels, LabelRules, apply_given_labels, label_rules
from pipeline.data.labelled_files import (
    LabelledFile,
    LocatedExample,
    QuarantinedRow,
    SpellingVariant,
    read_feedback,
    read_labelled,
    spelling_variants,
    without_conflicts,
)
from pipeline.data.near_duplicates import Pair, find_near_duplicates
from pipeline.data.records import (
    Example,
    digest_examples,
    labels_of,
    write_examples,
    write_json,
)
from pipeline.errors import EvergreenError, InputError, raise_all, run_stage
from pipeline.output.plain_text import join_names, print_line
from pipeline.params import Data, load_params
from pipeline.params.overrides import as_override

EXAMPLES_SHOWN = 20
ADVICE = (  # words of a reason, what to do
    ("data.max_text_chars", "shorten the texts, or raise data.max_text_chars"),
    ("label is too long", "shorten the labels, or choose another column with data.label_column"),
    ("several labels", "give each text one label"),
    ("label is not a text", "write labels as texts or whole numbers"),
    ("an object", "name the key that holds it: data.text_column=COLUMN.KEY, data.label_column=COLUMN.KEY"),
    ("a quote joins", "close or double the quotes"),
)


class SourceNames(NamedTuple):
    """What people call the rows and the supplied test rows."""

    rows: Path
    test: Path


class IngestResult(NamedTuple):
    """Rows to split, supplied test rows (often none), rows set aside, the report, and the faults for which data is refused."""

    rows: list[Example]
    test: list[Example]
    quarantined: list[QuarantinedRow]
    report: dict[str, Any]
    faults: list[EvergreenError]
    is_whole: bool  # every file was read to its end
    located: list[LocatedExample]  # the usable rows of all files, as they stand in them


def ingest(source_file: Path, test_file: Path, feedback_folder: Path, data: Data, rules: LabelRules) -> IngestResult:
    """Examine the data; raise every fault as `InputError` when the data as a whole cannot be trained on."""
    examined = examine(source_file, test_file, feedback_folder, data, rules)
    raise_all(examined.faults)
    return examined


def examine(source_file: Path, test_file: Path, feedback_folder: Path, data: Data, rules: LabelRules) -> IngestResult:
    """Read, validate, merge and de-duplicate; collect all faults, those of the files first."""
    source = read_labelled(source_file, data, is_source=True)
    feedback, test = read_feedback(feedback_folder, data), read_labelled(test_file, data)
    return merge(source, feedback, test, SourceNames(source_file, test_file), data, rules)


def merge(
    source: LabelledFile, feedback: LabelledFile, test: LabelledFile, names: SourceNames, data: Data, rules: LabelRules
) -> IngestResult:
    """Merge and de-duplicate rows; collect all faults, those of the files first.

    Labels from people change the rows only as far as `rules` and `pipeline.data.given_labels` allow.
    """
    faults = [*source.faults, *feedback.faults, *test.faults]
    is_whole = source.is_whole and feedback.is_whole and test.is_whole
    variants = spelling_variants([*source.good, *feedback.good, *test.good])
    faults += _spelling_faults(variants)
    source_rows, feedback_rows, test_rows = (_respelt(rows, variants) for rows in (source.good, feedback.good, test.good))
    accepted, conflicts = without_conflicts(source_rows)
    if source_rows or not source.faults:
        faults += _bad_rows_fault(names.rows, accepted, [*source.bad, *conflicts], data.max_quarantined_share)
    faults += _bad_test_rows_fault(test.bad)
    applied = apply_given_labels(
        _unique([row.example for row in accepted]),
        [row.example for row in test_rows],
        [row.example for row in feedback_rows],
        rules,
    )
    in_test = {located.example.id for located in test_rows}
    rows = [example for example in applied.rows if example.id not in in_test]
    near = find_near_duplicates([row.text for row in rows], data.near_duplicate_jaccard)
    near_report = _near_report(data, rows, near)
    if data.near_duplicates == "drop":
        copies = _copies(near)
        rows = [row for index, row in enumerate(rows) if index not in copies]
    if is_whole and accepted:  # a part of a file says nothing about its classes
        faults += _class_faults(names.rows, rows, applied.test)
    quarantined = [*source.bad, *conflicts, *feedback.bad, *_waiting(applied, feedback_rows)]
    report = {
        "source": {"file": str(names.rows), "rows": len(source.good) + len(source.bad)},
        "feedback": {
            "rows": len(feedback.good) + len(feedback.bad),
            **_feedback_report(applied),
        },
        "test": {"file": str(names.test), "rows": len(test.good)},
        "accepted": len(rows),
        "exact_duplicates": len(accepted) + len(feedback.good) - len(applied.rows) - len(applied.waiting),
        "also_in_test_and_dropped": len({row.id for row in applied.rows} & in_test),
        "near_duplicates": near_report,
        "quarantined": {"rows": len(quarantined), "reasons": dict(count_reasons(quarantined).most_common())},
        "classes": dict(sorted(Counter(labels_of(rows)).items())),
        "digest": digest_examples(sorted([*rows, *applied.test], key=lambda e: e.id)),
    }
    return IngestResult(rows, applied.test, quarantined, report, faults, is_whole, [*source.good, *feedback.good, *test.good])


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
    fenced = sum(label.reason.startswith(FENCED) for label in applied.waiting)
    counts = {name: applied.counts.get(name, 0) for name in names}
    return {**counts, "waiting": len(applied.waiting) - fenced, "fenced": fenced, "disputed": disputed}


def count_reasons(bad: Sequence[QuarantinedRow]) -> Counter[str]:
    """Count rows by the kind of their fault, without the details behind its colon."""
    return Counter(row.kind for row in bad)


def _bad_rows_fault(
    path: Path, good: list[LocatedExample], bad: list[QuarantinedRow], max_share: float
) -> Iterator[EvergreenError]:
    rows = len(good) + len(bad)
    if rows == 0:
        yield InputError(str(path), "the file has no rows", "set data.source to a file with labelled texts")
    elif len(bad) > max_share * rows:
        enough = ceil(100 * len(bad) / rows) / 100
        advice = f"{_advice(bad)}; or continue without such rows: -S data.max_quarantined_share={enough}"
        yield InputError(bad[0].place, f"{len(bad)} of {rows} {_not_usable(bad)}", advice)


def _bad_test_rows_fault(bad: list[QuarantinedRow]) -> Iterator[EvergreenError]:
    if bad:
        what = f"{len(bad)} test {_not_usable(bad)}"
        yield InputError(bad[0].place, what, f"{_advice(bad)}: test files are never altered")


def _not_usable(bad: list[QuarantinedRow]) -> str:
    """Describe bad rows by the first, and by the number of each kind when there are several kinds."""
    kinds = [f"{count} × {kind}" for kind, count in count_reasons(bad).most_common()]
    counts = f" ({join_names(kinds, quote='')})" if len(kinds) > 1 else ""
    return f"rows are not usable{counts}; the first: {bad[0].reason}"


def _advice(bad: list[QuarantinedRow]) -> str:
    """Return what to do about each kind of fault."""
    first_of_kind = {row.kind: row.reason for row in reversed(bad)}
    frequent = [first_of_kind[kind] for kind, _ in count_reasons(bad).most_common()]
    return "; ".join(
        dict.fromkeys(next((do for words, do in ADVICE if words in reason), "correct the rows") for reason in frequent)
    )


def _spelling_faults(variants: list[SpellingVariant]) -> Iterator[EvergreenError]:
    """Refuse labels that are spelt in several ways: a model would learn two classes."""
    for variant in variants:
        row, usual = variant.row, variant.usual
        also = f"is also spelt `{usual.example.label}` ({usual.place})"
        what = f"the label `{row.example.label}` {also}; rows: {variant.rows} and {variant.usual_rows}"
        names = sorted((str(row.example.label), str(usual.example.label)), key=lambda name: name == usual.example.label)
        rare, frequent = names if variant.rows <= variant.usual_rows else reversed(names)
        setting = as_override("data.merge_labels", f"{rare}={frequent}")
        yield InputError(row.place, what, f"write both the same way, or read one as the other: -S {setting}")


def _respelt(located: list[LocatedExample], variants: list[SpellingVariant]) -> list[LocatedExample]:
    """Write each label in its first spelling: a second one is reported once, and not as a class of few rows too."""
    usual = {variant.row.example.label: variant.usual.example.label for variant in variants}
    return [
        row._replace(example=row.example.model_copy(update={"label": usual[row.example.label]}))
        if row.example.label in usual
        else row
        for row in located
    ]


def _class_faults(path: Path, rows: list[Example], test: list[Example]) -> Iterator[EvergreenError]:
    classes = set(labels_of(rows))
    if not rows:
        yield InputError(str(path), "every usable row is in the test file too", "add other rows for training")
        return
    if len(classes) < 2:
        yield InputError(str(path), f"all rows have one label: {', '.join(classes)}", "a classifier needs at least two")
    unknown = sorted(set(labels_of(test)) - classes)
    if unknown:
        yield InputError(
            str(path),
            f"the test file has {len(unknown)} labels that no row here has: {join_names(unknown)}",
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
    if fenced := report["feedback"]["fenced"]:
        print_line(f"{fenced} labelled texts nearly equal rows that measure the model: {args.out}/quarantine.jsonl")


if __name__ == "__main__":
    run_stage(main)
