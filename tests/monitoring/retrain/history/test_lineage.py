"""`evergreen why` and `status`: the whole chain out of the real stores, on SQLite and PostgreSQL; nothing is written."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from evergreen.cli import app
from monitoring.retrain.gate.verdict import Verdict
from monitoring.retrain.history.lineage import Link, why
from monitoring.retrain.history.stores import stores, version_of
from pipeline.errors import InputError
from pipeline.params import Params
from serving.prediction import Prediction
from serving.release.manifest import model_name, repository
from serving.release.release_table import add_release, promote
from state.database import migrate, read_state
from state.tables import alerts, decisions, feedback, releases, retrain_steps, retrains
from tests.conftest import ROOT
from tests.monitoring.homes import NOON, Gateway
from tests.state.test_database import downgrade

HOSTILE = "[red]$(rm -rf)[/red]"
MOMENT = {"mono": 5.0, "boot": "here"}


def moments(name: str, wall: float) -> dict[str, object]:
    return {f"{name}_wall": wall, **{f"{name}_{key}": value for key, value in MOMENT.items()}}


def lay_version(home: Path, version: int, parent: int | None) -> None:
    folder = repository(home) / model_name(version)
    folder.mkdir(parents=True)
    commit = "0123456789abcdef0123456789abcdef01234567"
    lineage = {"version": version, "content_digest": "c" * 64, "mlflow_run_id": f"run-{version}", "git_commit": commit}
    digests = {
        "git_dirty": False,
        "data_digest": "d" * 64,
        "dvc_lock_digest": "e" * 64,
        "parent_version": parent,
        "decision": None,
    }
    (folder / "lineage.json").write_text(json.dumps(lineage | digests))


@pytest.fixture
def told(state: sa.Engine, tmp_path: Path) -> sa.Engine:
    """Version 1 drifted, an alert was heard, a retrain made version 2, which has answered once and was corrected."""
    lay_version(tmp_path, 1, None)
    lay_version(tmp_path, 2, 1)
    verdict = Verdict(True, ("better on 95 new rows, 31 gained and 4 lost",), {"new/gained": 31.0})
    body = {"labels": {"alertname": "EvergreenDrift", "version": "1", "note": HOSTILE}, "annotations": {"summary": "input moved"}}
    with state.begin() as connection:
        for version in (1, 2):
            add_release(connection, version, str(version) * 64)
            promote(connection, version)
        heard = {"fingerprint": "f1a5", "starts_at": NOON, "body": json.dumps(body), "decision_id": 1}
        for status, at in (("firing", NOON + 30), ("resolved", NOON + 900)):
            connection.execute(alerts.insert().values(status=status, received_at=at, **heard))
        episode = {"fingerprint": "f1a5", "starts_at": NOON, "alertname": "EvergreenDrift", "version": 1, "is_over": True}
        decided = {
            "verdict": "started",
            "reason": "labels",
            "at": NOON + 60,
            "facts": json.dumps({"new_labels": 140, "disagreement": None}),
        }
        connection.execute(decisions.insert().values(**episode, **decided, **moments("received", NOON + 30), retrain_id=1))
        work = {
            "decision_id": 1,
            "model": "evergreen",
            "state": "done",
            "step": "swap",
            "attempt": 1,
            "fence": 1,
            "compute_s": 95.0,
        }
        known = {"git_commit": "a" * 40, "version_in": 1, "version_out": 2, "labels": 140, "feedback_upto": 140, "progress": ""}
        times = moments("lease", NOON + 200) | moments("began", NOON + 61) | moments("ended", NOON + 160)
        whole = {"compute_s": 95.0, **work, **known, **times, "verdict": verdict.as_json()}
        connection.execute(retrains.insert().values({name: value for name, value in whole.items() if name in retrains.c}))
        step = {"retrain_id": 1, "step": "reproduce", "attempt": 1, "fence": 1, "began_at": NOON + 61, "ended_at": NOON + 150.5}
        connection.execute(retrain_steps.insert().values(**step, outcome="done", detail="dvc repro"))
        opinion = {"prediction_id": "p-0", "label": "app_pairing", "kind": "label", "source": "anna"}
        connection.execute(feedback.insert().values(**opinion, received_at=datetime(2026, 11, 24, tzinfo=UTC)))
    said = ("champion", "battery_problem", 0.7, "app_pairing")
    answer = Prediction(NOON + 300, "r1", "p-0", "customer-7", HOSTILE, None, 9, 1.5, 2, *said, b"", b"", 3.25, False)
    Gateway(tmp_path, "one").write([answer])
    return state


def chain(asked: str, home: Path, params: Params) -> list[Link]:
    with stores(home, params) as at:
        return why(asked, at)


def fact(links: list[Link], kind: str, name: str) -> str:
    return next(what for link in links if link.kind == kind for key, what in link.facts if key == name)


@pytest.mark.parametrize("asked", ["r1", "p-0"])
def test_a_request_leads_to_version_run_commit_data_parent_retrain_decision_and_alert(
    told: sa.Engine, tmp_path: Path, params: Params, asked: str
) -> None:
    links = chain(asked, tmp_path, params)
    assert [link.kind for link in links] == ["answer", "version", "made from", "parent", "retrain", "decision", "alert"]
    assert fact(links, "answer", "by") == "version 2 as champion, unit customer-7"
    assert fact(links, "answer", "feedback").startswith("app_pairing (label), by anna")
    assert fact(links, "made from", "MLflow run").startswith("run-2")
    assert fact(links, "made from", "git commit") == "0123456789ab (not in this clone)"
    assert fact(links, "made from", "data").startswith("d" * 12)
    assert fact(links, "parent", "role now") == "previous"
    assert fact(links, "retrain", "") == "better on 95 new rows, 31 gained and 4 lost"
    assert fact(links, "retrain", "step") == "reproduce, attempt 1: done in 89.5 s dvc repro"
    assert fact(links, "decision", "knowing") == "new labels 140"
    assert fact(links, "alert", "summary") == "input moved"


@pytest.mark.parametrize("asked", ["EvergreenDrift", "f1a5"])
def test_an_alert_leads_to_the_version_that_it_brought(told: sa.Engine, tmp_path: Path, params: Params, asked: str) -> None:
    links = chain(asked, tmp_path, params)
    assert [link.kind for link in links] == ["alert", "decision", "retrain", "version"]
    assert (links[0].name, links[3].name) == ("EvergreenDrift f1a5", "2")
    assert [key for key, _ in links[0].facts] == ["summary", "labels", "firing", "resolved"]


def test_versions_are_named_in_every_way_they_are_met(told: sa.Engine, tmp_path: Path, params: Params) -> None:
    with stores(tmp_path, params) as at:
        found = {
            asked: version_of(asked, at) for asked in ("2", "v1", "intent-2", "champion", "previous", "challenger", "3", "f1a5")
        }
    assert found == {"2": 2, "v1": 1, "intent-2": 2, "champion": 2, "previous": 1, "challenger": None, "3": None, "f1a5": None}


def test_what_nothing_is_called_is_answered_with_the_kinds_of_names(told: sa.Engine, tmp_path: Path, params: Params) -> None:
    for asked in ("3", "challenger", "v", "intent-", "-1", "²", "99999999999999999999", "EvergreenDri", ""):
        with pytest.raises(InputError, match=r"(?s)newest: 2.*EvergreenDrift f1a5.*x-request-id.*predictions"):
            chain(asked, tmp_path, params)


def test_a_version_that_a_person_published_says_so(told: sa.Engine, tmp_path: Path, params: Params) -> None:
    links = chain("1", tmp_path, params)
    assert [link.kind for link in links] == ["version", "made from", "decision"]
    assert "by hand" in links[-1].facts[0][1]


def test_a_version_whose_folder_has_gone_still_has_its_decision(told: sa.Engine, tmp_path: Path, params: Params) -> None:
    (repository(tmp_path) / model_name(2) / "lineage.json").unlink()
    links = chain("2", tmp_path, params)
    assert [link.kind for link in links] == ["version", "retrain", "decision", "alert"]
    assert fact(links, "version", "folder").startswith("gone")


def test_a_version_that_names_its_decision_has_it_before_the_journal_knows_the_version(
    told: sa.Engine, tmp_path: Path, params: Params
) -> None:
    with told.begin() as connection:
        connection.execute(retrains.update().values(version_out=None))
    assert chain("2", tmp_path, params)[-1].name == "none"
    path = repository(tmp_path) / model_name(2) / "lineage.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"decision": 1}))
    assert [link.kind for link in chain("2", tmp_path, params)][-3:] == ["retrain", "decision", "alert"]


def test_a_database_from_before_the_journal_is_read_as_it_is(told: sa.Engine, tmp_path: Path, params: Params) -> None:
    downgrade(told, "0003")
    assert [link.kind for link in chain("2", tmp_path, params)] == ["version", "made from", "parent", "decision"]
    assert "retrains" not in sa.inspect(told).get_table_names()  # nothing was migrated


def test_a_table_with_older_column_names_is_left_out_of_the_chain(told: sa.Engine, tmp_path: Path, params: Params) -> None:
    downgrade(told, "0004")
    assert [link.kind for link in chain("2", tmp_path, params)] == ["version", "made from", "parent", "retrain"]
    migrate(told)
    assert [link.kind for link in chain("2", tmp_path, params)][-2:] == ["decision", "alert"]


def test_the_connection_for_reading_cannot_write(told: sa.Engine, tmp_path: Path) -> None:
    with read_state(tmp_path) as connection:
        assert connection is not None
        assert connection.execute(sa.select(sa.func.count()).select_from(releases)).scalar_one() == 2
        with pytest.raises(sa.exc.DBAPIError, match=r"read.?only"):
            connection.execute(releases.delete())


def test_where_nothing_was_ever_made_nothing_is_created(tmp_path: Path, params: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EVERGREEN_STATE_URL", raising=False)
    with pytest.raises(InputError, match="none yet"):
        chain("champion", tmp_path, params)
    with stores(tmp_path, params) as at:
        assert version_of("1", at) is None
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def typed(told: sa.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    monkeypatch.setenv("EVERGREEN_HOME", str(tmp_path))
    monkeypatch.chdir(ROOT)
    return CliRunner()


def test_labels_and_texts_are_printed_as_they_are(typed: CliRunner) -> None:
    assert HOSTILE in typed.invoke(app, ["why", "p-0"]).stdout
    assert HOSTILE in typed.invoke(app, ["why", "f1a5"]).stdout


def test_status_tells_what_serves_what_runs_and_the_last_decision(typed: CliRunner, told: sa.Engine) -> None:
    with told.begin() as connection:
        connection.execute(retrains.update().values(state="running", step="gate", owner="host-1", progress="epoch 3 of 6"))
    said = typed.invoke(app, ["status"]).stdout
    assert "champion: version 2, published" in said
    assert "after version 1" in said
    assert "retrain 1: step gate, since" in said
    assert "epoch 3 of 6" in said
    assert "started: labels" in said
