"""The monitor: reads the prediction log, evaluates the champion against its own reference, stores and publishes the results.

One cycle is one transaction: the position in the log, the evidence at that position, and the windows and predictions up to it. A
monitor that is killed at any point continues from the last transaction.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa
import structlog
from threadpoolctl import ThreadpoolController

from monitoring.drift.baseline import Baseline, load_baseline
from monitoring.drift.logged_predictions import LoggedPredictions, champion_predictions, count_by_version_and_role
from monitoring.drift.stream import EvaluatedWindow, WatchedVersion, advance, watch_version
from monitoring.flywheel.disagreement.store import newest_measurements
from monitoring.monitor import store
from monitoring.monitor.log_reader import Batch, cursor_from_json, cursor_to_json, read_new
from monitoring.monitor.metrics import MonitorMetrics
from monitoring.monitor.references import References
from monitoring.monitor.report import Flags, build_report, export_metrics
from monitoring.monitor.snapshot import from_bytes, to_bytes
from pipeline.params import Params
from serving.prediction_log.writer import log_url
from serving.release.release_table import Release, find_release
from state.database import open_state

log = structlog.get_logger()


class MonitorService:
    """The monitor's cycles. The state in memory equals the stored one; after a failure it is loaded again."""

    def __init__(self, params: Params, home: Path, clock: Callable[[], float], model_store: str = "") -> None:
        self.params, self.home, self.clock = params, home, clock
        self.metrics = MonitorMetrics()
        self.report: dict[str, Any] | None = None
        self.failed = ""  # the part that failed in the last cycle
        self._stack = ExitStack()
        self._threads = ThreadpoolController()
        self._stored: store.StoredState | None = None
        self._watched: WatchedVersion | None = None
        self._baseline: Baseline | None = None
        self._correct: Flags = np.zeros(0, dtype=np.bool_)
        self._part = "other"
        self._references = References(home, model_store, self.metrics.reference_fetch)

    def cycle(self) -> bool:
        """Evaluate and publish what is new; return whether more waits. A failure is counted and retried by the next cycle.

        Runs in one thread: the matrices are small, a second thread would only spin on a core that others need, and sums that are
        split among threads differ in their last digits.
        """
        started = self.clock()
        try:
            with self._threads.limit(limits=1), self._step("other"):
                waiting_since = self._read_and_evaluate()
        except Exception as error:
            self.metrics.cycle_failed(self._part)
            self.failed, self._stored = self._part, None
            log.warning("cycle failed", part=self._part, error=str(error)[:500], exc_info=self._part == "other")
            return False
        self.failed = ""
        now = self.clock()
        self.metrics.cycle_succeeded(
            now, took_s=max(0.0, now - started), lag_s=max(0.0, now - waiting_since) if waiting_since else 0.0
        )
        return waiting_since is not None

    def close(self) -> None:
        """Close the database."""
        self._stack.close()

    def _read_and_evaluate(self) -> float | None:
        """Run one cycle and return the time of the oldest waiting row.

        The log is read before the release table: a champion's row is written after its promotion, so no row of a new champion is
        skipped as another version's.
        """
        stored = self._load()
        batch = self._read_batch(stored)
        with self._step("database"):
            champion = self._champion()
        if champion is None:
            return None
        with self._step("reference"):
            baseline = self._baseline_of(champion)
        new = champion_predictions(batch.tables, baseline.version, baseline.order, baseline.reference.sketch.shape[1])
        with self._step("database"):
            watched = self._watched_version(baseline)
        evaluated: list[EvaluatedWindow] = []
        if watched is not None and baseline.calibration is not None:
            now, hold_s = self.clock(), 2.0 * (self.params.alerts.scrape_s + self.params.alerts.evaluate_s)
            watched, evaluated = advance(
                watched, new, baseline.calibration, baseline.estimator, self.params.monitor, now=now, hold_s=hold_s
            )
        with self._step("database"):
            self._save(stored, cursor_to_json(batch.cursor), watched, baseline, new, evaluated)
        self._count_batch(batch)
        self._publish(baseline, watched)
        return batch.waiting_since

    def _read_batch(self, stored: store.StoredState) -> Batch:
        settings = self.params.monitor
        with self._step("log"):
            url = log_url(self.params.log, self.home)
            return read_new(url, cursor_from_json(stored.cursor), at_most=settings.batch_rows, late_s=settings.late_s)

    def _count_batch(self, batch: Batch) -> None:
        for (version, role), rows in count_by_version_and_role(batch.tables).items():
            self.metrics.rows_read(version, role, rows)
        if batch.skipped:
            self.metrics.segments_skipped(len(batch.skipped))
            log.warning("unreadable segments skipped", first=batch.skipped[:3], files=len(batch.skipped))

    @cached_property
    def _engine(self) -> sa.Engine:
        """Open the database on first use, and again if that failed."""
        return self._stack.enter_context(open_state(self.home))

    def _load(self) -> store.StoredState:
        """Return the stored state; after a start, publish it before anything new is read."""
        if self._stored is not None:
            return self._stored
        with self._step("database"):
            with self._reading() as connection:
                stored = store.load_state(connection)
            champion = self._champion()
        self._watched = _restored(stored.watched)
        if champion and self._watched and self._watched.version == champion.version:
            with self._step("reference"):
                baseline = self._baseline_of(champion)
            if baseline.key == self._watched.baseline_key:
                self._publish(baseline, self._watched)
        self._stored = stored
        return stored

    @contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        with self._engine.connect().execution_options(reads_only=True) as connection, connection.begin():
            yield connection

    def _champion(self) -> Release | None:
        with self._reading() as connection:
            return find_release(connection, role="champion")

    def _baseline_of(self, release: Release) -> Baseline:
        """Return the version's baseline; remove the metrics and the report of another version."""
        version = release.version
        if self._baseline is not None and self._baseline.version != version:
            self.metrics.remove_version(self._baseline.version)
            self._baseline, self.report = None, None
        self.metrics.set_watched_version(version)
        if self._baseline is None:
            baseline = load_baseline(self._references.folder(release), version, self.params.monitor)
            with self._reading() as connection:
                self._correct = store.correct_flags(connection, version)
            self._baseline = baseline
            log.info("watching", version=version, calibrated=baseline.calibration is not None)
        return self._baseline

    def _watched_version(self, baseline: Baseline) -> WatchedVersion | None:
        """Return the version's state under this reference and these settings, a new one if there is none."""
        if baseline.calibration is None:
            return None
        if self._watched and (self._watched.version, self._watched.baseline_key) == (baseline.version, baseline.key):
            return self._watched
        with self._reading() as connection:
            windows = store.last_number(connection, baseline.version)
        sketch_size = baseline.reference.sketch.shape[1]
        return watch_version(baseline.version, baseline.key, windows, baseline.calibration, sketch_size=sketch_size)

    def _save(
        self,
        stored: store.StoredState,
        cursor: str,
        watched: WatchedVersion | None,
        baseline: Baseline,
        new: LoggedPredictions,
        evaluated: list[EvaluatedWindow],
    ) -> None:
        """Write all results in one transaction."""
        settings, version = self.params.monitor, baseline.version
        is_new = cursor != stored.cursor or _differs(watched, self._watched)
        with self._engine.begin() as connection:
            if is_new:
                stored = store.save_state(
                    connection, stored._replace(cursor=cursor, watched=to_bytes(watched) if watched else None)
                )
                store.add_windows(connection, version, evaluated, settings)
                store.add_answers(connection, version, list(zip(new.rows.id.tolist(), new.label, strict=True)), settings)
            correct = store.correct_flags(connection, version) if store.add_judgements(connection, version) else None
        self._stored, self._watched = stored, watched
        self._correct = self._correct if correct is None else correct

    def _publish(self, baseline: Baseline, watched: WatchedVersion | None) -> None:
        settings, now = self.params.monitor, self.clock()
        with self._step("database"), self._reading() as connection:
            measured = newest_measurements(connection, baseline.version, since=now - self.params.flywheel.reach_s)
        self.metrics.disagreement.set(measured)
        export_metrics(self.metrics, baseline, watched, self._correct, settings, now=now)
        self.report = build_report(baseline, watched, self._correct, settings, now=now)

    @contextmanager
    def _step(self, part: str) -> Iterator[None]:
        """Remember which part is at work, so that a failure is counted under it."""
        outer, self._part = self._part, part
        yield
        self._part = outer


def _restored(data: bytes | None) -> WatchedVersion | None:
    """Return the stored state; None, so that evidence starts afresh, if it cannot be read (another release wrote it)."""
    try:
        return from_bytes(data) if data else None
    except Exception as error:
        log.warning("the stored evidence cannot be read, evidence starts afresh", error=str(error)[:300])
        return None


def _differs(new: WatchedVersion | None, old: WatchedVersion | None) -> bool:
    """Return whether there is something to store without new rows: passing time alone can end an alarm."""
    return (new and (new.baseline_key, new.version, new.signals)) != (old and (old.baseline_key, old.version, old.signals))
