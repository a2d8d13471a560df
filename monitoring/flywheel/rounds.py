"""Makes a round in a child process whenever one is due, and measures disagreement between rounds. Exports the round's counts.

A failure is counted, logged and tried later.
"""

import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import sqlalchemy as sa
import structlog

from monitoring.flywheel.disagreement.store import newest_measurements
from monitoring.flywheel.metrics import FlywheelMetrics
from monitoring.flywheel.queue.round import read_summary
from monitoring.flywheel.schedule import due_at, read_failed_at, store_failure
from pipeline.lifetime import ChildProcess, start_child
from pipeline.params import Params
from serving.prediction_log.segments import newest_segment_files
from serving.prediction_log.writer import log_url
from serving.release.release_table import find_release, has_releases
from state.database import read_state
from state.tables import disagreements

LOOK_S = 0.2  # between two looks at a round that runs
ENDS_WITHIN_S = 5.0  # after SIGTERM
OUTPUT = "flywheel/round.log"  # of the last round
TAIL_CHARS = 500

log = structlog.get_logger()


class Rounds:
    """The rounds of a home; `command` makes one and exits with 0, `compare` measures disagreement (empty: never)."""

    def __init__(
        self, params: Params, home: Path, clock: Callable[[], float], command: Sequence[str], compare: Sequence[str] = ()
    ) -> None:
        self.params, self.home, self.metrics = params, home, FlywheelMetrics()
        self._clock, self._command, self._compare = clock, command, compare
        self._compared_at = 0.0  # last attempt of this process

    def look(self, stopping: threading.Event) -> bool:
        """Make a round if one is due; return whether one was made. Never raises."""
        try:
            return self._look(stopping)
        except Exception as error:
            self._failed(f"{type(error).__name__}: {error}")
            return False

    def _look(self, stopping: threading.Event) -> bool:
        summary, now = read_summary(self.home), self._clock()
        if summary:
            self.metrics.set_round(summary)
        due = due_at(summary and summary.made_at, read_failed_at(self.home), now, self.params.flywheel)
        if due > now:
            self._compare_if_due(stopping, now)
            return False
        if not self._has_enough_answers():
            return False
        began = time.monotonic()
        code = self._run(self._command, stopping)
        if stopping.is_set():
            return False
        if code != 0:
            self._failed(f"exit code {code}: {self._last_output()}")
            return False
        store_failure(self.home, None)
        self.metrics.set_duration(time.monotonic() - began)
        if made := read_summary(self.home):
            self.metrics.set_round(made)
            log.info("a round was made", texts=made.texts, clusters=made.clusters, took_s=round(time.monotonic() - began, 1))
        return True

    def _compare_if_due(self, stopping: threading.Event, now: float) -> None:
        """Measure disagreement when the last attempt and the last measurement are old; a failure is tried again as late."""
        every_s = self.params.flywheel.compare_every_s
        if not self._compare or now < self._compared_at + every_s or now < self._last_measured() + every_s:
            return
        self._compared_at = now
        if self._run(self._compare, stopping) != 0 and not stopping.is_set():
            log.warning("disagreement could not be measured", reason=self._last_output()[-TAIL_CHARS:], again_in_s=every_s)

    def _last_measured(self) -> float:
        with read_state(self.home) as connection:
            champion = find_release(connection, role="champion") if connection and has_releases(connection) else None
            if not connection or not champion or not sa.inspect(connection).has_table(disagreements.name):
                return 0.0
            measured = newest_measurements(connection, champion.version, since=0.0)
        return max((row.measured_at for row in measured), default=0.0)

    def _failed(self, reason: str) -> None:
        self.metrics.failed()
        log.warning("a round failed", reason=reason[-TAIL_CHARS:], again_in_s=self.params.flywheel.retry_s)
        try:
            store_failure(self.home, self._clock())
        except OSError as error:
            log.warning("the failure could not be stored", error=str(error)[:300])

    def _run(self, command: Sequence[str], stopping: threading.Event) -> int:
        """Run a command to its end, to its time limit or until this process stops; return its exit code."""
        output = self.home / OUTPUT
        output.parent.mkdir(parents=True, exist_ok=True)
        with output.open("wb") as file:
            output.chmod(0o600)
            child = start_child(command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT)
        deadline = time.monotonic() + self.params.flywheel.round_limit_s
        while child.poll() is None and time.monotonic() < deadline and not stopping.is_set():
            stopping.wait(LOOK_S)
        return _end(child)

    def _last_output(self) -> str:
        lines = (self.home / OUTPUT).read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return lines[-1] if lines else ""

    def _has_enough_answers(self) -> bool:
        """Return whether the champion has given the answers that a round needs; reads two columns of the newest segments."""
        with read_state(self.home) as connection:
            champion = find_release(connection, role="champion") if connection and has_releases(connection) else None
        if champion is None:
            return False
        settings, found = self.params.flywheel, 0
        url, since = log_url(self.params.log, self.home), self._clock() - settings.reach_s
        for _path, data in newest_segment_files(url, since=since, on_skipped=lambda _path: None):
            found += _count_answers(data, champion.version)
            if found >= settings.min_answers:
                return True
        return False


def _count_answers(data: bytes, version: int) -> int:
    """Count a version's answers as champion; a file that is no segment has none."""
    try:
        table = pq.ParquetFile(pa.BufferReader(data)).read(["version", "role"], use_threads=False)
    except (pa.ArrowException, OSError, KeyError):
        return 0
    is_answer = pc.and_(pc.equal(table["version"], version), pc.equal(table["role"], "champion"))
    return int(pc.sum(is_answer).as_py() or 0)


def _end(child: ChildProcess) -> int:
    """Return the exit code; end a child that still runs."""
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(timeout=ENDS_WITHIN_S)
        except subprocess.TimeoutExpired:
            child.kill()
    return int(child.wait())
