"""Running the pipeline for a retrain: what any place that can do it has to offer. This machine: `run_local`."""

from pathlib import Path
from typing import Literal, NamedTuple, Protocol

from monitoring.retrain.journal import Job

Standing = Literal["absent", "running", "done", "failed", "killed"]


class Seen(NamedTuple):
    """A run as it can be observed, whoever started it."""

    standing: Standing  # absent: never started; killed: it ended without a word
    progress: str = ""
    failure: str = ""  # failed or killed: its last words


class Run(Protocol):
    """A place where `dvc repro` runs for one retrain at a time. Everything may be called again after a crash anywhere."""

    def prepare(self, job: Job) -> Path:
        """The working tree of the retrain, at its commit, on a branch of its own; laid out when it is not there."""

    def tree(self, job: Job) -> Path:
        """The tree that was prepared; raises `ToolError` when it is not there any more: then its feedback is gone too."""

    def commit(self, job: Job, message: str) -> None:
        """Commit what has changed in the tree, under the controller's own name."""

    def start(self, job: Job) -> None:
        """Start it, unless it is running; what an earlier attempt left behind is ended first."""

    def observe(self, job: Job) -> Seen:
        """The last attempt as it stands."""

    def stop(self, job: Job) -> None:
        """End what is running, and wait for that."""

    def sweep(self, live: int | None) -> None:
        """End every run but that of the retrain which lives."""

    def clean(self, job: Job) -> None:
        """Take away the working tree; the branch and the log stay."""
