"""`dvc repro` for a retrain on this machine: in a git worktree and on a branch of its own, with the main tree's cache.

The run outlives the controller: a keeper in a session of its own (`python -m monitoring.retrain.run_local`) holds a lock while it
works and writes down how it ended, so that the next controller finds it running, ended, or killed, and never starts a second.
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

from monitoring.retrain.journal import Job
from monitoring.retrain.run import Seen
from pipeline.data.records import write_json
from pipeline.errors import ToolError, run_stage
from pipeline.params import Retrain
from serving.processes.lifetime import processes_with

MARK = "EVERGREEN_RETRAIN_RUN"  # in the environment of every process of a run: its folder
IDENTITY = ("-c", "user.name=Evergreen retrain", "-c", "user.email=retrain@evergreen.invalid", "-c", "commit.gpgsign=false")
LAST_LINES, TAIL_BYTES = 12, 20_000
BEGUN, ENDED = "begun", "ended.json"
LOOK_S = 0.1
ABSENT = Seen("absent")
STAGE = re.compile(r"(?:Running stage|Stage) '(?P<name>[\w-]+)'(?P<skipped> is cached| didn't change)?")
BAR = re.compile(r"(?P<percent>\d{1,3})%\|")


class RunLocal:
    """`root` is the clone that retrains are made from; every retrain has a folder below `home`."""

    def __init__(self, root: Path, home: Path, settings: Retrain, command: Sequence[str] = ()) -> None:
        self._root, self._home, self._settings = root, home, settings
        self._command = list(command) or [str(Path(sys.prefix) / "bin" / "dvc"), "repro"]

    def folder(self, job: Job) -> Path:
        """Of one retrain: tree, log, lock, and how the last attempt ended."""
        return self._home / "retrain" / str(job.id)

    def prepare(self, job: Job) -> Path:
        """Lay out the tree; one that a crash left half made is made anew."""
        tree, done = self.folder(job) / "tree", self.folder(job) / "prepared"
        if done.is_file() and tree.is_dir():
            return tree
        for other in self._home.glob("retrain/*/tree"):  # of retrains that have ended, and this one's if it is torn
            self._remove(other)
        tree.parent.mkdir(parents=True, exist_ok=True)
        _git(self._root, "worktree", "add", "--quiet", "--force", "-B", branch(job), str(tree), job.git_commit or "HEAD")
        (tree / ".venv").unlink(missing_ok=True)
        (tree / ".venv").symlink_to(sys.prefix)
        _must([sys.executable, "-m", "pipeline.worktree"], tree, self._environment(job))
        done.touch()
        return tree

    def tree(self, job: Job) -> Path:
        """Only what `prepare` laid out whole."""
        tree = self.folder(job) / "tree"
        if not ((self.folder(job) / "prepared").is_file() and tree.is_dir()):
            raise ToolError(str(tree), "the working tree of this retrain is gone", "ask for another retrain")
        return tree

    def commit(self, job: Job, message: str) -> None:
        """Feedback and dvc.lock; nothing where nothing has changed."""
        tree = self.folder(job) / "tree"
        present = [name for name in ("data/feedback", "dvc.lock") if (tree / name).exists()]
        _git(tree, "add", "--", *present)
        if subprocess.run(["git", "diff", "--cached", "--quiet"], cwd=tree, capture_output=True).returncode:
            _git(tree, *IDENTITY, "commit", "--quiet", "--no-verify", "--message", message)

    def start(self, job: Job) -> None:
        """The lock is taken here and inherited: from before the start until the last of them ends it is held."""
        folder = self.folder(job)
        lock = _lock(folder)
        if lock is None:
            return
        try:
            end_all(_processes_of(folder))
            (folder / ENDED).unlink(missing_ok=True)
            (folder / BEGUN).touch()
            limits = [str(self._settings.run_limit_s), str(self._settings.stop_within_s)]
            keeper = [sys.executable, "-m", "monitoring.retrain.run_local", str(folder), *limits, "--"]
            with (folder / "log").open("ab") as log:
                subprocess.Popen(
                    [*keeper, *self._command],
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

    def observe(self, job: Job) -> Seen:
        """By lock and file, not by memory."""
        folder = self.folder(job)
        if _is_locked(folder):
            return Seen("running", progress(_tail(folder / "log")))
        ended = _read(folder / ENDED)
        if ended is None:
            was_there = (folder / BEGUN).is_file()
            return (
                Seen("killed", failure=f"it was killed; its last words:\n{last_words(folder / 'log')}") if was_there else ABSENT
            )
        if ended["code"] == 0:
            return Seen("done")
        return Seen("failed", failure=f"{ended['how']}; its last words:\n{last_words(folder / 'log')}")

    def stop(self, job: Job) -> None:
        """SIGTERM, some patience, SIGKILL."""
        own = list(_processes_of(self.folder(job)))
        for pid in own:
            _signal(pid, signal.SIGTERM)
        deadline = time.monotonic() + self._settings.stop_within_s
        while any(_is_alive(pid) for pid in own) and time.monotonic() < deadline:
            time.sleep(0.05)
        end_all(_processes_of(self.folder(job)))

    def sweep(self, live: int | None) -> None:
        """A controller may have died after it wrote down the end, and before it ended the run."""
        for tree in self._home.glob("retrain/*/tree"):
            if tree.parent.name != str(live) and _is_locked(tree.parent):
                end_all(_processes_of(tree.parent))

    def clean(self, job: Job) -> None:
        """The tree only: git forgets it, log and branch stay."""
        self._remove(self.folder(job) / "tree")

    def _remove(self, tree: Path) -> None:
        end_all(_processes_of(tree.parent))
        (tree.parent / "prepared").unlink(missing_ok=True)
        shutil.rmtree(tree, ignore_errors=True)
        _git(self._root, "worktree", "prune")

    def _environment(self, job: Job) -> dict[str, str]:
        """Alert and decision are data: they travel in the environment and end as tags of the MLflow run."""
        about = {"EVERGREEN_DECISION": str(job.decision_id), "EVERGREEN_ALERT": f"{job.alertname} {job.fingerprint}"}
        here = {"EVERGREEN_HOME": str(self._home), MARK: str(self.folder(job))}
        kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
        return kept | here | {name: value.replace("\0", "") for name, value in about.items()}


def branch(job: Job) -> str:
    """The branch of a retrain; of our own numbers alone, whatever the alert was called."""
    return f"retrain/{job.id}"


def progress(log: str) -> str:
    """What a log of `dvc repro` says last: the stage, and how far its bar is."""
    stages = list(STAGE.finditer(log))
    if not stages:
        return ""
    percents = BAR.findall(log, stages[-1].end()) if not stages[-1]["skipped"] else []
    return f"stage {stages[-1]['name']}" + (f", {percents[-1]} %" if percents else "")


def last_words(path: Path) -> str:
    """The last lines of a log, of a bar its last state only."""
    lines = [line.rpartition("\r")[2] for line in _tail(path).split("\n")]
    return "\n".join([line for line in lines if line.strip()][-LAST_LINES:])


def keep(folder: Path, limit_s: float, stop_within_s: float, command: Sequence[str]) -> None:
    """Run the command; write down how it ended. SIGTERM, and time that is up, end it with all its children."""
    process = subprocess.Popen(list(command), cwd=folder / "tree")
    asked: list[str] = []

    def end(number: int, _frame: object) -> None:
        asked.append("it was stopped" if number == signal.SIGTERM else f"it took longer than {limit_s:g} s")

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, limit_s)
    while process.poll() is None and not asked:
        time.sleep(LOOK_S)
    if asked:
        _stop_group(process, stop_within_s)
    code = process.wait()
    how = asked[0] if asked else f"dvc repro ended with {code}"
    write_json(folder / ENDED, {"code": code or int(bool(asked)), "how": how})


def _stop_group(process: subprocess.Popen[bytes], within_s: float) -> None:
    """Everything of this session but ourselves."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.killpg(0, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout=within_s)
    end_all(pid for pid in _processes_of(Path(os.environ[MARK])) if pid != os.getpid())


def end_all(pids: Iterator[int]) -> None:
    """Kill, and wait until they are gone."""
    own = list(pids)
    for pid in own:
        _signal(pid, signal.SIGKILL)
    while any(_is_alive(pid) for pid in own):
        time.sleep(0.01)


def _processes_of(folder: Path) -> Iterator[int]:
    """Living processes that carry the mark of this run: children of a keeper that was killed too."""
    return (pid for pid in processes_with(MARK, str(folder)) if _is_alive(pid))


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def _signal(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _lock(folder: Path) -> int | None:
    """The lock, or None where somebody holds it."""
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
        found: dict[str, float | str] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return found


def _tail(path: Path) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL_BYTES))
            return file.read().decode("utf-8", errors="replace")
    except FileNotFoundError:
        return ""


def _git(folder: Path, *arguments: str) -> None:
    _must(["git", *arguments], folder, {name: value for name, value in os.environ.items() if not name.startswith("GIT_")})


def _must(command: list[str], folder: Path, environment: dict[str, str]) -> None:
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        words = (done.stderr or done.stdout).strip()[-1000:]
        raise ToolError(" ".join(command[:3]), f"it ended with {done.returncode}: {words}", "see that it works in the clone")


def main() -> None:
    """The keeper."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("limit_s", type=float)
    parser.add_argument("stop_within_s", type=float)
    parser.add_argument("command", nargs="+")
    args = parser.parse_args()
    keep(args.folder, args.limit_s, args.stop_within_s, args.command)


if __name__ == "__main__":
    run_stage(main)
