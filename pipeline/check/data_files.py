"""The data of a project, examined by the code of the stages: what they would accept, set aside and refuse."""

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipeline.check.check_line import CheckLine
from pipeline.check.label_findings import check_labels
from pipeline.check.text_findings import check_texts
from pipeline.check.token_findings import check_tokens, read_tokenizer
from pipeline.data.given_labels import label_rules
from pipeline.data.labelled_files import QuarantinedRow
from pipeline.data.unlabelled import read_unlabelled, trainable
from pipeline.errors import EvergreenError, collecting, raise_all
from pipeline.network.base_model import REQUIRED_FILES, local_folder, positions_of
from pipeline.params import Params
from pipeline.stages.ingest import IngestResult, count_reasons, examine
from pipeline.stages.split import Sides, split

FEEDBACK = Path("data/feedback")
MAX_REASONS = 10  # listed; the rest is counted
MAX_EXAMPLES = 3  # of each reason
MAX_EXCERPT = 100  # characters of a row


def check_data(params: Params) -> Iterator[CheckLine]:
    """Examine every file of rows; raise all errors together."""
    data = params.data
    examined = examine(data.source, data.test, FEEDBACK, data, label_rules(params))
    errors = list(examined.faults)
    yield CheckLine("failed" if errors else "passed", f"{data.source}: {_sizes(examined)}")
    yield from _set_aside(examined.quarantined, data.source)
    yield from _duplicates(examined.report)
    yield from check_labels(examined.located, data)
    yield from check_texts(examined.located, data.source, is_html=data.html == "decode")
    yield from _tokens(examined, params)
    sides: Sides | None = None
    if examined.is_whole and len(examined.report["classes"]) > 1:
        with collecting(errors):
            sides = split(examined.rows, examined.test, params.split)
    if sides:
        sizes = f"{len(sides.train)} train, {len(sides.val)} validation, {len(sides.test)} test rows"
        yield CheckLine("passed", f"split: {sizes}")
    with collecting(errors):
        yield from _unlabelled(params, sides)
    with collecting(errors):
        yield from _out_of_scope(params, sides)
    raise_all(errors)


def _tokens(examined: IngestResult, params: Params) -> Iterator[CheckLine]:
    """Look at the texts as the base model's tokenizer reads them, where the model is on this machine and whole."""
    folder = local_folder(params.model)
    if examined.located and folder and all((folder / name).is_file() for name in REQUIRED_FILES):
        with suppress(EvergreenError):  # of damaged weights: the check of the base model says so
            yield from check_tokens(
                examined.located, params.data.source, read_tokenizer(folder), params.model, positions_of(folder)
            )


def _sizes(examined: IngestResult) -> str:
    classes = examined.report["classes"].values()
    sizes = f" of {min(classes)} to {max(classes)} rows" if classes else ""
    return f"{len(examined.rows)} rows, {len(classes)} classes{sizes}, {len(examined.quarantined)} rows set aside"


def _set_aside(rows: Sequence[QuarantinedRow], source: Path) -> Iterator[CheckLine]:
    """List the rows that are set aside, most frequent reason first, with some rows of each reason."""
    kinds = count_reasons(rows).most_common()
    for kind, count in kinds[:MAX_REASONS]:
        yield CheckLine("detail", f"{count} × {kind}")
        for row in [row for row in rows if row.kind == kind][:MAX_EXAMPLES]:
            yield CheckLine("detail", f"    {_describe(row, source)}")
        if count > MAX_EXAMPLES:
            yield CheckLine("detail", f"    and {count - MAX_EXAMPLES} more")
    if len(kinds) > MAX_REASONS:
        yield CheckLine(
            "detail", f"{sum(count for _, count in kinds[MAX_REASONS:])} rows for {len(kinds) - MAX_REASONS} other reasons"
        )


def _describe(row: QuarantinedRow, source: Path) -> str:
    """Return the place of a row, the details of its fault and its beginning."""
    place = f"line {row.line}" if row.path == source else f"{row.path}, line {row.line}"
    parts = [place, row.reason.removeprefix(row.kind).lstrip(": "), _excerpt(row.fields)]
    return ": ".join(part for part in parts if part)


def _excerpt(fields: dict[str, Any] | None) -> str:
    """Return the text and label of a row, all its fields where it has others, cut to a readable length."""
    if not fields:
        return ""
    shown = {name: fields[name] for name in ("text", "label")} if {"text", "label"} <= fields.keys() else fields
    line = json.dumps(shown, ensure_ascii=False, default=str)
    return line if len(line) <= MAX_EXCERPT else f"{line[: MAX_EXCERPT - 1]}…"


def _duplicates(report: dict[str, Any]) -> Iterator[CheckLine]:
    near = report["near_duplicates"]
    if report["exact_duplicates"]:
        yield CheckLine("detail", f"{report['exact_duplicates']} rows repeat a text with its label, and count once")
    if report["also_in_test_and_dropped"]:
        yield CheckLine(
            "detail", f"{report['also_in_test_and_dropped']} rows are in the test file too, and are left out of training"
        )
    if near["pairs"]:
        action = f"{near['dropped']} rows are dropped" if near["action"] == "drop" else "all stay (data.near_duplicates: report)"
        yield CheckLine("detail", f"{near['pairs']} pairs of texts are nearly equal: {action}")


def _unlabelled(params: Params, sides: Sides | None) -> Iterator[CheckLine]:
    file = params.data.unlabelled
    texts = read_unlabelled(file, params.data).texts
    if texts and sides:
        usable = trainable(texts, sides[:3], params.split, sides.test_share)
        yield CheckLine("passed", f"{file}: {len(texts)} texts, {len(usable)} of them to spread labels to")


def _out_of_scope(params: Params, sides: Sides | None) -> Iterator[CheckLine]:
    file = params.abstain.out_of_scope
    ids = {row.id for row in read_unlabelled(file, params.data).texts}
    if ids and sides:
        known = len(ids & {row.id for rows in sides[:3] for row in rows})
        left_out = f", {known} of them left out because they are rows of the source or test file" if known else ""
        yield CheckLine("passed", f"{file}: {len(ids)} out-of-scope texts{left_out}")
