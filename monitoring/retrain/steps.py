"""The steps of a retrain, done: each may be killed anywhere and done again. When, and by whom, is the controller's business."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import structlog

from monitoring.retrain.feedback_rows import FILE, collect, find_texts, read_file, read_opinions, write_file
from monitoring.retrain.gate.verdict import Gate, Verdict
from monitoring.retrain.journal import Job
from monitoring.retrain.run import Run
from monitoring.retrain.situation import labels_of
from pipeline import tracking
from pipeline.errors import ToolError
from pipeline.params import Params
from serving.release.manifest import model_name
from serving.release.publish import differs, publish, release_of
from serving.release.release_table import CheckLease
from serving.release.swap import swap, unpark
from state.database import open_state

Beat = Callable[[str], None]  # is told progress; raises when the work is to stop
log = structlog.get_logger()


class Done(NamedTuple):
    """A step that was done: for people, and columns of the retrain."""

    detail: str
    learnt: dict[str, Any]


class Work(Protocol):
    """What the controller has done for a retrain."""

    def collect(self, job: Job) -> Done:
        """Lay out the working tree with all feedback in it."""

    def reproduce(self, job: Job, beat: Beat) -> Done:
        """Run the pipeline, or go on with a run that is there."""

    def gate(self, job: Job) -> Verdict:
        """Judge the candidate."""

    def publish(self, job: Job, check_lease: CheckLease) -> Done:
        """Make the candidate a version; `version_out` is its number."""

    def swap(self, job: Job, check_lease: CheckLease) -> Done:
        """Make the version champion; its reference comes with it."""

    def is_champion(self, job: Job) -> bool:
        """Whether the version that was published is champion now."""

    def clean(self, job: Job) -> None:
        """After the end: take away what nobody needs."""

    def sweep(self, live: int | None) -> int:
        """End runs of the pipeline whose retrain is over, and runs of MLflow whose owner is gone; how many of these."""


class WorkHere:
    """Work on this machine, or on whatever `run` leads to; the gate is handed in."""

    def __init__(self, params: Params, home: Path, run: Run, gate: Gate, wait: Callable[[], None]) -> None:
        self._params, self._home, self._run, self._gate, self._wait = params, home, run, gate, wait

    def collect(self, job: Job) -> Done:
        """The cumulative file lies in the home and is copied into the tree: labels outlive the log they were given on."""
        tree = self._run.prepare(job)
        kept = self._home / "retrain" / FILE
        with open_state(self._home) as engine, engine.begin() as connection:
            opinions = read_opinions(connection)
        champion = self._champion()
        labels = labels_of(champion)
        found = collect(read_file(kept), opinions, find_texts(self._params, self._home, opinions), labels, self._params)
        write_file(kept, found.rows)
        write_file(tree / "data" / "feedback" / FILE, found.rows)
        self._run.commit(job, f"Feedback for retrain {job.id}: {len(found.rows)} labelled texts")
        log.info("feedback collected", retrain=job.id, told=found.told)
        return Done(found.told, {"labels": len(found.rows), "feedback_upto": found.upto})

    def reproduce(self, job: Job, beat: Beat) -> Done:
        """A run that is there is gone on with, whoever started it."""
        tree = self._run.tree(job)
        if self._run.observe(job).standing not in ("running", "done"):
            self._run.start(job)
        while (seen := self._run.observe(job)).standing in ("running", "absent"):
            if seen.standing == "absent":
                self._run.start(job)
            beat(seen.progress)
            self._wait()
        if seen.standing != "done":
            raise ToolError("dvc repro", seen.failure, f"read the log below {self._home / 'retrain' / str(job.id)}")
        self._run.commit(job, f"Retrain {job.id}: what dvc repro made")
        return Done(f"made in {tree}", {})

    def gate(self, job: Job) -> Verdict:
        """What the champion is already needs no judge."""
        tree = self._run.tree(job)
        package, release = tree / "artifacts" / "package", release_of(self._home, "champion")
        if release and not differs(release, package):
            return Verdict(False, ("unchanged: the candidate is the champion, byte for byte",), {})
        champion = unpark(self._home, release.version) if release else None
        return self._gate(package, champion, split=tree / "artifacts" / "split", feedback=tree / "data" / "feedback")

    def publish(self, job: Job, check_lease: CheckLease) -> Done:
        """Registry, live repository, release table."""
        tree = self._run.tree(job)
        name = self._params.publish.name
        done = publish(
            tree / "artifacts" / "package", tree / "dvc.lock", name, self._home, decision=job.decision_id, check_lease=check_lease
        )
        version = done.release.version
        return Done(f"version {version}, {done.release.role}", {"version_out": version})

    def swap(self, job: Job, check_lease: CheckLease) -> Done:
        """The version that `publish` told; the monitor follows the champion, whose reference lies in its folder."""
        version = job.version_out
        if version is None:
            raise ToolError(f"retrain {job.id}", "no version was published", "read its steps in the journal")
        done = swap(version, self._params, self._home, lambda line: log.info("swap", retrain=job.id, told=line), check_lease)
        where = "and served" if done.was_served else "and no Triton answers: it is served from its next start"
        return Done(f"version {version} is champion, {where}", {})

    def is_champion(self, job: Job) -> bool:
        """By the release table."""
        champion = release_of(self._home, "champion")
        return champion is not None and champion.version == job.version_out

    def clean(self, job: Job) -> None:
        """The working tree; branch and log stay."""
        self._run.clean(job)

    def sweep(self, live: int | None) -> int:
        """On this machine, and in MLflow's store of this home."""
        self._run.sweep(live)
        return len(tracking.close_orphans(self._home))

    def _champion(self) -> Path | None:
        release = release_of(self._home, "champion")
        return self._home / "models" / model_name(release.version) if release else None
