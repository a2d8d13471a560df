"""Files of Label Studio and Argilla: out and back, as the tools write them, with bad rows and hostile labels."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from monitoring.flywheel.exchange.argilla import user_id
from monitoring.flywheel.exchange.files import (
    Format,
    read_labels,
    send_labels,
    texts_to_exchange,
    write_texts_for,
)
from monitoring.flywheel.exchange.records import BadRow, ReturnedLabel
from monitoring.flywheel.queue.round import read_round
from pipeline.errors import InputError, ToolError
from pipeline.params import Params
from serving.gateway_client import Reply, http_sender
from state.database import open_state
from tests.hostile_text import HOSTILE
from tests.monitoring.console.queue.queue_client import labels_in_force
from tests.monitoring.console.queue.rounds import TEXTS, write_queue
from tests.serving.gateway.fake_triton import running_gateway

Rows = list[dict[str, Any]]
FORMATS: tuple[Format, ...] = ("label-studio", "argilla")


@pytest.fixture(autouse=True)
def own_database(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EVERGREEN_STATE_URL", raising=False)


def annotate(row: dict[str, Any], label: str) -> None:
    """Add the label of a person, as the tool of the row does."""
    if "fields" in row:
        row["responses"].setdefault("label", []).append({"value": label, "user_id": "4c0b2a4e-0d10-4f5e-9e53-4a6f6d6c3f11"})
        row["_server_id"] = "7bd9b4ea-6d47-4d3c-8ac6-d1f3a0f2b7a1"
        return
    result = {"id": "Dx_aB91ISN", "from_name": "label", "to_name": "text", "type": "choices", "value": {"choices": [label]}}
    row["annotations"].append(
        {"id": 1001, "completed_by": 10, "result": [result], "was_cancelled": False, "lead_time": 4.288, "task": 1}
    )


def export(home: Path, format: Format, *, is_labelled: bool = False) -> Path:
    made = write_queue(home) if not (home / "flywheel").exists() else None
    made = made or read_round(home)
    assert made is not None
    with open_state(home) as engine, engine.connect() as connection:
        texts = texts_to_exchange(connection, made, is_labelled=is_labelled)
    path = home / f"{format}.json"
    write_texts_for(format, texts, path, ["refund", 'a "quoted" <label>'])
    return path


def change(path: Path, edit: Callable[[Rows], object]) -> None:
    rows = json.loads(path.read_text())
    edit(rows)
    path.write_text(json.dumps(rows))


@pytest.mark.parametrize("format", FORMATS)
def test_the_queue_goes_out_and_its_labels_come_back(params: Params, tmp_path: Path, format: Format) -> None:
    path = export(tmp_path, format)
    assert path.stat().st_mode & 0o777 == 0o600
    assert len(json.loads(path.read_text())) == len(TEXTS)
    change(path, lambda rows: [annotate(rows[0], "refund"), annotate(rows[2], "buy voucher")])
    returned = read_labels(path, "ana")
    assert ([label.label for label in returned.labels], returned.unlabelled) == (["refund", "buy voucher"], 4)
    with running_gateway(params, tmp_path) as port:
        send = http_sender(f"http://127.0.0.1:{port}", {"connection": "close"})
        for _ in range(2):  # a file that is imported twice counts once
            assert send_labels(returned.labels, send, "ana")[:2] == (2, 1)
    assert labels_in_force(tmp_path) == [("local/ana", "refund"), ("local/ana", "buy voucher")]
    left, labelled = export(tmp_path, format), export(tmp_path, format, is_labelled=True)
    assert left == labelled  # the same file, replaced
    assert len(json.loads(labelled.read_text())) == 2
    again = read_labels(labelled, "ben")
    assert (again.labels, again.known, again.unlabelled) == ([], 2, 2)  # ana's labels do not become ben's
    change(labelled, lambda rows: annotate(rows[0], "refund"))
    assert [label.label for label in read_labels(labelled, "ben").labels] == ["refund"]  # but he may agree with her
    assert len(read_labels(export(tmp_path, format, is_labelled=True), "local/ana").labels) == 2


def is_storable(label: str) -> bool:
    return label.encode("utf-8", "replace").decode() == label


@pytest.mark.parametrize("format", FORMATS)
def test_hostile_labels_come_back_unchanged(tmp_path: Path, format: Format) -> None:
    made = write_queue(tmp_path, [(f"text {number}", 1) for number in range(len(HOSTILE))])
    path = export(tmp_path, format)
    visible = [label[:200] if label.strip() and is_storable(label) else "x" for label in HOSTILE]
    change(path, lambda rows: [annotate(row, label) for row, label in zip(rows, visible, strict=True)])
    returned = read_labels(path, "ana")
    assert [label.label for label in returned.labels] == visible and not returned.bad
    assert [label.prediction_id for label in returned.labels] == [candidate.prediction_id for candidate in made.candidates]


def test_bad_tasks_are_named_by_row_and_key_and_cost_no_good_ones(tmp_path: Path) -> None:
    path = export(tmp_path, "label-studio")

    def spoil(rows: Rows) -> None:
        for row in rows:
            annotate(row, "refund")
        del rows[0]["data"]["prediction_id"]
        rows[1]["annotations"][0]["result"][0]["value"] = {"choices": ["refund", "track"]}
        annotate(rows[2], "track")
        rows[3]["annotations"] = "none"
        rows[4]["annotations"][0]["was_cancelled"] = True
        rows.extend([{"text": "JSON-MIN", "label": "refund"}, 7])  # type: ignore[list-item]

    change(path, spoil)
    returned = read_labels(path, "ana")
    assert [label.row for label in returned.labels] == [6]
    assert returned.unlabelled == 1
    assert [(row.row, row.key) for row in returned.bad] == [
        (1, "data.prediction_id"),
        (2, "annotations.0.result.0.value.choices"),
        (3, "annotations"),
        (4, "annotations"),
        (7, "data"),
        (8, "data"),
    ]
    assert "people give different labels, “refund” and “track”" in returned.bad[2].what


def test_bad_records_are_named_by_row_and_key_and_cost_no_good_ones(tmp_path: Path) -> None:
    path = export(tmp_path, "argilla")

    def spoil(rows: Rows) -> None:
        for row in rows:
            annotate(row, "refund")
        rows[0]["id"] = None
        rows[1]["responses"]["label"][0]["value"] = ["refund"]
        annotate(rows[2], "track")
        rows[3]["responses"] = []
        rows[4]["responses"]["label"][0]["value"] = None  # discarded

    change(path, spoil)
    returned = read_labels(path, "ana")
    assert [label.row for label in returned.labels] == [6] and returned.unlabelled == 1
    assert [(row.row, row.key) for row in returned.bad] == [
        (1, "id"),
        (2, "responses.label.0.value"),
        (3, "responses.label"),
        (4, "responses"),
    ]


def test_ids_that_no_gateway_gave_are_bad_rows(params: Params, tmp_path: Path) -> None:
    path = export(tmp_path, "argilla")
    change(path, lambda rows: [annotate(row, "refund") for row in rows[:3]])
    change(path, lambda rows: rows[1].update(id=f"{7:024x}-1-0-{7:016x}"))
    with running_gateway(params, tmp_path) as port:
        sent = send_labels(
            read_labels(path, "ana").labels, http_sender(f"http://127.0.0.1:{port}", {"connection": "close"}), "ana"
        )
    assert (sent.stored, [(row.row, row.key) for row in sent.bad]) == (2, [(2, "prediction_id")])
    assert "no gateway of this home gave an answer with this id" in sent.bad[0].what


def test_a_gateway_that_is_away_or_refuses_the_token_ends_the_import_with_what_to_do() -> None:
    label = ReturnedLabel(1, "6a", "refund")
    with pytest.raises(ToolError, match="after 0 of 1"):
        send_labels([label], lambda *_: Reply(0, {}, 0.0, "ConnectionRefusedError"), "ana")
    with pytest.raises(InputError, match="EVERGREEN_TOKEN"):
        send_labels([label], lambda *_: Reply(401, {"error": {"message": "send a valid token"}}, 0.0), "ana")
    replies = iter([Reply(429, {}, 2.0), Reply(201, {"kind": "label"}, 0.0)])
    waited: list[float] = []
    assert send_labels([label], lambda *_: next(replies), "ana", waited.append) == (1, 0, [])
    assert waited == [2.0]


@pytest.mark.parametrize(
    ("content", "problem"), [("text,label\n", "not JSON"), ('{"data": {}}', "no list"), ("[" * 100_000, "not JSON")]
)
def test_another_file_is_refused(tmp_path: Path, content: str, problem: str) -> None:
    path = tmp_path / "export.json"
    path.write_text(content)
    with pytest.raises(InputError, match=problem):
        read_labels(path, "ana")
    with pytest.raises(InputError, match="cannot be read"):
        read_labels(tmp_path / "absent.json", "ana")


def test_the_labelling_interface_names_every_label_and_a_labeller_has_one_id(tmp_path: Path) -> None:
    path = export(tmp_path, "label-studio")
    interface = path.with_suffix(".interface.xml").read_text()
    assert '<Choice value="refund"/>' in interface
    assert "<Choice value='a \"quoted\" &lt;label&gt;'/>" in interface
    assert user_id("ana") == user_id("ana") != user_id("ben")
    assert BadRow(1, "id", "x") < BadRow(2, "id", "x")


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(("label", "problem"), [("\ud800", "not valid Unicode"), ("x" * 201, "more than 200 characters")])
def test_a_label_that_nobody_can_store_is_a_bad_row(tmp_path: Path, format: Format, label: str, problem: str) -> None:
    path = export(tmp_path, format)
    rows = json.loads(path.read_text())
    for row, given in zip(rows, ["refund", label, "refund"], strict=False):
        annotate(row, given)
    path.write_text(json.dumps(rows))
    returned = read_labels(path, "ana")
    assert [label.row for label in returned.labels] == [1, 3]
    assert [(bad.row, problem in bad.what) for bad in returned.bad] == [(2, True)]


def test_a_record_whose_user_is_no_text_costs_no_row(tmp_path: Path) -> None:
    path = export(tmp_path, "argilla")
    rows = json.loads(path.read_text())
    for row in rows[:2]:
        annotate(row, "refund")
    rows[0]["responses"]["label"][0]["user_id"] = [1]
    path.write_text(json.dumps(rows))
    assert [label.row for label in read_labels(path, "ana").labels] == [1, 2]
