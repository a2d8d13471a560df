"""Where the drill of the watching takes place: `make watch` as a person starts it, on free ports, beside a stream of answers.

Monitor, Prometheus, Alertmanager and inbox are the real ones. The answers are not: an invented world's are written straight to
the prediction log, as a gateway writes it, and pages stand for the metrics of gateway and Triton. So drift begins when told to.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from http.client import HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any, NamedTuple
from urllib.request import urlopen

import psutil
import yaml

from pipeline.params import Params
from serving.processes.lifetime import end_with_parent
from serving.processes.ports import free_port
from tests.faults.stack import ROOT, clean_environment, wait_until
from tests.monitoring.homes import Gateway, log_rows, publish
from tests.monitoring.worlds import LABELS, World

REFERENCE_ROWS, FOREIGN = 800, 0.4
WRITES_EVERY_S = 0.5
READY_WITHIN_S, ENDS_WITHIN_S = 120.0, 60.0
PROGRAMS = {
    "monitoring.monitor": "monitor",
    "monitoring.inbox": "inbox",
    "bin/prometheus": "Prometheus",
    "bin/alertmanager": "Alertmanager",
}
JUDGED = {  # a promise that 10,000 draws of so small a window can tell, and that makes a false alarm in a drill unlikely
    "window_rows": 100,
    "poll_s": 0.5,
    "expected_rows_per_week": 20_000,
    "false_alarms_per_week": 0.5,
}


class Stream:
    """Answers of the champion, a segment twice a second; `foreign` of them lie where no class is."""

    def __init__(self, home: Path, rows_per_s: float) -> None:
        self.rows, self.foreign, self.is_away = 0, 0.0, False
        self._count = round(rows_per_s * WRITES_EVERY_S)
        self._world, self._gateway = World(2), Gateway(home, "drill")
        self._over = Event()
        self._thread = Thread(target=self._write, name="stream")

    def begin(self) -> None:
        self._thread.start()

    def end(self) -> None:
        self._over.set()
        self._thread.join()

    def _write(self) -> None:
        while not self._over.wait(WRITES_EVERY_S):
            if not self.is_away:
                rows = self._world.rows(self._count, out_of_distribution=self.foreign)
                self._gateway.write(log_rows(rows, LABELS, at=time.time()))
                self.rows += self._count


class Page:
    """What Prometheus finds where a gateway or Triton would be; it can be taken away."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._server: ThreadingHTTPServer | None = None
        self.begin()

    def begin(self) -> None:
        class Answer(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("content-type", "text/plain; version=0.0.4")
                self.end_headers()
                with suppress(ConnectionError):  # who asked was killed
                    self.wfile.write(b"drill_page 1\n")

            def log_message(self, *_arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), Answer)
        self._thread = Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()

    def end(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()
            self._server = None


class Environment(NamedTuple):
    """All of it, running."""

    params: Params
    home: Path
    process: subprocess.Popen[bytes]  # `make watch`
    stream: Stream
    gateway: Page

    def pid(self, name: str) -> int | None:
        """Of one of `PROGRAMS`; None between two lives."""
        for one in psutil.Process(self.process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                line = " ".join(one.cmdline()[:3])
                if one.status() != psutil.STATUS_ZOMBIE and any(mark in line for mark, own in PROGRAMS.items() if own == name):
                    return one.pid
        return None

    def send(self, name: str, number: signal.Signals) -> None:
        """A signal to one of them."""
        pid = self.pid(name)
        assert pid is not None, f"{name} is not running"
        os.kill(pid, number)

    def inbox(self) -> dict[str, Any] | None:
        """What the inbox shows; None while it does not answer."""
        return _read(f"http://{self.params.alerts.host}:{self.params.alerts.inbox_port}/messages.json")

    def judged(self) -> int | None:
        """Windows that the monitor has judged; None while it does not answer."""
        report = _read(f"http://{self.params.alerts.host}:{self.params.alerts.monitor_port}/report.json")
        return int(report["window"]["judged"]) if report else None

    def said(self) -> str:
        """What `make watch` has said."""
        return (self.home.parent / "watch.log").read_text(encoding="utf-8", errors="replace")


@contextmanager
def watched(params: Params, folder: Path, pace: Mapping[str, int], rows_per_s: float) -> Iterator[Environment]:
    """A version of the invented world, its traffic, and `make watch` on it; all ended, and waited for, when the block ends."""
    home = folder / "live"
    own = drilled(params, pace)
    publish(home, 1, World(1).reference(REFERENCE_ROWS))
    (folder / "params.yaml").write_text(yaml.safe_dump(json.loads(own.model_dump_json()), sort_keys=False), encoding="utf-8")
    (folder / ".tools").symlink_to(ROOT / ".tools")
    stream, pages = Stream(home, rows_per_s), [Page(own.gateway.port), Page(own.serve.metrics_port)]
    try:
        with _make_watch(folder, home) as process:
            environment = Environment(own, home, process, stream, pages[0])
            wait_until(
                lambda: "Ctrl-C stops everything" in environment.said() or process.poll() is not None,
                READY_WITHIN_S,
                environment.said,
            )
            assert process.poll() is None, environment.said()
            stream.begin()
            try:
                yield environment
            finally:
                stream.end()
    finally:
        for page in pages:
            page.end()


def drilled(params: Params, pace: Mapping[str, int]) -> Params:
    """Free ports, another pace, small windows."""
    ports = {f"{name}_port": free_port(params.alerts.host) for name in ("prometheus", "alertmanager", "inbox", "monitor")}
    return params.model_copy(
        update={
            "alerts": type(params.alerts).model_validate(params.alerts.model_dump() | dict(pace) | ports),
            "monitor": params.monitor.model_copy(update=JUDGED),
            "gateway": params.gateway.model_copy(update={"port": free_port(params.gateway.host)}),
            "serve": params.serve.model_copy(update={"metrics_port": free_port(params.serve.host)}),
        }
    )


@contextmanager
def _make_watch(folder: Path, home: Path) -> Iterator[subprocess.Popen[bytes]]:
    with (folder / "watch.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "monitoring.local.watch"],
            cwd=folder,
            env=clean_environment() | {"EVERGREEN_HOME": str(home), "OMP_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=end_with_parent,
        )
    try:
        yield process
    finally:
        for one in psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []:
            with suppress(psutil.NoSuchProcess):
                one.resume()  # one that was stopped could not end
        process.terminate()
        process.wait(timeout=ENDS_WITHIN_S)


def _read(url: str) -> dict[str, Any] | None:
    try:
        with urlopen(url, timeout=2) as page:  # noqa: S310 (of this drill)
            found: dict[str, Any] = json.load(page)
            return found
    except (OSError, ValueError, HTTPException):  # the last: it was killed in the middle of its answer
        return None
