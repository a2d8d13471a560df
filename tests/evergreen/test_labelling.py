"""The commands about labels and disputes, on a home with feedback and a clone with a corpus."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from evergreen.cli import app
from monitoring.labels.trusted_rows import read_trusted
from pipeline.errors import InputError
from pipeline.params import Params
from serving.prediction_ids import PredictionIds
from state.database import open_state
from state.tables import feedback
from tests.conftest import ROOT
from tests.monitoring.console.queue.rounds import TEXTS, write_queue
from tests.monitoring.homes import NOON, Gateway
from tests.monitoring.labels.test_agreement import logged

KEY = b"k" * 64


@pytest.fixture
def home(tmp_path: Path, params: Params, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a home in which ana labelled a new text, and ben gave a test row another label."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("EVERGREEN_HOME", str(tmp_path))
    monkeypatch.delenv("EVERGREEN_STATE_URL", raising=False)
    trusted = read_trusted(ROOT, None, [], params)
    protected = trusted.corpus[next(key for key in trusted.corpus if key in trusted.protected)]
    ids = PredictionIds(KEY).issue(NOON, 1, 2)
    rows = [logged(n)._replace(id=id, text=text) for n, (id, text) in enumerate(zip(ids, ("[new]", protected.text), strict=True))]
    Gateway(tmp_path, "one").write(rows)
    given = {"kind": "label", "version": 1, "received_at": datetime.fromtimestamp(NOON, UTC)}
    with open_state(tmp_path) as engine, engine.begin() as connection:
        connection.execute(feedback.insert().values(prediction_id=ids[0], label="[/red]", labeller="local/ana", **given))
        connection.execute(feedback.insert().values(prediction_id=ids[1], label="wrong", labeller="ben", **given))
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments, catch_exceptions=False)


def test_labellers_are_listed_and_one_can_be_withdrawn_and_restored(home: Path) -> None:
    shown = run("labels").output
    assert "local/ana" in shown
    assert "0 of 1" in shown  # ben, on a text whose label is known
    assert "1 labels contradict test rows" in shown
    assert "1 labels by ben are withdrawn" in run("labels", "revoke", "--by", "ben").output
    assert "contradict" not in run("labels").output
    assert "in force again" in run("labels", "restore", "--by", "ben", "--since", "2026-01-01").output
    with pytest.raises(InputError, match="no such label"):
        run("labels", "revoke", "--by", "nobody")


def test_a_dispute_is_listed_settled_and_shown_as_settled(home: Path) -> None:
    shown = run("disputes").output
    assert "called wrong by ben" in shown
    assert "1 open, 0 settled" in shown
    text_id = shown.split()[0]
    with pytest.raises(InputError, match="say how"):
        run("disputes", "settle", text_id)
    assert "not wrong" in run("disputes", "settle", text_id, "--keep").output
    assert run("disputes").output.strip() == "0 open, 1 settled"
    assert "settled by" in run("disputes", "--all").output
    with pytest.raises(InputError, match="no open dispute"):
        run("disputes", "settle", text_id, "--change")


def test_texts_to_label_are_json_lines(home: Path) -> None:
    tasks = [json.loads(line) for line in run("labels", "next", "--size", "3", "--seed", "1").output.splitlines()]
    assert len({task["id"] for task in tasks}) == len(tasks) > 0
    assert {tuple(task) for task in tasks} == {("id", "text")}


def test_the_queue_is_exported_and_bad_rows_of_an_import_are_listed_with_file_row_and_key(home: Path, tmp_path: Path) -> None:
    path = tmp_path / "queue.json"
    with pytest.raises(InputError, match="no round yet"):
        run("labels", "export", str(path), "--format", "argilla")
    write_queue(home)
    assert f"{len(TEXTS)} texts → " in run("labels", "export", str(path), "--format", "argilla").output.replace("\n", " ")
    records = json.loads(path.read_text())
    records[0]["id"] = None
    path.write_text(json.dumps(records))
    output = CliRunner().invoke(app, ["labels", "import", str(path), "--by", "ana"])
    assert isinstance(output.exception, InputError) and "1 row was left out" in str(output.exception)
    assert "row 1: id: is no text" in output.output.replace("\n", " ")
    assert run("labels", "export", str(path), "--format", "label-studio", "--labelled").output.startswith("0 texts")
