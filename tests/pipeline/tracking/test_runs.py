"""MLflow tracking: one run for all stages, complete, and never the reason that a stage stops."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest
from mlflow.entities import LoggedModelStatus
from mlflow.server import security_utils

from pipeline.params import flatten
from pipeline.process_identity import is_gone, this_process
from pipeline.tracking.runs import close_orphans, show, stage_run
from pipeline.tracking.store import EXPERIMENT, NOTE
from tests.conftest import ROOT, Project


def run_of(project: Project) -> mlflow.entities.Run:
    client = mlflow.MlflowClient(f"sqlite:///{project.home / 'mlflow.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name(EXPERIMENT).experiment_id])
    return run


def test_all_stages_write_into_one_finished_run_with_every_param(made: Project) -> None:
    run = run_of(made)
    assert run.info.status == "FINISHED"
    params = made.params
    sections = ("data", "split", "spread", "model", "train", "evaluate", "abstain", "reference", "export", "session")
    expected = {key: value for name in sections for key, value in flatten(getattr(params, name), name).items()}
    assert run.data.params == expected
    assert {key for key in run.data.tags if key.startswith("stage.")} == {
        f"stage.{s}" for s in ("train", "evaluate", "reference", "export", "select_session")
    }


def test_the_run_names_its_commit_and_the_digest_of_its_data(made: Project) -> None:
    tags = run_of(made).data.tags
    assert tags["git.commit"] == made.must("git", "rev-parse", "HEAD").strip()
    assert tags["git.dirty"] == "false"
    assert len(tags["data.digest.train"]) == 64


def test_the_run_holds_curves_system_metrics_data_sets_figures_and_model(made: Project) -> None:
    run = run_of(made)
    client = mlflow.MlflowClient(f"sqlite:///{made.home / 'mlflow.db'}")
    assert len(client.get_metric_history(run.info.run_id, "by_epoch/val_f1_macro")) == made.params.train.epochs
    assert len(client.get_metric_history(run.info.run_id, "by_step/loss")) >= 2
    assert "test/f1_macro" in run.data.metrics
    assert "control/f1_macro" in run.data.metrics
    assert "system/cpu_utilization_percentage" in run.data.metrics
    assert sorted(data.dataset.name for data in run.inputs.dataset_inputs) == ["few test", "few train", "few val"]
    figures = {Path(file.path).stem for file in client.list_artifacts(run.info.run_id, "figures")}
    assert figures == {"schedule", "learning_curve", "confusion_matrix", "f1_by_class", "reliability", "coverage", "sessions"}
    (model,) = client.search_logged_models([run.info.experiment_id])
    assert (model.source_run_id, model.status) == (run.info.run_id, LoggedModelStatus.READY)
    measured_on = {metric.dataset_name for metric in model.metrics}
    assert measured_on == {"few test", "few val"}
    assert {"test/accuracy", "control/accuracy"} <= {metric.key for metric in model.metrics}


def test_the_run_has_a_name_and_a_description(made: Project) -> None:
    run = run_of(made)
    assert run.info.run_name.startswith("few, lora rank 4, ")
    lines = [line.partition(":")[0] for line in run.data.tags[NOTE].splitlines()]
    assert lines == ["- **Recipe**", "- **Data**", "- **Test**", "- **Served by**"]


def test_the_learning_curves_come_first_in_the_pages(made: Project) -> None:
    """MLflow's pages show groups of metrics in the order of their names."""
    groups = sorted({name.rpartition("/")[0] for name in run_of(made).data.metrics})
    assert groups[:2] == ["by_epoch", "by_step"]


def test_no_metric_and_no_tag_is_ours_alone(made: Project) -> None:
    run = run_of(made)
    words = {word for name in run.data.metrics for word in name.split("/")}
    assert words.isdisjoint({"company", "guard_rate", "shapes"})
    assert [key for key, value in run.data.tags.items() if "None" in value] == []


def test_metric_names_stay_few(made: Project) -> None:
    names = [name for name in run_of(made).data.metrics if not name.startswith("system/")]
    assert len(names) < 60


def test_a_stage_continues_the_run_it_is_given(tmp_path: Path) -> None:
    with stage_run("train", {"train.epochs": "1"}, tmp_path) as first:
        pass
    with stage_run("evaluate", {"evaluate.seed": "1"}, tmp_path, continues=first.id) as second:
        pass
    assert second.id == first.id
    assert mlflow.get_run(first.id).data.params == {"train.epochs": "1", "evaluate.seed": "1"}


def test_a_stage_repeated_with_other_params_gets_a_child_run(tmp_path: Path) -> None:
    with stage_run("train", {"train.epochs": "1"}, tmp_path) as first:
        pass
    with stage_run("evaluate", {"evaluate.seed": "1"}, tmp_path, continues=first.id):
        pass
    with stage_run("evaluate", {"evaluate.seed": "2"}, tmp_path, continues=first.id) as again:
        pass
    assert again.id != first.id
    assert mlflow.get_run(again.id).data.tags["mlflow.parentRunId"] == first.id


def test_a_run_that_continues_one_of_another_store_names_it(tmp_path: Path) -> None:
    with stage_run("evaluate", {}, tmp_path, continues="0123456789abcdef0123456789abcdef") as run:
        pass
    assert mlflow.get_run(run.id).data.tags["evergreen.trained_in"] == "0123456789abcdef0123456789abcdef"


def test_a_stage_that_fails_leaves_a_failed_run(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), stage_run("train", {}, tmp_path) as run:
        raise ZeroDivisionError
    assert mlflow.get_run(run.id).info.status == "FAILED"


def test_a_dead_tracking_server_stops_no_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with stage_run("train", {"train.epochs": "1"}, tmp_path) as run:
        run.metrics({"train/loss": 1.0}, 1)
        reached = True
    assert reached
    assert run.id is None


def test_a_server_that_dies_in_the_middle_stops_no_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with stage_run("train", {}, tmp_path) as run:

        def broken(*_: object, **__: object) -> None:
            raise OSError("disk full")

        monkeypatch.setattr(run._client, "log_batch", broken)
        for step in range(5):
            run.metrics({"train/loss": 1.0}, step)
        reached = True
    assert reached


def test_registering_with_a_dead_server_is_an_error_with_advice(made: Project, tmp_path: Path) -> None:
    dead = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "EVERGREEN_HOME": str(tmp_path)}
    done = made.run("python", "-m", "evergreen.cli", "publish", **dead)
    assert done.returncode == 3
    assert "MLflow" in done.stderr
    assert "what to do" in done.stderr
    assert "Traceback" not in done.stderr


KILLED = """
import os, signal, sys
from pathlib import Path
from pipeline.tracking.runs import stage_run
with stage_run("train", {}, Path(sys.argv[1])) as run:
    print(run.id, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_run_whose_process_was_killed_is_closed_and_a_living_one_is_not(tmp_path: Path) -> None:
    cause = {"EVERGREEN_DECISION": "7", "EVERGREEN_ALERT": "EvergreenDrift\n$(id) ff00"}
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path)], cwd=ROOT, env=os.environ | cause, capture_output=True, text=True
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    dead = done.stdout.split()[-1]
    with stage_run("train", {}, tmp_path) as run:  # the next stage closes it
        assert close_orphans(tmp_path) == []
        assert mlflow.get_run(str(run.id)).info.status == "RUNNING"
    closed = mlflow.get_run(dead)
    assert closed.info.status == "KILLED"
    assert closed.data.tags["evergreen.decision"] == "7"
    assert closed.data.tags["evergreen.alert"] == cause["EVERGREEN_ALERT"]
    assert close_orphans(tmp_path) == []


def test_opening_mlflow_closes_the_run_of_a_killed_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    monkeypatch.setattr(os, "execv", lambda _program, _command: None)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "")
    show(tmp_path, 5000, print)
    assert mlflow.get_run(done.stdout.split()[-1]).info.status == "KILLED"


def test_a_process_is_gone_when_its_pid_was_reused_or_the_machine_was_restarted() -> None:
    host, boot, pid, started = this_process().split(" ")
    assert not is_gone(f"{host} {boot} {pid} {started}")
    assert is_gone(f"{host} {boot} {pid} {int(started) - 1}")
    assert is_gone(f"{host} another-boot {pid} {started}")
    assert not is_gone(f"elsewhere {boot} {pid} 1")
    assert not is_gone("host:1234")  # an owner as earlier versions wrote it


def test_mlflows_pages_are_for_this_machine_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow has no login: it listens on loopback, runs no jobs, and refuses other hosts and other sites' pages."""
    commands: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda _program, command: commands.append(command))
    monkeypatch.setenv("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "true")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    announced: list[str] = []
    show(tmp_path, 5000, announced.append)
    id = mlflow.get_experiment_by_name(EXPERIMENT).experiment_id
    assert announced == [f"http://127.0.0.1:5000/#/experiments/{id}/runs?workflowType=machine_learning"]
    options = dict(zip(commands[0][4::2], commands[0][5::2], strict=True))
    assert options["--host"] == "127.0.0.1"
    assert options["--default-artifact-root"] == (tmp_path / "mlartifacts").as_uri()
    assert "--allowed-hosts" not in options  # its own: loopback and private addresses
    assert os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"
    hosts = security_utils.get_default_allowed_hosts()
    named = {host: security_utils.is_allowed_host_header(hosts, host) for host in ("127.0.0.1:5000", "evil.example:5000")}
    assert named == {"127.0.0.1:5000": True, "evil.example:5000": False}
    assert security_utils.should_block_cors_request("https://evil.example", "POST", [])
