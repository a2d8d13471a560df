"""The steps of a retrain. Each may be killed anywhere and repeated; the controller decides when and by whom."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import structlog

from monitoring.labels.book import read_book
from monitoring.labels.conflicts import find_conflicts
from monitoring.labels.entries import StateOfLabels, delete_expired, read_state_of_labels
from monitoring.labels.feedback_file import FILE, write_dated_files, write_file
from monitoring.release.evidence import describe_stage
from monitoring.release.facts import mlflow_verdict
from monitoring.release.gradual import GradualRelease, Heartbeat, ReleaseAccess, ReleaseEnd, end_of
from monitoring.release.looks import LogWatch
from monitoring.release.moves import LocalServing
from monitoring.release.runs import ReleaseOutcome, Stage, read_run
from monitoring.retrain.gate.verdict import RunGate, Verdict
from monitoring.retrain.journal import RetrainJob
from monitoring.retrain.run import PipelineRun
from monitoring.retrain_activity import RELEASE_STEPS
from pipeline.errors import ToolError
from pipeline.home import ARTIFACTS, DVC_LOCK, PACKAGE
from pipeline.params import Params
from pipeline.tracking import runs
from serving.release.label_change import labels_of
from serving.release.live.folders import unpark
from serving.release.manifest import model_name, read_lineage, repository, version_folder
from serving.release.publish import differs, publish, release_of
from serving.release.release_table import CheckLease
from state.database import open_state, read_only

ReportLabels = Callable[[int, int], None]  # gets the number of withdrawn labels and of open disputes
NO_LABELS = StateOfLabels(0, 0, 0, 0)
log = structlog.get_logger()


class StepResult(NamedTuple):
    """The result of a step: a sentence for people, and columns to set on the retrain."""

    detail: str
    columns: dict[str, Any]


def version_of(job: RetrainJob) -> int:
    """Return the published version; raises `ToolError` without one."""
    if job.version_out is None:
        raise ToolError(f"retrain {job.id}", "no version was published", "read its steps in the journal")
    return job.version_out


class Steps(Protocol):
    """Steps that the controller delegates."""

    def collect(self, job: RetrainJob) -> StepResult:
        """Prepare the working tree with all feedback in it."""

    def reproduce(self, job: RetrainJob, heartbeat: Heartbeat) -> StepResult:
        """Run the pipeline, or wait for a run that exists."""

    def gate(self, job: RetrainJob) -> Verdict:
        """Compare the candidate with the champion."""

    def publish(self, job: RetrainJob, check_lease: CheckLease) -> StepResult:
        """Publish the candidate; column `version_out` is its version."""

    def shadow(self, job: RetrainJob, check_lease: CheckLease, heartbeat: Heartbeat) -> StepResult | ReleaseEnd:
        """Copy texts to the published version until it is known to be good enough; it answers nobody yet."""

    def canary(self, job: RetrainJob, check_lease: CheckLease, heartbeat: Heartbeat) -> StepResult | ReleaseEnd:
        """Let it answer more and more units, while every guardrail holds."""

    def promote(self, job: RetrainJob, check_lease: CheckLease) -> StepResult | ReleaseEnd:
        """Make the published version champion."""

    def abandon(self, job: RetrainJob, check_lease: CheckLease, outcome: ReleaseOutcome, why: str) -> None:
        """End a release that cannot go on, if one runs: the champion gets everything."""

    def is_champion(self, job: RetrainJob) -> bool:
        """Return whether the published version is champion now."""

    def clean(self, job: RetrainJob) -> None:
        """Delete what nobody needs after the end."""

    def stop(self, job: RetrainJob) -> None:
        """End the pipeline's run of a retrain that this controller gives back."""

    def sweep(self, running_id: int | None) -> int:
        """End pipeline runs of ended retrains, close MLflow runs whose owner is gone, and return how many were closed."""


class LocalSteps:
    """Steps on this machine, with the pipeline wherever `run` runs it."""

    def __init__(
        self,
        params: Params,
        home: Path,
        run: PipelineRun,
        gate: RunGate,
        wait: Callable[[float], None],
        report_labels: ReportLabels,
    ) -> None:
        self._params, self._home, self._run, self._gate, self._wait = params, home, run, gate, wait
        self._report_labels, self._measured = report_labels, NO_LABELS

    def collect(self, job: RetrainJob) -> StepResult:
        """Write the rows that all feedback makes to the home and to the tree."""
        tree = self._run.prepare(job)
        champion = self._champion_folder()
        labels = labels_of(champion)
        book = read_book(self._params, self._home, tree, champion, labels)
        merged = book.merge(labels, self._params)
        write_file(self._home / "retrain" / FILE, merged.rows)
        write_dated_files(tree / "data" / "feedback", merged.rows)
        self._run.commit(job, f"Feedback for retrain {job.id}: {len(merged.rows)} labelled texts")
        conflicts = len(find_conflicts(book.opinions, merged.rows))
        summary = f"{merged.summary}; people disagree on {conflicts}" if conflicts else merged.summary
        log.info("feedback collected", retrain=job.id, summary=summary)
        return StepResult(summary, {"labels": len(merged.rows), "feedback_upto": book.last_id})

    def reproduce(self, job: RetrainJob, heartbeat: Heartbeat) -> StepResult:
        """Wait for a run that exists, or start one."""
        tree = self._run.tree(job)
        if self._run.observe(job).state not in ("running", "done"):
            self._run.start(job)
        while (status := self._run.observe(job)).state in ("running", "absent"):
            heartbeat(status.progress)
            if status.state == "absent":
                self._run.start(job)
            self._wait(self._params.retrain.poll_s)
        if status.state != "done":
            raise ToolError("dvc repro", status.failure, f"read the log in {self._home / 'retrain' / str(job.id)}")
        self._run.commit(job, f"Retrain {job.id}: output of dvc repro")
        return StepResult(f"model made in {tree}", {})

    def gate(self, job: RetrainJob) -> Verdict:
        """Run the gate, unless the candidate is the champion itself."""
        tree = self._run.tree(job)
        package, release = tree / PACKAGE, release_of(self._home, "champion")
        if release and not differs(release, package):
            return Verdict(False, ("unchanged: the candidate is identical to the champion",), {})
        champion = unpark(self._home, release.version) if release else None
        return self._gate(package, champion, split=tree / ARTIFACTS / "split", feedback=tree / "data" / "feedback")

    def publish(self, job: RetrainJob, check_lease: CheckLease) -> StepResult:
        """Publish to registry, live repository and release table."""
        tree = self._run.tree(job)
        package, lock = tree / PACKAGE, tree / DVC_LOCK
        name = self._params.publish.name
        published = publish(package, lock, name, self._home, decision=job.decision_id, check_lease=check_lease)
        release = published.release
        at_once = {"step": RELEASE_STEPS[-1]} if self._params.release.how == "at_once" else {}
        return StepResult(f"published version {release.version} as {release.role}", {"version_out": release.version} | at_once)

    def shadow(self, job: RetrainJob, check_lease: CheckLease, heartbeat: Heartbeat) -> StepResult | ReleaseEnd:
        """Begin the version's release, and watch its answers to copies."""
        return self._work(job, "shadow", check_lease, heartbeat)

    def canary(self, job: RetrainJob, check_lease: CheckLease, heartbeat: Heartbeat) -> StepResult | ReleaseEnd:
        """Watch its answers to callers."""
        return self._work(job, "canary", check_lease, heartbeat)

    def promote(self, job: RetrainJob, check_lease: CheckLease) -> StepResult | ReleaseEnd:
        """Make the published version champion; the monitor finds the new reference in its folder."""
        version = version_of(job)
        with self._releasing(job, check_lease) as release:
            run = release.read(job.id)
            if run is None:
                is_served = self._serving(job).promote(version, check_lease, lambda _connection: None)
            elif end := end_of(run):
                return end
            else:
                run, is_served = release.promote(run)
                if end := end_of(run):
                    return end
        serving = "and is served" if is_served else "and will be served once Triton starts: none is running"
        return StepResult(f"version {version} is champion {serving}", {})

    def abandon(self, job: RetrainJob, check_lease: CheckLease, outcome: ReleaseOutcome, why: str) -> None:
        """End the release of a retrain that cannot go on."""
        with self._releasing(job, check_lease) as release:
            if run := release.read(job.id):
                release.take_back(run, outcome, why)

    def _work(self, job: RetrainJob, stage: Stage, check_lease: CheckLease, heartbeat: Heartbeat) -> StepResult | ReleaseEnd:
        with self._releasing(job, check_lease) as release:
            run = release.begin(job.id, version_of(job))
            if run is None:
                return StepResult(f"version {job.version_out} is champion already", {})
            if run.outcome is None:
                run = release.work(run, stage, heartbeat)
            elif run.outcome != "promoted":
                release.clean_up(run)
        return end_of(run) or StepResult(describe_stage(run, self._params.release), {})

    @contextmanager
    def _releasing(self, job: RetrainJob, check_lease: CheckLease) -> Iterator[GradualRelease]:
        with open_state(self._home) as engine:
            access = ReleaseAccess(engine.begin, partial(read_only, engine), check_lease)
            watching = partial(LogWatch, self._params, self._home)
            settings = self._params.release
            yield GradualRelease(access, self._serving(job), watching, settings, clock=time.time, wait=self._wait)

    def _serving(self, job: RetrainJob) -> LocalServing:
        return LocalServing(self._params, self._home, lambda line: log.info("release", retrain=job.id, progress=line))

    def is_champion(self, job: RetrainJob) -> bool:
        """Return whether the published version is champion, by the release table."""
        champion = release_of(self._home, "champion")
        return champion is not None and champion.version == job.version_out

    def clean(self, job: RetrainJob) -> None:
        """Delete the working tree; branch and log stay. Tell MLflow what became of the release."""
        self._run.clean(job)
        with open_state(self._home) as engine, read_only(engine) as connection:
            released = read_run(connection, job.id)
        made = read_lineage(version_folder(self._home, released.version)) if released else {}
        if released and (run_id := made.get("mlflow_run_id")):
            verdict = describe_stage(released, self._params.release)
            runs.note_release(run_id, self._home, verdict, *mlflow_verdict(released, self._params.release))

    def stop(self, job: RetrainJob) -> None:
        """End the run of `dvc repro`; another controller would start it again."""
        self._run.stop(job)

    def sweep(self, running_id: int | None) -> int:
        """End left-over runs on this machine, close left-over MLflow runs of this home, and measure the labellers."""
        self._run.sweep(running_id)
        closed = len(runs.close_orphans(self._home))
        self._measure_labellers()
        return closed

    def _measure_labellers(self) -> None:
        """Delete expired labels; where labels have changed, score the labellers: decisions count only reliable ones."""
        with open_state(self._home) as engine, engine.begin() as connection:
            delete_expired(connection, self._params.labels.retention_s)
            state = read_state_of_labels(connection)
        if state != self._measured:
            champion = self._champion_folder()
            book = read_book(self._params, self._home, Path(), champion, labels_of(champion))
            withdrawn = sum(withdrawn for _, withdrawn in book.counts.values())
            self._report_labels(withdrawn, book.contradicted_rows())
        self._measured = state

    def _champion_folder(self) -> Path | None:
        release = release_of(self._home, "champion")
        return repository(self._home) / model_name(release.version) if release else None
