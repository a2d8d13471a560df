"""`evergreen why` and `status` on real sources, with SQLite and PostgreSQL; nothing is written."""

import json
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from evergreen.cli import app
from monitoring.clock import read_clock
from monitoring.retrain.gate.verdict import Verdict
from monitoring.retrain.history.lineage import Entry, trace
from monitoring.retrain.history.sources import find_version, open_sources
from pipeline.errors import InputError
from pipeline.params import Params
from pipeline.process_identity import this_process
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


def write_version(home: Path, version: int, parent: int | None) -> None:
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
def history(state: sa.Engine, tmp_path: Path) -> sa.Engine:
    """Version 1 drifted, an alert was received, and a retrain made version 2, which answered once and was corrected."""
    write_version(tmp_path, 1, None)
    write_version(tmp_path, 2, 1)
    verdict = Verdict(True, ("better on 95 new rows, 31 gained and 4 lost",), {"new/gained": 31.0})
    body = {"labels": {"alertname": "EvergreenDrift", "version": "1", "note": HOSTILE}, "annotations": {"summary": "input moved"}}
    with state.begin() as connection:
        for version in (1, 2):
            add_release(connection, version, str(version) * 64)
            promote(connection, version)
        received = {"fingerprint": "f1a5", "starts_at": NOON, "body": json.dumps(body), "decision_id": 1}
        for status, at in (("firing", NOON + 30), ("resolved", NOON + 900)):
            connection.execute(alerts.insert().values(status=status, received_at=at, **received))
        episode = {"fingerprint": "f1a5", "starts_at": NOON, "alertname": "EvergreenDrift", "version": 1, "is_over": True}
        decided = {
            "verdict": "started",
            "reason": "labels",
            "at": NOON + 60,
            "facts": json.dumps({"new_labels": 140, "disagreement": None}),
        }
        connection.execute(decisions.insert().values(**episode, **decided, **moments("received", NOON + 30), retrain_id=1))
        retrain = {
            "decision_id": 1,
            "model": "evergreen",
            "state": "done",
            "step": "promote",
            "attempt": 1,
            "fence": 1,
            "compute_s": 95.0,
        }
        columns = {"git_commit": "a" * 40, "version_in": 1, "version_out": 2, "labels": 140, "feedback_upto": 140, "progress": ""}
        times = moments("lease", NOON + 200) | moments("began", NOON + 61) | moments("ended", NOON + 160)
        whole = {"compute_s": 95.0, **retrain, **columns, **times, "verdict": verdict.as_json()}
        connection.execute(retrains.insert().values({name: value for name, value in whole.items() if name in retrains.c}))
        step = {"retrain_id": 1, "step": "reproduce", "attempt": 1, "fence": 1, "began_at": NOON + 61, "ended_at": NOON + 150.5}
        connection.execute(retrain_steps.insert().values(**step, outcome="done", detail="dvc repro"))
        label = {"prediction_id": "p-0", "label": "app_pairing", "kind": "label", "labeller": "anna"}
        connection.execute(feedback.insert().values(**label, received_at=datetime(2026, 11, 24, tzinfo=UTC)))
    predicted = ("champion", "battery_problem", 0.7, "app_pairing")
    answer = Prediction(NOON + 300, "1" * 24, "p-0", "customer-7", HOSTILE, None, 9, 1.5, 2, *predicted, b"", b"", 3.25, False)
    Gateway(tmp_path, "one").write([answer])
    return state


def chain(name: str, home: Path, params: Params) -> list[Entry]:
    with open_sources(home, params) as sources:
        return trace(name, sources)


def fact(entries: list[Entry], kind: str, name: str) -> str:
    return next(value for entry in entries if entry.kind == kind for key, value in entry.facts if key == name)


@pytest.mark.parametrize("name", ["1" * 24, "p-0"])
def test_a_request_leads_to_version_run_commit_data_parent_retrain_decision_and_alert(
    history: sa.Engine, tmp_path: Path, params: Params, name: str
) -> None:
    entries = chain(name, tmp_path, params)
    assert [entry.kind for entry in entries] == ["answer", "version", "made from", "parent", "retrain", "decision", "alert"]
    assert fact(entries, "answer", "by") == "version 2 as champion, unit customer-7"
    assert fact(entries, "answer", "feedback").startswith("app_pairing (label), by anna")
    assert fact(entries, "made from", "MLflow run").startswith("run-2")
    assert fact(entries, "made from", "git commit") == "0123456789ab (not in this clone)"
    assert fact(entries, "made from", "data").startswith("d" * 12)
    assert fact(entries, "parent", "role now") == "previous"
    assert fact(entries, "retrain", "") == "better on 95 new rows, 31 gained and 4 lost"
    assert fact(entries, "retrain", "step") == "reproduce, attempt 1: done in 89.5 s dvc repro"
    assert fact(entries, "decision", "based on") == "new labels 140"
    assert fact(entries, "alert", "summary") == "input moved"


def test_an_answer_of_which_the_model_was_unsure_says_that_it_abstained(
    history: sa.Engine, tmp_path: Path, params: Params
) -> None:
    predicted = ("champion", "battery_problem", 0.4, "app_pairing")
    unsure = Prediction(NOON + 400, "2" * 24, "p-9", None, "hm", None, 3, 1.5, 2, *predicted, b"", b"", 3.25, False, True)
    Gateway(tmp_path, "two").write([unsure])
    label = fact(chain("p-9", tmp_path, params), "answer", "label")
    assert label.startswith("battery_problem (40% confidence), then app_pairing, abstained")
    assert "abstained" not in fact(chain("p-0", tmp_path, params), "answer", "label")


@pytest.mark.parametrize("name", ["EvergreenDrift", "f1a5"])
def test_an_alert_leads_to_the_version_made_for_it(history: sa.Engine, tmp_path: Path, params: Params, name: str) -> None:
    entries = chain(name, tmp_path, params)
    assert [entry.kind for entry in entries] == ["alert", "decision", "retrain", "version"]
    assert (entries[0].name, entries[3].name) == ("EvergreenDrift f1a5", "2")
    assert [key for key, _ in entries[0].facts] == ["summary", "labels", "firing", "resolved"]


def test_a_version_is_found_by_number_model_name_and_role(history: sa.Engine, tmp_path: Path, params: Params) -> None:
    with open_sources(tmp_path, params) as sources:
        versions = {
            name: find_version(name, sources)
            for name in ("2", "v1", "intent-2", "champion", "previous", "challenger", "3", "f1a5")
        }
    assert versions == {"2": 2, "v1": 1, "intent-2": 2, "champion": 2, "previous": 1, "challenger": None, "3": None, "f1a5": None}


def test_an_unknown_name_raises_an_error_that_lists_the_kinds_of_ids(history: sa.Engine, tmp_path: Path, params: Params) -> None:
    for name in ("3", "challenger", "v", "intent-", "-1", "²", "99999999999999999999", "EvergreenDri", ""):
        with pytest.raises(InputError, match=r"(?s)newest: 2.*EvergreenDrift f1a5.*x-request-id.*predictions"):
            chain(name, tmp_path, params)


def test_a_version_that_a_person_published_says_so(history: sa.Engine, tmp_path: Path, params: Params) -> None:
    entries = chain("1", tmp_path, params)
    assert [entry.kind for entry in entries] == ["version", "made from", "decision"]
    assert "by hand" in entries[-1].facts[0][1]


def test_a_version_without_its_folder_still_has_its_decision(history: sa.Engine, tmp_path: Path, params: Params) -> None:
    (repository(tmp_path) / model_name(2) / "lineage.json").unlink()
    entries = chain("2", tmp_path, params)
    assert [entry.kind for entry in entries] == ["version", "retrain", "decision", "alert"]
    assert fact(entries, "version", "folder").startswith("gone")


def test_a_version_that_names_its_decision_is_traced_before_the_journal_knows_the_version(
    history: sa.Engine, tmp_path: Path, params: Params
) -> None:
    with history.begin() as connection:
        connection.execute(retrains.update().values(version_out=None))
    assert chain("2", tmp_path, params)[-1].name == "none"
    path = repository(tmp_path) / model_name(2) / "lineage.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"decision": 1}))
    assert [entry.kind for entry in chain("2", tmp_path, params)][-3:] == ["retrain", "decision", "alert"]


def test_a_database_from_before_the_journal_is_read_unmigrated(history: sa.Engine, tmp_path: Path, params: Params) -> None:
    downgrade(history, "0003")
    kinds = [entry.kind for entry in chain("2", tmp_path, params)]
    assert kinds == ["version", "made from", "parent"]  # whether a retrain made it cannot be read
    assert "retrains" not in sa.inspect(history).get_table_names()  # nothing was migrated


def test_a_table_with_older_column_names_is_left_out_of_the_chain(history: sa.Engine, tmp_path: Path, params: Params) -> None:
    downgrade(history, "0004")
    assert [entry.kind for entry in chain("2", tmp_path, params)] == ["version", "made from", "parent"]
    migrate(history)
    assert [entry.kind for entry in chain("2", tmp_path, params)][-2:] == ["decision", "alert"]


def test_the_connection_for_reading_cannot_write(history: sa.Engine, tmp_path: Path) -> None:
    with read_state(tmp_path) as connection:
        assert connection is not None
        assert connection.execute(sa.select(sa.func.count()).select_from(releases)).scalar_one() == 2
        with pytest.raises(sa.exc.DBAPIError, match=r"read.?only"):
            connection.execute(releases.delete())


def test_without_sources_nothing_is_created(tmp_path: Path, params: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EVERGREEN_STATE_URL", raising=False)
    with pytest.raises(InputError, match="none yet"):
        chain("champion", tmp_path, params)
    with open_sources(tmp_path, params) as sources:
        assert find_version("1", sources) is None
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def runner(history: sa.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    monkeypatch.setenv("EVERGREEN_HOME", str(tmp_path))
    monkeypatch.chdir(ROOT)
    return CliRunner()


def test_labels_and_texts_are_printed_as_they_are(runner: CliRunner) -> None:
    assert HOSTILE in runner.invoke(app, ["why", "p-0"]).stdout
    assert HOSTILE in runner.invoke(app, ["why", "f1a5"]).stdout


def test_status_shows_champion_running_retrain_and_last_decision(runner: CliRunner, history: sa.Engine) -> None:
    now = read_clock()
    lease = {"lease_wall": now.wall + 60, "lease_mono": now.mono + 60, "lease_boot": now.boot, "owner": this_process()}
    with history.begin() as connection:
        running = {"state": "running", "step": "reproduce", "progress": "epoch 3 of 6"}
        connection.execute(retrains.update().values(**running, **lease))
    output = runner.invoke(app, ["status"]).stdout
    assert "champion: version 2, published" in output
    assert "after version 1" in output
    assert re.search(r"retrain 1, begun .* UTC: step reproduce, epoch 3 of 6", output)
    assert "retrain started" in output
