"""Runs `dvc repro` for a retrain on this machine: in a git worktree on a separate branch, with the main tree's cache.

The run ends with its controller, whatever ends that. A supervisor process in a new session (`python -m
monitoring.retrain.run_local`) holds a lock while it runs and writes its result to a file, so another controller finds the run
running, ended or killed, and never starts a second one. The next run continues where a stopped one was, from DVC's cache and the
training's checkpoint.
"""

import argparse
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from monitoring.retrain.journal import RetrainJob
from monitoring.retrain.run import RunStatus
from pipeline.data.records import write_json
from pipeline.errors import ToolError, run_stage
from pipeline.home import MAIN_TREE, without_git
from pipeline.lifetime import kill_after, processes_with, start_child
from pipeline.params import Retrain

MARK = "EVERGREEN_RETRAIN_RUN"  # in the environment of every process of a run: its folder
IDENTITY = ("-c", "user.name=Evergreen retrain", "-c", "user.email=retrain@evergreen.invalid", "-c", "commit.gpgsign=false")
LAST_LINES, TAIL_BYTES = 12, 20_000
BEGUN, ENDED = "begun", "ended.json"
POLL_S = 0.1
SPARE_S = 5.0  # for a supervisor, beyond what it leaves its processes
STAGE = re.compile(r"(?:Running stage|Stage) '(?P<name>[\w-]+)'(?P<skipped> is cached| didn't change)?")
BAR = re.compile(r"(?P<percent>\d{1,3})%\|")


class RunLocal:
    """Runs in worktrees of the clone at `root`; every retrain has a folder below `home`."""

    def __init__(self, root: Path, home: Path, settings: Retrain, command: Sequence[str] = ()) -> None:
        self._root, self._home, self._settings = root, home, settings
        self._command = list(command) or [str(Path(sys.prefix) / "bin" / "dvc"), "repro"]

    def folder(self, job: RetrainJob) -> Path:
        """Return the folder of a retrain: tree, log, lock, and the result of the last attempt."""
        return self._home / "retrain" / str(job.id)

    def prepare(self, job: RetrainJob) -> Path:
        """Create the tree; one that a crash left incomplete is replaced."""
        tree, marker = self.folder(job) / "tree", self.folder(job) / "prepared"
        if marker.is_file() and tree.is_dir():
            return tree
        for old_tree in self._home.glob("retrain/*/tree"):  # of ended retrains, and an incomplete one of this retrain
            self._remove(old_tree)
        tree.parent.mkdir(parents=True, exist_ok=True)
        _git(self._root, "worktree", "add", "--quiet", "--force", "-B", branch(job), str(tree), job.git_commit or "HEAD")
        (tree / ".venv").unlink(missing_ok=True)
        (tree / ".venv").symlink_to(sys.prefix)
        _run_checked([sys.executable, "-m", "pipeline.worktree"], tree, self._environment(job))
        marker.touch()
        return tree

    def tree(self, job: RetrainJob) -> Path:
        """Return the tree if `prepare` completed it."""
        tree = self.folder(job) / "tree"
        if not ((self.folder(job) / "prepared").is_file() and tree.is_dir()):
            raise ToolError(str(tree), "the working tree of this retrain is gone", "ask for another retrain")
        return tree

    def commit(self, job: RetrainJob, message: str) -> None:
        """Commit feedback and dvc.lock, if they changed."""
        tree = self.folder(job) / "tree"
        present = [name for name in ("data/feedback", "dvc.lock") if (tree / name).exists()]
        _git(tree, "add", "--", *present)
        if subprocess.run(["git", "diff", "--cached", "--quiet"], cwd=tree, capture_output=True).returncode:
            _git(tree, *IDENTITY, "commit", "--quiet", "--no-verify", "--message", message)

    def start(self, job: RetrainJob) -> None:
        """Start the supervisor, which inherits the lock: it is held until the last process of the run ends."""
        folder = self.folder(job)
        lock = _lock(folder)
        if lock is None:
            return
        try:
            stop_all(folder, self._settings.stop_within_s)
            (folder / ENDED).unlink(missing_ok=True)
            (folder / BEGUN).touch()
            limits = [str(self._settings.run_limit_s), str(self._settings.stop_within_s)]
            supervisor = [sys.executable, "-m", "monitoring.retrain.run_local", str(folder), *limits, "--"]
            with (folder / "log").open("ab") as log:
                start_child(
                    [*supervisor, *self._command],
                    cwd=Path(__file__).parents[2],
                    env=self._environment(job),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    pass_fds=[lock],
                )
        finally:
            os.close(lock)

    def observe(self, job: RetrainJob) -> RunStatus:
        """Read the status from lock and files, not from memory."""
        folder = self.folder(job)
        if _is_locked(folder):
            return RunStatus("running", progress(_tail(folder / "log")))
        result = _read(folder / ENDED)
        if result is None and not (folder / BEGUN).is_file():
            return RunStatus("absent")
        if result and result["code"] == 0:
            return RunStatus("done")
        how = result["how"] if result else "it was killed"
        return RunStatus(
            "failed" if result else "killed", failure=f"{how}; the last lines of its log:\n{log_tail(folder / 'log')}"
        )

    def stop(self, job: RetrainJob) -> None:
        """End the run with all its processes, which close their MLflow runs; it is absent then."""
        stop_all(self.folder(job), self._settings.stop_within_s)

    def sweep(self, running_id: int | None) -> None:
        """End runs of ended retrains: a retrain may be cancelled, or its controller lose its lease to another."""
        for tree in self._home.glob("retrain/*/tree"):
            if tree.parent.name != str(running_id):
                stop_all(tree.parent, self._settings.stop_within_s)

    def clean(self, job: RetrainJob) -> None:
        """Delete the tree and prune it from git; log and branch stay."""
        self._remove(self.folder(job) / "tree")

    def _remove(self, tree: Path) -> None:
        stop_all(tree.parent, self._settings.stop_within_s)
        (tree.parent / "prepared").unlink(missing_ok=True)
        shutil.rmtree(tree, ignore_errors=True)
        _git(self._root, "worktree", "prune")

    def _environment(self, job: RetrainJob) -> dict[str, str]:
        """Pass alert and decision as environment variables, never in a command; they become tags of the MLflow run."""
        origin = {"EVERGREEN_DECISION": str(job.decision_id), "EVERGREEN_ALERT": f"{job.alertname} {job.fingerprint}"}
        run = {"EVERGREEN_HOME": str(self._home), MAIN_TREE: str(self._root), MARK: str(self.folder(job))}
        return without_git(os.environ) | run | {name: value.replace("\0", "") for name, value in origin.items()}


def branch(job: RetrainJob) -> str:
    """Return the branch of a retrain; it contains the id alone and no text of the alert."""
    return f"retrain/{job.id}"


def progress(log: str) -> str:
    """Return the last stage in a log of `dvc repro`, with the percentage of its progress bar."""
    stages = list(STAGE.finditer(log))
    if not stages:
        return ""
    percents = BAR.findall(log, stages[-1].end()) if not stages[-1]["skipped"] else []
    return f"stage {stages[-1]['name']}" + (f", {percents[-1]} %" if percents else "")


def log_tail(path: Path) -> str:
    """Return the last lines of a log, with only the last state of a progress bar."""
    lines = [line.rpartition("\r")[2] for line in _tail(path).split("\n")]
    return "\n".join([line for line in lines if line.strip()][-LAST_LINES:])


def supervise(folder: Path, limit_s: float, stop_within_s: float, command: Sequence[str]) -> None:
    """Run the command and write its result to a file. SIGTERM and the time limit end it with all its children.

    A run that is ended by SIGTERM has no result: nobody has waited for it, and the next controller may start it again.
    """
    signals: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM):
        signal.signal(number, lambda number, _frame: signals.append(number))
    signal.setitimer(signal.ITIMER_REAL, limit_s)
    process = start_child(command, cwd=folder / "tree")
    while process.poll() is None and not signals:
        time.sleep(POLL_S)
    is_too_long, was_running = signal.SIGALRM in signals, process.poll() is None
    if was_running:
        _stop_others(folder, stop_within_s)
    code = process.wait()
    if was_running and not is_too_long:
        (folder / BEGUN).unlink(missing_ok=True)
        return
    how = f"it took longer than {limit_s:g} s" if is_too_long else f"dvc repro ended with {code}"
    write_json(folder / ENDED, {"code": code or int(is_too_long), "how": how})


def _stop_others(folder: Path, within_s: float) -> None:
    """Stop every process of this run except this one; those that SIGTERM does not end in time are killed."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.killpg(0, signal.SIGTERM)
    this = os.getpid()
    kill_after(lambda: [pid for pid in _processes_of(folder) if pid != this], within_s)


def stop_all(folder: Path, within_s: float) -> None:
    """Stop a run by its supervisor, which stops the other processes; without a supervisor, stop every process that is left."""
    pids = list(_processes_of(folder))
    supervisor = [pid for pid in pids if _leads_session(pid)]
    for pid in supervisor or pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    if pids:
        kill_after(lambda: list(_processes_of(folder)), within_s + SPARE_S)


def _processes_of(folder: Path) -> Iterator[int]:
    """Return living processes marked with this run, also the children of a killed supervisor."""
    return processes_with(MARK, str(folder))


def _leads_session(pid: int) -> bool:
    with suppress(ProcessLookupError):
        return os.getsid(pid) == pid
    return False


def _lock(folder: Path) -> int | None:
    """Take the lock and return its file descriptor, or None if another process holds it."""
    descriptor = os.open(folder / "lock", os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def _is_locked(folder: Path) -> bool:
    if not (folder / "lock").exists():
        return False
    lock = _lock(folder)
    if lock is None:
        return True
    os.close(lock)
    return False


def _read(path: Path) -> dict[str, float | str] | None:
    try:
        result: dict[str, float | str] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return result


def _tail(path: Path) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL_BYTES))
            return file.read().decode("utf-8", errors="replace")
    except FileNotFoundError:
        return ""


def _git(folder: Path, *arguments: str) -> None:
    _run_checked(["git", *arguments], folder, without_git(os.environ))


def _run_checked(command: list[str], folder: Path, environment: dict[str, str]) -> None:
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        output = (done.stderr or done.stdout).strip()[-1000:]
        raise ToolError(" ".join(command[:3]), f"it ended with {done.returncode}: {output}", "run it by hand in the clone")


def main() -> None:
    """Run the supervisor."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("limit_s", type=float)
    parser.add_argument("stop_within_s", type=float)
    parser.add_argument("command", nargs="+")
    args = parser.parse_args()
    supervise(args.folder, args.limit_s, args.stop_within_s, args.command)


if __name__ == "__main__":
    run_stage(main)
