"""Predicts a file's rows into another file, which appears whole or not at all, or into a stream."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from pipeline.atomic_write import atomic_write
from pipeline.errors import InputError
from pipeline.params import Data
from serving.batch_prediction.input_rows import InputFile, read_input
from serving.batch_prediction.output_files import (
    FORMATS,
    TEXT_FORMATS,
    JsonLinesWriter,
    Layout,
    ParquetRowsWriter,
    RowWriter,
    TableWriter,
    TextSink,
    column_types,
    make_layout,
)
from serving.batch_prediction.predict_rows import BatchModel, Summary, predict_rows


class Output(NamedTuple):
    """Where the predictions go, and how they are written."""

    target: Path | TextSink
    suffix: str  # one of FORMATS
    prefix: str  # of the names of the added columns
    has_probabilities: bool
    is_for_spreadsheets: bool


def predict_file(file: InputFile, output: Output, model: BatchModel, data: Data, advance: Callable[[int], None]) -> Summary:
    """Predict every row and write it; call `advance` with the number of rows written."""
    layout = make_layout(file, model.labels if output.has_probabilities else (), output.prefix)
    summary = Summary()
    with _opened(file, output, layout, data) as writer:
        for predicted in predict_rows(read_input(file, data), model):
            writer.write(predicted)
            summary.add(predicted)
            advance(len(predicted))
        writer.close()
    return summary


def check_target(source: Path, target: Path, *, is_replaced: bool) -> str:
    """Return the suffix of the file to write; raise `InputError` for another format, and for a file that is there already."""
    suffix = target.suffix.lower()
    if suffix not in FORMATS:
        raise InputError(str(target), f"a file ending in `{target.suffix}` cannot be written", f"use one of {', '.join(FORMATS)}")
    if target.is_dir():
        raise InputError(str(target), "this is a folder", "name a file in it")
    if target.exists() and source.exists() and target.samefile(source):
        raise InputError(str(target), "this is the file with the texts", "write to another file")
    if target.exists() and not is_replaced:
        raise InputError(str(target), "the file exists", "name another file, or replace it: --force")
    return suffix


@contextmanager
def _opened(file: InputFile, output: Output, layout: Layout, data: Data) -> Iterator[RowWriter]:
    if not isinstance(output.target, Path):
        yield _text_writer(output.target, layout, output)
        return
    with atomic_write(output.target) as part:
        if output.suffix == ".parquet":
            yield ParquetRowsWriter(part, layout, column_types(file, data))
            return
        with part.open("w", encoding="utf-8", errors="backslashreplace", newline="") as stream:  # for lone surrogates
            yield _text_writer(stream, layout, output)


def _text_writer(stream: TextSink, layout: Layout, output: Output) -> RowWriter:
    if output.suffix == ".jsonl":
        return JsonLinesWriter(stream, layout)
    return TableWriter(stream, layout, TEXT_FORMATS[output.suffix], is_for_spreadsheets=output.is_for_spreadsheets)
