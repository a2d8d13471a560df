"""Files of other tools: which texts go out, how a file is read, and how its labels are sent to the gateway."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import orjson
import sqlalchemy as sa

from monitoring.flywheel.exchange.argilla import read_record, write_record
from monitoring.flywheel.exchange.label_studio import read_task, write_interface, write_task
from monitoring.flywheel.exchange.records import BadRow, ExchangedLabel, ExchangedText, Returned, ReturnedLabel, RowError
from monitoring.flywheel.queue.round import Round
from pipeline.atomic_write import atomic_write
from pipeline.errors import InputError, ToolError
from serving.gateway_client import Send
from state.tables import feedback

Format = Literal["label-studio", "argilla"]
READERS: dict[Format, Callable[[object, str], tuple[str, str | None, int]]] = {"label-studio": read_task, "argilla": read_record}
RETRIES, REFUSED_ROW = 5, frozenset({400, 404, 410, 413, 422})


class SentLabels(NamedTuple):
    """What became of the labels of a file."""

    stored: int
    proposed: int  # of them, labels that the champion lacks
    bad: list[BadRow]


def texts_to_exchange(connection: sa.Connection, made: Round, *, is_labelled: bool) -> list[ExchangedText]:
    """Return the texts of the round in the order of the queue: those without a label, or those with one."""
    c = feedback.c
    given: dict[str, dict[str, str]] = {}
    rows = sa.select(c.prediction_id, c.labeller, c.label).where(c.withdrawn_at.is_(None)).order_by(c.id)
    for prediction_id, labeller, label in connection.execute(rows):
        given.setdefault(prediction_id, {})[labeller] = label
    return [
        ExchangedText(
            candidate.prediction_id,
            candidate.text,
            candidate.label,
            candidate.confidence,
            candidate.version,
            candidate.cluster,
            tuple(ExchangedLabel(*pair) for pair in given.get(candidate.prediction_id, {}).items()),
        )
        for candidate in made.candidates
        if is_labelled == (candidate.prediction_id in given)
    ]


def write_texts_for(format: Format, texts: Sequence[ExchangedText], path: Path, labels: Sequence[str]) -> list[Path]:
    """Write the texts, readable for the owner only; return the files: Label Studio gets its labelling interface too."""
    if format == "argilla":
        _write(path, json.dumps([write_record(text) for text in texts], indent=1))
        return [path]
    _write(path, json.dumps([write_task(text, number) for number, text in enumerate(texts, 1)], indent=1))
    interface = path.with_suffix(".interface.xml")
    _write(interface, write_interface(labels))
    return [path, interface]


def read_labels(path: Path, by: str) -> Returned:
    """Read the labels of a file of either tool; a bad row costs no other row. Raise `InputError` for another file."""
    try:
        rows: Any = json.loads(path.read_bytes())
    except OSError as error:
        raise InputError(
            str(path), f"the file cannot be read: {error.strerror}", "name a file of Label Studio or Argilla"
        ) from None
    except (ValueError, RecursionError) as error:
        raise InputError(str(path), f"this is not JSON: {error}", "export as JSON, not as CSV or JSON-MIN") from None
    if not isinstance(rows, list):
        raise InputError(str(path), "this is no list of tasks or records", "export as JSON from Label Studio or Argilla")
    labels, bad, unlabelled, known = [], [], 0, 0
    for number, row in enumerate(rows, 1):
        try:
            prediction_id, label, before = READERS[_format_of(row)](row, by)
        except RowError as error:
            bad.append(BadRow(number, error.key, error.what))
            continue
        known += before
        if label is None:
            unlabelled += 1
        else:
            labels.append(ReturnedLabel(number, prediction_id, label))
    return Returned(labels, bad, unlabelled, known)


def send_labels(labels: Sequence[ReturnedLabel], send: Send, by: str, wait: Callable[[float], None] = time.sleep) -> SentLabels:
    """Send the labels to the gateway as feedback. Raise `ToolError` when it is away, `InputError` when it does not know us."""
    stored = proposed = 0
    bad = []
    for label in labels:
        body = orjson.dumps({"id": label.prediction_id, "label": label.label, "source": by})
        reply = send("POST", "/v1/feedback", body)
        for _ in range(RETRIES):
            if reply.status not in (429, 503):
                break
            wait(reply.retry_after_s or 1.0)
            reply = send("POST", "/v1/feedback", body)
        if reply.status in (401, 403):
            raise InputError("EVERGREEN_TOKEN", f"the gateway refuses: {reply.message}", "give a token with the scope label")
        if reply.status == 201:
            stored += 1
            proposed += reply.body.get("kind") == "proposal"
        elif reply.status in REFUSED_ROW:
            bad.append(BadRow(label.row, "prediction_id" if reply.status in (404, 410) else "label", reply.message))
        else:
            what = f"the gateway does not take labels after {stored} of {len(labels)}: {reply.message}"
            raise ToolError(f"row {label.row}", what, "start it (make serve), then import the file again: labels count once")
    return SentLabels(stored, proposed, bad)


def _format_of(row: object) -> Format:
    if isinstance(row, Mapping) and "data" in row:
        return "label-studio"
    if isinstance(row, Mapping) and "fields" in row:
        return "argilla"
    raise RowError("data", "is missing, and so is fields: this is no task and no record")


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as part:
            part.write_text(text, encoding="utf-8")
            part.chmod(0o600)
    except OSError as error:
        raise InputError(str(path), f"the file cannot be written: {error.strerror}", "name another one") from None
