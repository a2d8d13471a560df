"""The command `predict`: texts of a file to labels in another, offline or through a gateway, with progress on stderr."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TextIO

import typer

from pipeline.errors import InputError
from pipeline.output.plain_text import printable_lines
from pipeline.output.terminal import Terminal

if TYPE_CHECKING:
    from pipeline.params import Params
    from serving.batch_prediction.output_files import TextSink
    from serving.batch_prediction.predict_file import Output
    from serving.batch_prediction.predict_rows import BatchModel, Summary

STREAM = "-"
LINE_EVERY_S = 10.0  # of progress, where stderr is no terminal


def predict(
    texts: Annotated[str, typer.Argument(help="file with the texts: csv, tsv, jsonl or parquet; - for stdin")],
    out: Annotated[str, typer.Option(help="file to write: csv, tsv, jsonl or parquet; - for stdout")] = STREAM,
    model: Annotated[
        str | None, typer.Option(help="role, version or folder of a package; default: the champion, else the last one made here")
    ] = None,
    gateway: Annotated[str | None, typer.Option(help="ask this gateway instead, with the token in EVERGREEN_TOKEN")] = None,
    text_column: Annotated[str | None, typer.Option(help="column of the texts; default: as in training")] = None,
    format: Annotated[Literal["csv", "tsv", "jsonl"], typer.Option(help="of stdin and stdout")] = "csv",
    prefix: Annotated[str, typer.Option(help="put before the names of the added columns")] = "",
    probabilities: Annotated[bool, typer.Option(help="write the probability of every label")] = True,
    spreadsheet: Annotated[bool, typer.Option("--spreadsheet", help="no cell of a table begins as a formula does")] = False,
    force: Annotated[bool, typer.Option("--force", help="replace the file if it exists")] = False,
) -> None:
    """Predict the texts of a file: label, confidence and all probabilities, beside the file's other columns.

    A row that cannot be predicted gets an empty label and a reason, and costs no other row; then the exit code is 2.
    Where the model abstains, the reason is `unsure`, and the label is empty or the fallback.
    """
    from pipeline.params import load_params
    from serving.batch_prediction.input_rows import open_input, stored_stdin
    from serving.batch_prediction.predict_file import Output, check_target, predict_file

    if model and gateway:
        raise InputError("evergreen predict", "--model and --gateway exclude each other", "leave one of them out")
    params, terminal = load_params(), Terminal(stderr=True)
    with ExitStack() as opened:
        source = Path(texts) if texts != STREAM else opened.enter_context(stored_stdin(sys.stdin.buffer, f".{format}"))
        if out == STREAM:
            output = Output(_stdout(), f".{format}", prefix, probabilities, spreadsheet)
        else:
            suffix = check_target(source, Path(out), is_replaced=force)
            output = Output(Path(out), suffix, prefix, probabilities, spreadsheet)
        file = open_input(source, params.data, text_column)
        predictor, title = _open_model(model, gateway, params, terminal)
        begun = time.perf_counter()
        with _progress(terminal, file.rows) as advance:
            summary = predict_file(file, output, predictor, params.data, advance)
    _report(terminal, summary, predictor, title, output, time.perf_counter() - begun)


def _open_model(name: str | None, gateway: str | None, params: "Params", terminal: Terminal) -> tuple["BatchModel", str]:
    """Return the model and its name for people."""
    if gateway:
        from serving.access.bearer import bearer_header
        from serving.batch_prediction.gateway_model import GatewayModel
        from serving.gateway_client import http_sender

        asked = GatewayModel(gateway, http_sender(gateway, bearer_header()))
        return asked, f"version {asked.version} at {gateway}"
    from pipeline.home import find_home
    from serving.batch_prediction.predict_rows import OfflineModel
    from serving.release.offline import find_package, open_package

    package = find_package(name, find_home())
    opened = open_package(package.folder, params)
    for note in (*package.notes, *opened.notes):
        terminal.print(note)
    return OfflineModel(opened.classifier, package.version, opened.abstention), package.title


def _report(terminal: Terminal, summary: "Summary", model: "BatchModel", title: str, output: "Output", seconds: float) -> None:
    """Print counts and rate; raise `InputError` when rows have no label."""
    where = f" → {output.target}" if isinstance(output.target, Path) else ""
    answered = summary.rows - summary.unlabelled
    unsure = f"; the model is unsure of {summary.unsure:,} of them" if summary.unsure else ""
    terminal.print(f"{answered:,} of {summary.rows:,} rows are predicted, by {title}{where}{unsure}")
    busy_s = getattr(model, "busy_s", None)
    share = f", of which the model computed {busy_s / seconds:.0%}" if busy_s and seconds else ""
    terminal.print(f"{summary.rows / max(seconds, 1e-9):,.0f} rows a second: {seconds:.1f} s{share}")
    if summary.unlabelled:
        more = summary.unlabelled - len(summary.first_reasons)
        reasons = "\n".join([*summary.first_reasons, *([f"… and {more:,} more"] if more else [])])
        what = f"{summary.unlabelled:,} {'row has' if summary.unlabelled == 1 else 'rows have'} no label\n{reasons}"
        raise InputError(
            "evergreen predict", what, f"their reasons are in `{output.prefix}reason`; correct and predict them again"
        )


@contextmanager
def _progress(terminal: Terminal, rows: int) -> Iterator[Callable[[int], None]]:
    """Yield a function that counts finished rows: a bar in a terminal, elsewhere a line now and then."""
    if not terminal.is_terminal:
        yield progress_lines(terminal, rows, time.monotonic)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("rows,"), TimeRemainingColumn(), TextColumn("left"))
    with Progress(*columns, console=terminal, transient=True) as bar:
        task = bar.add_task("", total=rows)
        yield lambda done: bar.advance(task, done)


def progress_lines(terminal: Terminal, rows: int, clock: Callable[[], float]) -> Callable[[int], None]:
    """Return a function that counts finished rows and prints a line every `LINE_EVERY_S`."""
    begun = printed = clock()
    finished = 0

    def advance(done: int) -> None:
        nonlocal printed, finished
        finished += done
        now = clock()
        if now - printed >= LINE_EVERY_S and finished < rows:
            rate = finished / (now - begun)
            terminal.print(f"{finished:,} of {rows:,} rows, {rate:,.0f} a second, {(rows - finished) / rate:,.0f} s left")
            printed = now

    return advance


def _stdout() -> "TextSink":
    """Return stdout for rows: as they are into a file or pipe, escaped on a terminal."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    return _EscapedStream(sys.stdout) if sys.stdout.isatty() else sys.stdout


class _EscapedStream:
    """A terminal that shows texts from outside and obeys none of them."""

    def __init__(self, terminal: TextIO) -> None:
        self._terminal = terminal

    def write(self, text: str, /) -> int:
        """Write the text with everything that cannot be seen as an escape."""
        return self._terminal.write(printable_lines(text))
