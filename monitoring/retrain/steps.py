"""The steps of a retrain. Each may be killed anywhere and repeated; the controller decides when and by whom."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import structlog

from monitoring.labels.book import read_book
from monitoring.labels.conflicts import find_conflicts
from monitoring.labels.entries import StateOfLabels, delete_expired, read_state_of_labels
from monitoring.labels.feedback_file import FILE, write_dated_files, write_file
from monitoring.retrain.gate.verdict import RunGate, Verdict
from monitoring.retrain.journal import RetrainJob
from monitoring.retrain.run import PipelineRun
from pipeline.errors import ToolError
from pipeline.home import ARTIFACTS, DVC_LOCK, PACKAGE
from pipeline.params import Params
from pipeline.tracking import runs
from serving.release.label_change import labels_of
from serving.release.live.folders import unpark
from serving.release.live.swap import swap
from serving.release.manifest import model_name, repository
from serving.release.publish import differs, publish, release_of
from serving.release.release_table import CheckLease
from state.database import open_state

ReportLabels = Callable[[int, int], None]  # gets the number of withdrawn labels and of open disputes
NO_LABELS = StateOfLabels(0, 0, 0, 0)
Heartbeat = Callable[[str], None]  # gets the progress; raises when the step must stop
log = structlog.get_logger()


class StepResult(NamedTuple):
    """The result of a step: a sentence for people, and columns to set on the retrain."""

    detail: str
    columns: dict[str, Any]


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

    def swap(self, job: RetrainJob, check_lease: CheckLease) -> StepResult:
        """Make the published version champion."""

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
        self, params: Params, home: Path, run: PipelineRun, gate: RunGate, wait: Callable[[], None], report_labels: ReportLabels
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
            self._wait()
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
        return StepResult(f"published version {release.version} as {release.role}", {"version_out": release.version})

    def swap(self, job: RetrainJob, check_lease: CheckLease) -> StepResult:
        """Make the published version champion; the monitor finds the new reference in its folder."""
        version = job.version_out
        if version is None:
            raise ToolError(f"retrain {job.id}", "no version was published", "read its steps in the journal")
        swapped = swap(
            version, self._params, self._home, lambda line: log.info("swap", retrain=job.id, progress=line), check_lease
        )
        serving = "and is served" if swapped.was_served else "and will be served once Triton starts: none is running"
        return StepResult(f"version {version} is champion {serving}", {})

    def is_champion(self, job: RetrainJob) -> bool:
        """Return whether the published version is champion, by the release table."""
        champion = release_of(self._home, "champion")
        return champion is not None and champion.version == job.version_out

    def clean(self, job: RetrainJob) -> None:
        """Delete the working tree; branch and log stay."""
        self._run.clean(job)

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
