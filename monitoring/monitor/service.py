"""The monitor: reads the prediction log on, judges the champion against its own reference, keeps what it found, tells it.

One cycle is one transaction: how far the log was read, the evidence after that, and the windows and answers on the way. A monitor
that is killed anywhere goes on from the last of them.
"""

import argparse
import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa
import structlog
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from threadpoolctl import ThreadpoolController

from monitoring.drift.answers import Answers, answers, counted
from monitoring.drift.baseline import Judge, find_judge
from monitoring.drift.stream import Judged, Watched, begin, step
from monitoring.monitor import store as signals
from monitoring.monitor.log_reader import as_text, from_text, read_on
from monitoring.monitor.metrics import Exporter, address
from monitoring.monitor.references import References, store_url
from monitoring.monitor.report import Flags, export, report
from monitoring.monitor.snapshot import from_bytes, to_bytes
from pipeline.errors import ToolError
from pipeline.home import find_home
from pipeline.params import Params, load_params
from serving.prediction_log.writer import log_url
from serving.processes.http_service import run_http_service
from serving.processes.json_logs import log_in_json
from serving.release.release_table import Release, find_release
from state.database import open_state

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OF_THE_MONITOR = ("localhost", "127.0.0.1", "monitor")

log = structlog.get_logger()


class Monitor:
    """What is known in memory is what was written last; after a failure it is read anew."""

    def __init__(self, params: Params, home: Path, clock: Callable[[], float], store: str = "") -> None:
        self.params, self.home, self.clock = params, home, clock
        self.exporter = Exporter()
        self.report: dict[str, Any] | None = None
        self.failed = ""  # the part that ended the last cycle
        self._stack = ExitStack()
        self._threads = ThreadpoolController()
        self._kept: signals.Kept | None = None
        self._watched: Watched | None = None
        self._judge: Judge | None = None
        self._correct: Flags = np.zeros(0, dtype=np.bool_)
        self._part = "other"
        self._references = References(home, store, self.exporter.reference_asked)

    def cycle(self) -> bool:
        """Judge what came new, and tell; whether more waits. What fails is counted, and tried again by the next cycle.

        In one thread: the matrices are small, a second one would only spin on a core that others need, and sums that are shared
        among threads differ in their last digits.
        """
        started = self.clock()
        try:
            with self._threads.limit(limits=1), self._step("other"):
                waiting_since = self._read_and_judge()
        except Exception as error:
            self.exporter.failed(self._part)
            self.failed, self._kept = self._part, None
            log.warning("a cycle failed", part=self._part, error=str(error)[:500], exc_info=self._part == "other")
            return False
        self.failed = ""
        now = self.clock()
        self.exporter.succeeded(
            now, took_s=max(0.0, now - started), lag_s=max(0.0, now - waiting_since) if waiting_since else 0.0
        )
        return waiting_since is not None

    def close(self) -> None:
        """Let the database go."""
        self._stack.close()

    def _read_and_judge(self) -> float | None:
        """One cycle; the moment of the oldest row that waits. The log is read before the release table: a row of a champion is
        written after its promotion, so none of a new champion is taken for one of no interest."""
        settings = self.params.monitor
        kept = self._load()
        with self._step("log"):
            url = log_url(self.params.log, self.home)
            batch = read_on(url, from_text(kept.cursor), at_most=settings.batch_rows, late_s=settings.late_s)
        with self._step("database"):
            champion = self._champion()
        if champion is None:
            return None
        with self._step("reference"):
            judge = self._judge_of(champion)
        new = answers(batch.tables, judge.version, judge.order, judge.reference.sketch.shape[1])
        with self._step("database"):
            watched = self._watched_by(judge)
        judged: list[Judged] = []
        if watched is not None and judge.calibrated is not None:
            now, hold_s = self.clock(), 2.0 * (self.params.alerts.scrape_s + self.params.alerts.evaluate_s)
            watched, judged = step(watched, new, judge.calibrated, judge.known, settings, now=now, hold_s=hold_s)
        with self._step("database"):
            self._write(kept, as_text(batch.cursor), watched, judge, new, judged)
        for (version, role), rows in counted(batch.tables).items():
            self.exporter.read(version, role, rows)
        if batch.skipped:
            self.exporter.skipped(len(batch.skipped))
            log.warning("segments that cannot be read", first=batch.skipped[:3], files=len(batch.skipped))
        self._tell(judge, watched)
        return batch.waiting_since

    @cached_property
    def _engine(self) -> sa.Engine:
        """Opened when it is first asked for, and again where that failed."""
        return self._stack.enter_context(open_state(self.home))

    def _load(self) -> signals.Kept:
        """What was written last, by whomever; after a start it is told before anything new is read."""
        if self._kept is not None:
            return self._kept
        with self._step("database"):
            with self._reading() as connection:
                kept = signals.load(connection)
            champion = self._champion()
        self._watched = _watched_again(kept.watched)
        if champion and self._watched and self._watched.version == champion.version:
            with self._step("reference"):
                judge = self._judge_of(champion)
            if judge.key == self._watched.key:
                self._tell(judge, self._watched)
        self._kept = kept
        return kept

    @contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        with self._engine.connect().execution_options(reads_only=True) as connection, connection.begin():
            yield connection

    def _champion(self) -> Release | None:
        with self._reading() as connection:
            return find_release(connection, role="champion")

    def _judge_of(self, release: Release) -> Judge:
        """The version's judge; of another version than before nothing is said any more."""
        version = release.version
        if self._judge is not None and self._judge.version != version:
            self.exporter.forget(self._judge.version)
            self._judge, self.report = None, None
        self.exporter.watched(version)
        if self._judge is None:
            judge = find_judge(self._references.folder(release), version, self.params.monitor)
            with self._reading() as connection:
                self._correct = signals.correct_flags(connection, version)
            self._judge = judge
            log.info("watching", version=version, calibrated=judge.calibrated is not None)
        return self._judge

    def _watched_by(self, judge: Judge) -> Watched | None:
        """What was known of the version under this reference and these settings, or nothing yet."""
        if judge.calibrated is None:
            return None
        if self._watched and (self._watched.version, self._watched.key) == (judge.version, judge.key):
            return self._watched
        with self._reading() as connection:
            number = signals.last_number(connection, judge.version)
        return begin(judge.version, judge.key, number, judge.calibrated, sketch_size=judge.reference.sketch.shape[1])

    def _write(
        self, kept: signals.Kept, cursor: str, watched: Watched | None, judge: Judge, new: Answers, judged: list[Judged]
    ) -> None:
        """All of it, or nothing."""
        settings, version = self.params.monitor, judge.version
        is_new = cursor != kept.cursor or _differs(watched, self._watched)
        with self._engine.begin() as connection:
            if is_new:
                kept = signals.save(connection, kept._replace(cursor=cursor, watched=to_bytes(watched) if watched else None))
                signals.add_windows(connection, version, judged, settings)
                signals.add_answers(connection, version, list(zip(new.rows.id.tolist(), new.label, strict=True)), settings)
            correct = signals.correct_flags(connection, version) if signals.add_judgements(connection, version) else None
        self._kept, self._watched = kept, watched
        self._correct = self._correct if correct is None else correct

    def _tell(self, judge: Judge, watched: Watched | None) -> None:
        settings, now = self.params.monitor, self.clock()
        export(self.exporter, judge, watched, self._correct, settings, now=now)
        self.report = report(judge, watched, self._correct, settings, now=now)

    @contextmanager
    def _step(self, part: str) -> Iterator[None]:
        """Remembers which part was at work when something fails."""
        before, self._part = self._part, part
        yield
        self._part = before


def create_app(monitor: Monitor, ended: threading.Event, hosts: tuple[str, ...]) -> Starlette:
    """/metrics and /report.json, while the cycles run in a thread."""

    async def metrics(_request: Request) -> Response:
        return Response(monitor.exporter.text(), media_type=TEXT)

    async def report_json(request: Request) -> Response:
        if request.url.hostname not in hosts:  # a page elsewhere whose name leads here must not read customers' texts
            return Response("no such host", 400)
        if monitor.report is None:
            return JSONResponse({"detail": "nothing was judged yet"}, 503)
        return JSONResponse(monitor.report, headers={"cache-control": "no-store"})

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        running = asyncio.create_task(asyncio.to_thread(run, monitor, ended))
        yield
        ended.set()
        await running

    return Starlette(routes=[Route("/metrics", metrics), Route("/report.json", report_json)], lifespan=lifespan)


def run(monitor: Monitor, ended: threading.Event) -> None:
    """Cycle after cycle, at once while more waits."""
    while not ended.is_set():
        if not monitor.cycle():
            ended.wait(monitor.params.monitor.poll_s)


def once(monitor: Monitor) -> None:
    """Until nothing waits; prints the report."""
    while monitor.cycle():
        pass
    if monitor.failed:
        raise ToolError(f"the monitor's {monitor.failed}", "the cycle could not be ended", "read what it said before this")
    print(json.dumps(monitor.report, indent=2, ensure_ascii=False))


def main() -> None:
    """`python -m monitoring.monitor`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--once", action="store_true", help="judge what is there, print the report, end")
    args = parser.parse_args()
    log_in_json()
    params = load_params()
    monitor = Monitor(params, find_home(), time.time, store_url())
    try:
        if args.once:
            once(monitor)
            return
        app = create_app(monitor, threading.Event(), (*OF_THE_MONITOR, params.alerts.host))
        run_http_service(app, *address(params.alerts))
    finally:
        monitor.close()


def _watched_again(data: bytes | None) -> Watched | None:
    """What was watched; what cannot be read (written by another release) is begun anew."""
    try:
        return from_bytes(data) if data else None
    except Exception as error:
        log.warning("the evidence that was kept cannot be read and begins anew", error=str(error)[:300])
        return None


def _differs(one: Watched | None, other: Watched | None) -> bool:
    """Whether there is something to keep, where no row came new: time alone may have passed."""
    return (one and (one.key, one.version, one.shown)) != (other and (other.key, other.version, other.shown))
