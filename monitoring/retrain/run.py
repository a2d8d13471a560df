"""The interface for running the pipeline for a retrain. On this machine: `run_local`."""

from pathlib import Path
from typing import Literal, NamedTuple, Protocol

from monitoring.retrain.journal import RetrainJob

RunState = Literal["absent", "running", "done", "failed", "killed"]


class RunStatus(NamedTuple):
    """The status of a pipeline run, whoever started it."""

    state: RunState  # absent: never started, or stopped; killed: it ended without writing its result
    progress: str = ""
    failure: str = ""  # failed or killed: the last lines of its log


class PipelineRun(Protocol):
    """Runs `dvc repro` for one retrain at a time. Every call may be repeated after a crash anywhere."""

    def prepare(self, job: RetrainJob) -> Path:
        """Return the retrain's working tree, at its commit and on its own branch; create it if it is missing."""

    def tree(self, job: RetrainJob) -> Path:
        """Return the prepared tree; raises `ToolError` when it is gone, because its feedback is gone with it."""

    def commit(self, job: RetrainJob, message: str) -> None:
        """Commit the changes in the tree under the controller's name."""

    def start(self, job: RetrainJob) -> None:
        """Start the run unless it is running; first end what an earlier attempt left behind."""

    def observe(self, job: RetrainJob) -> RunStatus:
        """Return the status of the last attempt."""

    def stop(self, job: RetrainJob) -> None:
        """End the run; `observe` says `absent` then."""

    def sweep(self, running_id: int | None) -> None:
        """End every run except that of the running retrain."""

    def clean(self, job: RetrainJob) -> None:
        """Delete the working tree; branch and log stay."""
