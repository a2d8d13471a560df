"""`evergreen loadtest`: load an address with the texts of a file, print a table and write a report."""

import http.client
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from rich.text import Text

from pipeline.data.columns import cell, find_columns
from pipeline.data.row_files import is_row_file, read_rows
from pipeline.errors import InputError, ToolError
from pipeline.output.terminal import Terminal, joined, styled
from pipeline.params import Data
from serving.access.bearer import bearer_header
from serving.loadtest.limit import Limit, Step, find_limit
from serving.loadtest.plan import Load, make_plan
from serving.loadtest.report import limit_table, run_table, write_report
from serving.loadtest.result import Result, percentile, without_warmup
from serving.loadtest.run import Progress, resolve, run_load
from serving.loadtest.targets import UNREADABLE_BODY, Target, encoder, gateway_target, http_target, triton_target


class Search(NamedTuple):
    """The search for the highest rate, when no rate is given."""

    p99_limit_ms: float
    low: float
    high: float
    resolution: float


def loadtest(
    url: str,
    texts_file: Path,
    data: Data,
    console: Terminal,
    *,
    rate: float | None = None,
    p99_limit_ms: float = 50.0,
    low: float = 10.0,
    high: float = 20_000.0,
    resolution: float = 0.03,
    duration_s: float = 10.0,
    warm_s: float = 2.0,
    arrivals: Literal["poisson", "constant"] = "poisson",
    repeat_share: float = 0.0,
    zipf_s: float = 1.0,
    seed: int | None = None,
    timeout_s: float = 10.0,
    connections: int = 1024,
    units: int = 0,
    triton_model: str | None = None,
    triton_outputs: Sequence[str] = ("label", "probabilities", "sketch", "pieces", "pieces_per_word"),
    body: str | None = None,
    method: str = "POST",
    label: str = "",
    headers: Sequence[str] = (),
    folder: Path = Path("reports/loadtest"),
) -> Result | Limit:
    """Load the gateway at `url`; with `triton_model` a KServe v2 server; with the template `body` any other HTTP endpoint.

    With `rate` it runs that rate for `duration_s`; without, it searches for the highest rate that keeps P99, and runs each rate
    for `duration_s`. The first `warm_s` of a run do not count. Without `seed` the clock gives one: no cache knows the texts.
    Ctrl-C reports the result so far. Raises `InputError`, and `ToolError` when the target does not answer.
    """
    parsed = _parse_headers(headers)
    if triton_model:
        target = triton_target(url, triton_model, outputs=triton_outputs, headers=parsed)
    elif body is not None:
        target = http_target(url, method=method, template=body, headers=parsed, label=label)
    else:
        target = gateway_target(url, units=units, headers={**bearer_header(), **parsed})
    seed = int(time.time()) if seed is None else seed
    load = Load(rate or low, duration_s, arrivals, repeat_share, zipf_s, seed, timeout_s, connections)
    search = None if rate else Search(p99_limit_ms, low, high, resolution)
    texts = read_texts(texts_file, data)
    require_answer(target, texts, load)
    measured = _measure(target, texts, load, warm_s, search, console)
    write_report(measured, folder)
    console.print(limit_table(measured) if isinstance(measured, Limit) else run_table(measured))
    if isinstance(measured, Limit) and measured.note:
        console.print(styled("the search ended early:", "yellow"), measured.note)
    console.print(f"report: {folder / 'loadtest.png'}  {folder / 'loadtest.json'}")
    return measured


def read_texts(path: Path, data: Data) -> list[str]:
    """Return the text column of a csv, tsv, jsonl or parquet file, or the lines that are not blank of any other file."""
    if is_row_file(path):
        rows = [row.fields for row in read_rows(path, data) if row.fields]
        names = list(rows[0]) if rows else []
        # the text column is found as in training; labels are not needed, so any column will do for them
        column = find_columns(path, names, data.model_copy(update={"label_column": names[0]})).text if names else ""
        lines = [text for row in rows if isinstance(text := cell(row, column), str)]
    elif path.is_file():
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    else:
        raise InputError(str(path), "there is no such file", "name a file of texts: csv, tsv, jsonl, parquet, or plain lines")
    texts = [text.strip() for text in lines if text.strip()]
    if not texts:
        raise InputError(str(path), "it holds no texts", "name a file of texts: csv, tsv, jsonl, parquet, or plain lines")
    return texts


def require_answer(target: Target, texts: Sequence[str], load: Load) -> None:
    """Send one request before the load; raises `ToolError` with the answer when it is not a readable 2xx."""
    text = make_plan(texts, load._replace(rate_per_s=1.0, duration_s=1.0)).texts[0]
    try:
        with socket.create_connection(resolve(target.url), timeout=load.timeout_s) as connection:
            connection.sendall(encoder(target)(text, 0))
            response = http.client.HTTPResponse(connection, method=target.method)
            response.begin()
            received = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise ToolError(
            target.url, f"it does not answer: {error or type(error).__name__}", "start it, or correct the address"
        ) from None
    shown = received[:300].decode("utf-8", "replace")
    if not 200 <= response.status < 300:
        raise ToolError(
            target.url, f"a first request was answered with {response.status}: {shown}", "correct the address or the body"
        )
    try:
        target.read(received, int(response.headers.get("Inference-Header-Content-Length", 0)))
    except UNREADABLE_BODY:
        raise ToolError(
            target.url, f"its answer is not that of a {target.name}: {shown}", "correct the address or the body"
        ) from None


def _measure(
    target: Target, texts: Sequence[str], load: Load, warm_s: float, search: Search | None, console: Terminal
) -> Result | Limit:
    if search is None:
        longer = load._replace(duration_s=load.duration_s + warm_s)
        return without_warmup(run_load(target, texts, longer, on_second=_progress(f"of {longer.duration_s:.0f}")), warm_s)
    return find_limit(
        target,
        texts,
        load,
        **search._asdict(),
        step_s=load.duration_s,
        warm_s=warm_s,
        on_step=lambda step: console.print(_step_line(step)),
        on_second=_progress("of this step"),
    )


def _step_line(step: Step) -> Text:
    colour = "green" if step.verdict == "held" else "yellow"
    p99 = percentile(step.result.latency_ms[step.result.ok], 99)
    return joined(f"{step.rate_per_s:8.1f} requests/s  P99 {p99:8.1f} ms  ", styled(step.verdict, colour))


def _progress(part: str) -> Progress:
    """Return a callback that rewrites one line; a progress bar with its own thread would disturb the measurement."""

    def show(elapsed_s: float, sent: int, ended: int, failed: int) -> None:
        if sys.stderr.isatty():
            sys.stderr.write(f"\r\033[K{elapsed_s:.0f} s {part}: {sent} sent, {sent - ended} in flight, {failed} failed\r")
            sys.stderr.flush()

    return show


def _parse_headers(lines: Sequence[str]) -> Mapping[str, str]:
    parts = [line.partition(":") for line in lines]
    if any(not mark for _, mark, _ in parts):
        raise InputError("headers", "a header has no colon", "give each as `name: value`")
    return {name.strip().lower(): value.strip() for name, _, value in parts}
