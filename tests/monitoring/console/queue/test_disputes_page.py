"""The page Disputes: who may see and settle what, that a settlement is stored once, and hostile labels."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from monitoring.labels.disputes import Settlement, read_settlements
from monitoring.labels.suspects import SuspectLabel, write_suspects
from monitoring.labels.trusted_rows import read_trusted
from pipeline.data.records import text_id
from pipeline.params import Params
from serving.access.tokens import add_token
from state.database import open_state
from tests.conftest import ROOT
from tests.monitoring.console.queue.disputed import dispute_a_row
from tests.monitoring.console.queue.queue_client import Person
from tests.monitoring.console.running_console import running_console

pytestmark = pytest.mark.usefixtures("own_database")


def settled(home: Path) -> list[Settlement]:
    with open_state(home) as engine, engine.connect() as connection:
        return read_settlements(connection)


def test_an_administrator_settles_a_dispute_and_a_labeller_only_sees_it(
    params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = dispute_a_row(tmp_path, monkeypatch)
    olga = add_token(tmp_path / "tokens.json", "olga", ["admin"], datetime.now(UTC))
    ana = add_token(tmp_path / "tokens.json", "ana", ["label"], datetime.now(UTC))
    with running_console(params, tmp_path, now=None) as url:
        stranger = Person(url)
        stranger.open("/disputes")
        assert stranger.address == "/login?to=/disputes"
        labeller = Person(url)
        labeller.log_in(ana, "/disputes")
        assert row.label in labeller.page and "ben says" in labeller.page and "log in with a token" in labeller.page
        fields = [("text_id", text_id(row.text)), ("label", '"wrong"'), ("verdict", "keep")]
        form_token = next(value for form in labeller.forms() for name, value in form.fields if name == "form_token")
        labeller.post("/disputes/settle", [*fields, ("form_token", form_token)])
        assert labeller.status == 403 and "lacks the scope admin" in labeller.page
        administrator = Person(url)
        administrator.log_in(olga, "/disputes")
        administrator.send("/disputes/settle", verdict="neither")
        assert administrator.status == 409
        administrator.open("/disputes")
        administrator.send("/disputes/settle", verdict="change")
        assert "0 open" in administrator.page and "is now" in administrator.page
        administrator.post("/disputes/settle", [*fields, ("form_token", administrator.forms()[0].fields[0][1])])
        assert administrator.status == 409 and "somebody else" in administrator.page
    assert [(row.label, row.verdict, row.settled_by) for row in settled(tmp_path)] == [("wrong", "change", "olga")]


def test_hostile_labels_are_text_and_a_page_of_another_site_settles_nothing(
    params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hostile = "<script>alert(1)</script>\" &amp; '"
    dispute_a_row(tmp_path, monkeypatch, hostile, by="local/<img>")
    with running_console(params, tmp_path, now=None) as url:
        person = Person(url)
        page = person.open("/disputes")
        assert "<script>alert" not in page and "<img" not in page
        form = person.forms()[0]
        assert json.loads(dict(form.fields)["label"]) == hostile
        for origin, form_token in (("http://evil.example", None), ("null", None), ("", "0" * 64)):
            person.open("/disputes")
            more = {} if form_token is None else {"form_token": form_token}
            person.send("/disputes/settle", verdict="keep", origin=origin, **more)
            assert person.status == 403
        assert settled(tmp_path) == []
        person.open("/disputes")
        person.send("/disputes/settle", verdict="keep")
    assert [(row.label, row.verdict) for row in settled(tmp_path)] == [(hostile, "keep")]


def test_what_the_label_audit_suspects_is_settled_in_the_same_list(
    params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    key, row = next(iter(sorted(read_trusted(ROOT, None, [], params).corpus.items())))
    write_suspects(tmp_path, [SuspectLabel(key, row.text, row.label, "likely", 0.02, 0.9, 1_790_000_000.0)])
    with running_console(params, tmp_path, now=None) as url:
        person = Person(url)
        assert "The label audit says" in person.open("/disputes") and "1 open" in person.page
        person.send("/disputes/settle", verdict="change")
        assert "0 open" in person.page and "is now" in person.page
    assert [(row.text_id, row.label, row.verdict) for row in settled(tmp_path)] == [(key, "likely", "change")]
