"""Runs in a worktree of a small clone: they end with their controller, are found again, and leave nothing behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from monitoring.retrain.journal import RetrainJob
from monitoring.retrain.run import RunStatus
from monitoring.retrain.run_local import MARK, RunLocal, log_tail, progress
from pipeline.lifetime import processes_with
from pipeline.params import Params
from tests.conftest import ROOT

JOB = RetrainJob(7, 3, "reproduce", 1, None, 1, None, "fingerprint; $(id)", "EvergreenDrift\n'")
FOREVER = "import time, pathlib; pathlib.Path('begun').touch(); time.sleep(600)"


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    folder = tmp_path / "clone"
    (folder / "data/feedback").mkdir(parents=True)
    (folder / "data/feedback/.gitkeep").touch()
    git(tmp_path, "init", "--quiet", "--initial-branch=main", str(folder))
    git(folder, "add", "--all")
    git(folder, "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "--quiet", "--message", "as it is")
    return folder


Make = Callable[..., RunLocal]


@pytest.fixture
def make(clone: Path, tmp_path: Path, params: Params) -> Iterator[Make]:
    runs: list[RunLocal] = []

    def run(code: str, **changed: float) -> RunLocal:
        settings = params.retrain.model_copy(update={"stop_within_s": 0.5} | changed)
        runs.append(RunLocal(clone, tmp_path / "live", settings, [sys.executable, "-c", code]))
        return runs[-1]

    yield run
    for run in runs:
        run.sweep(None)


def until(condition: Callable[[], bool], within_s: float = 600) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def after(run: RunLocal) -> RunStatus:
    until(lambda: run.observe(JOB).state != "running")
    return run.observe(JOB)


def marked(folder: Path) -> list[int]:
    """Return the living processes of the run."""
    return list(processes_with(MARK, str(folder)))


def test_a_run_has_a_separate_tree_and_branch_and_the_users_tree_is_unchanged(make: Make, clone: Path) -> None:
    run = make("import os, pathlib; pathlib.Path('dvc.lock').write_text(os.environ['EVERGREEN_ALERT'])")
    tree = run.prepare(JOB)
    (tree / "data/feedback/feedback.jsonl").write_text('{"text": "a", "label": "b"}\n')
    run.commit(JOB, "feedback")
    assert run.observe(JOB).state == "absent"
    run.start(JOB)
    assert after(run) == RunStatus("done")
    run.commit(JOB, "made")
    assert git(tree, "log", "--format=%s %ae", "-2").splitlines() == [
        "made retrain@evergreen.invalid", "feedback retrain@evergreen.invalid"
    ]  # fmt: skip
    assert (tree / "dvc.lock").read_text() == f"{JOB.alertname} {JOB.fingerprint}"
    assert git(clone, "status", "--porcelain") == ""
    assert git(clone, "branch", "--show-current") == "main"
    run.clean(JOB)
    assert not tree.exists()
    assert "retrain/7" in git(clone, "branch", "--list", "retrain/*")
    assert len(git(clone, "worktree", "list").splitlines()) == 1


def test_a_run_is_found_again_by_another_controller_and_never_started_twice(make: Make) -> None:
    run = make(FOREVER)
    tree = run.prepare(JOB)
    run.start(JOB)
    until((tree / "begun").exists)
    other = make("raise SystemExit('a second run was started')")
    assert other.prepare(JOB) == tree
    other.start(JOB)
    assert other.observe(JOB).state == "running"
    assert len(marked(tree.parent)) == 2  # supervisor and command


STAGE = """
import time
from pathlib import Path
from pipeline.errors import run_stage
def main():
    try:
        Path("begun").touch()
        while True:
            time.sleep(0.1)
    finally:
        Path("closed").touch()
run_stage(main)
"""
DVC = f"""
import os, subprocess, sys
from pathlib import Path
Path("stage.py").write_text({STAGE!r})
variables = {{"DVC_STAGE": "train", "PYTHONPATH": {str(ROOT)!r}}}
subprocess.run(["/bin/sh", "-c", f"{{sys.executable}} stage.py"], env=os.environ | variables)
"""
CONTROLLER = """
import sys, time
from pathlib import Path
from monitoring.retrain.journal import RetrainJob
from monitoring.retrain.run_local import RunLocal
from pipeline.params import load_params
root, home, code = sys.argv[1:]
run = RunLocal(Path(root), Path(home), load_params(Path(root) / "params.yaml").retrain, [sys.executable, "-c", code])
job = RetrainJob(7, 3, "reproduce", 1, None, 1, None, "fingerprint", "EvergreenDrift")
run.prepare(job)
run.start(job)
while True:
    time.sleep(0.1)  # signal.pause() would miss a signal that comes just before it
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_a_run_ends_with_its_controller_and_its_stage_closes_what_it_has_opened(
    make: Make, clone: Path, tmp_path: Path, number: signal.Signals
) -> None:
    """DVC is played by a process that runs a stage through a shell, as DVC does, and does nothing at its own end."""
    (clone / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    command = [sys.executable, "-c", CONTROLLER, str(clone), str(tmp_path / "live"), DVC]
    tree = tmp_path / "live/retrain/7/tree"
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL) as controller:
        until((tree / "begun").exists)
        assert len(marked(tree.parent)) >= 3  # supervisor, DVC, stage, and a shell unless that has become the stage
        controller.send_signal(number)
    until(lambda: marked(tree.parent) == [])
    assert (tree / "closed").exists()
    assert after(make("")).state == "absent"  # the next controller starts it again


def test_a_run_whose_supervisor_is_killed_ends_and_another_can_begin(make: Make) -> None:
    run = make(DVC)
    tree = run.prepare(JOB)
    run.start(JOB)
    until((tree / "begun").exists)
    os.kill(min(marked(tree.parent)), signal.SIGKILL)
    assert after(run).state == "killed"
    until(lambda: marked(tree.parent) == [])
    assert (tree / "closed").exists()
    again = make("print('fine')")
    again.start(JOB)
    assert after(again).state == "done"


def test_a_run_whose_command_alone_is_killed_has_failed(make: Make) -> None:
    run = make(FOREVER)
    tree = run.prepare(JOB)
    run.start(JOB)
    until((tree / "begun").exists)
    os.kill(max(marked(tree.parent)), signal.SIGKILL)
    status = after(run)
    assert status.state == "failed"
    assert "ended with -9" in status.failure


def test_the_time_limit_ends_a_run_that_ignores_sigterm(make: Make) -> None:
    deaf = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {FOREVER}"
    run = make(deaf, run_limit_s=1.0)
    tree = run.prepare(JOB)
    run.start(JOB)
    status = after(run)
    assert (status.state, "longer than 1 s" in status.failure) == ("failed", True)
    assert marked(tree.parent) == []


def test_a_stopped_supervisor_ends_every_process_of_its_run(make: Make) -> None:
    run = make(f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {FOREVER!r}]); {FOREVER}")
    tree = run.prepare(JOB)
    run.start(JOB)
    until(lambda: len(marked(tree.parent)) == 3)
    os.kill(min(marked(tree.parent)), signal.SIGTERM)  # the supervisor
    until(lambda: marked(tree.parent) == [])
    assert after(run).state == "absent"  # nobody waited for it: the next controller starts it again


def test_a_run_that_is_stopped_closes_what_it_has_opened(make: Make) -> None:
    run = make(DVC, stop_within_s=30.0)
    tree = run.prepare(JOB)
    run.start(JOB)
    until((tree / "begun").exists)
    run.stop(JOB)
    assert marked(tree.parent) == []
    assert (tree / "closed").exists()
    assert run.observe(JOB).state == "absent"


def test_a_failure_is_reported_with_the_end_of_its_log(make: Make) -> None:
    run = make("import sys; print('ERROR: no space left on device', file=sys.stderr); sys.exit(255)")
    run.prepare(JOB)
    run.start(JOB)
    status = after(run)
    assert status.failure.startswith("dvc repro ended with 255")
    assert "no space left on device" in status.failure


def test_a_tree_that_a_crash_left_incomplete_is_replaced(make: Make, clone: Path) -> None:
    run = make("print('fine')")
    tree = run.prepare(JOB)
    (tree.parent / "prepared").unlink()
    (tree / "half").write_text("written")
    assert make("print('fine')").prepare(JOB) == tree
    assert not (tree / "half").exists()
    assert (tree / "data/feedback/.gitkeep").exists()


def test_sweeping_ends_runs_of_ended_retrains_only(make: Make) -> None:
    run = make(FOREVER)
    tree = run.prepare(JOB)
    run.start(JOB)
    until((tree / "begun").exists)
    run.sweep(JOB.id)
    assert len(marked(tree.parent)) == 2
    run.sweep(None)
    assert marked(tree.parent) == []
    assert tree.exists()


LOG = """Running stage 'ingest':
> .venv/bin/python -m pipeline.stages.ingest
Stage 'split' is cached - skipping run, checking out outputs
Running stage 'train':
train:  10%|█         | 5/50\rtrain:  64%|██████▍   | 32/50"""


def test_progress_is_read_from_the_log(tmp_path: Path) -> None:
    assert progress(LOG) == "stage train, 64 %"
    assert progress("") == ""
    assert progress(LOG[: LOG.index("Running stage 'train'")]) == "stage split"
    (tmp_path / "log").write_text(LOG)
    assert log_tail(tmp_path / "log").splitlines()[-1].startswith("train:  64%")
