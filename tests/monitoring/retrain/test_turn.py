"""One whole cycle with a real `dvc repro`: an alert, a retrain in a separate worktree, a new champion."""

import json
import threading
from collections.abc import Callable
from pathlib import Path

import mlflow
import pytest
import sqlalchemy as sa

from monitoring.alertmanager_webhook import parse_webhook
from monitoring.retrain.alerts import insert_alerts, received_alerts
from monitoring.retrain.app import build_controller, run_once
from monitoring.retrain.controller import Controller
from monitoring.retrain.gate.verdict import Verdict
from monitoring.retrain.metrics import ControllerMetrics
from monitoring.retrain.request import request_retrain
from serving.release.live.swap import swap
from serving.release.manifest import LINEAGE, model_name, read_verified, repository
from serving.release.publish import publish
from serving.release.release_table import roles
from serving.triton.server import with_free_ports
from state.database import open_state
from state.tables import decisions, retrain_steps, retrains
from tests.conftest import Project, commit, copy_made
from tests.monitoring.retrain.receiver.running_receiver import alert, webhook

Build = Callable[[Verdict], Controller]
PASSED = Verdict(True, ("not worse on the old slice", "better on the new one"), {"old/accuracy": 0.9})


@pytest.fixture
def clone(made: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Clone the reproduced project with version 1 as champion and a newer commit: another package, nothing to train."""
    project = copy_made(made, tmp_path / "clone")
    ports = with_free_ports(project.params.serve)  # where no Triton answers
    monkeypatch.chdir(project.folder)
    monkeypatch.setenv("EVERGREEN_HOME", str(project.home))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    publish(project / "artifacts/package", project / "dvc.lock", "evergreen", project.home)
    project.set(
        release={"how": "at_once"},
        retrain={"settle_s": 0, "poll_s": 0.1, "min_labels": 1, "cooldown_s": 0, "label_wait_s": 0},
        serve={"http_port": ports.http_port, "grpc_port": ports.grpc_port, "metrics_port": ports.metrics_port},
    )
    with (project / "serving/backend/model.py").open("a", encoding="utf-8") as source:
        source.write("# a change that affects stage package alone\n")
    commit(project, "another package")
    return project


def test_an_alert_becomes_a_champion_once(clone: Project) -> None:
    with open_state(clone.home) as engine:

        def controller(verdict: Verdict = PASSED) -> Controller:
            gate = fixed_gate(verdict)
            return build_controller(clone.params, clone.home, engine.begin, gate, ControllerMetrics(), threading.Event())

        post(engine, alert(1, alertname="EvergreenAccuracyHarm", area="quality"))
        ended = run_once(controller(Verdict(False, ("worse on the old slice",), {})))
        assert ended is not None
        assert (ended.state, ended.job.step, ended.failure) == ("refused", "gate", "worse on the old slice")
        with engine.connect() as connection:
            assert roles(connection) == {"champion": 1}

        post(engine, alert(2, alertname="EvergreenAccuracyHarm", area="quality"))
        assert run_once(controller()) is None  # the same commit and no new label: nothing new
        with engine.connect() as connection:
            reasons = connection.execute(sa.select(decisions.c.verdict, decisions.c.reason).order_by(decisions.c.id)).all()
        assert [tuple(row) for row in reasons] == [("started", "harm"), ("waiting", "nothing_new")]

        request_retrain(engine, "the gate was repaired")
        ended = run_once(controller())
        assert ended is not None
        assert ended.state == "done", ended.failure
        with engine.connect() as connection:
            assert roles(connection) == {"champion": 2, "previous": 1}
            (first, second) = connection.execute(sa.select(retrains).order_by(retrains.c.id)).all()
            steps = connection.execute(sa.select(retrain_steps.c.step, retrain_steps.c.outcome)).all()
            reasons = connection.execute(sa.select(decisions.c.verdict, decisions.c.reason).order_by(decisions.c.id)).all()
        assert (first.state, second.state, second.version_in, second.version_out) == ("refused", "done", 1, 2)
        assert [tuple(row) for row in steps[-5:]] == [
            (step, "done") for step in ("collect", "reproduce", "gate", "publish", "promote")
        ]
        assert Verdict.from_json(second.verdict) == PASSED
        assert [tuple(row) for row in reasons[1:]] == [("refused", "another_version"), ("started", "asked")]

    with pytest.raises(PermissionError, match="stale"):  # a swap whose lease is lost on the way moves nothing
        swap(1, clone.params, clone.home, print, check_once())
    assert aliases(clone) == {"champion": 2, "previous": 1}

    folder = repository(clone.home) / model_name(2)
    read_verified(folder)
    assert json.loads((folder / LINEAGE).read_text())["decision"] == second.decision_id
    assert aliases(clone) == {"champion": 2, "previous": 1}
    assert clone.must("git", "status", "--porcelain", "--untracked-files=no") == ""
    assert not list(clone.home.glob("retrain/*/tree"))
    assert "Running stage 'package'" in (clone.home / "retrain/1/log").read_text()
    assert "Running stage 'train'" not in (clone.home / "retrain/1/log").read_text()
    assert f"retrain/{second.id}" in clone.must("git", "branch", "--list", "retrain/*")


def check_once() -> Callable[[sa.Connection], None]:
    checks: list[int] = []

    def check_lease(connection: sa.Connection) -> None:
        checks.append(1)
        if len(checks) > 1:
            raise PermissionError("stale")
        assert roles(connection)["champion"] == 2

    return check_lease


def fixed_gate(verdict: Verdict) -> Callable[..., Verdict]:
    def gate(package: Path, champion: Path | None, *, split: Path, feedback: Path) -> Verdict:
        read_verified(package)
        assert champion is not None
        read_verified(champion)
        assert (split / "test.parquet").is_file()
        assert feedback.is_dir()
        return verdict

    return gate


def post(engine: sa.Engine, *posted: dict[str, object]) -> None:
    received = received_alerts(parse_webhook(webhook(*posted)))
    with engine.begin() as connection:
        insert_alerts(connection, received, 0.0)


def aliases(project: Project) -> dict[str, int]:
    client = mlflow.MlflowClient(f"sqlite:///{project.home / 'mlflow.db'}")
    return {alias: int(version) for alias, version in client.get_registered_model("evergreen").aliases.items()}
