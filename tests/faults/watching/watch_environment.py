"""Run `make watch` on free ports, beside a simulated stream of answers, for the drill of the monitoring.

Monitor, Prometheus, Alertmanager and inbox are real. The simulated answers go straight to the prediction log, as a gateway writes
it, and static pages replace the metrics of gateway and Triton. So the drill chooses when drift begins.
"""

import json
import os
import signal
import subprocess
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
from serving.processes.ports import free_port
from tests.faults.child import start_module
from tests.faults.stack import ROOT, clean_environment, wait_until
from tests.monitoring.homes import Gateway, log_rows, publish
from tests.monitoring.worlds import LABELS, World

REFERENCE_ROWS, FOREIGN = 800, 0.4
WRITES_EVERY_S = 0.5
READY_TIMEOUT_S, END_TIMEOUT_S = 120.0, 60.0
PROGRAMS = {
    "monitoring.monitor": "monitor",
    "monitoring.inbox": "inbox",
    "bin/prometheus": "Prometheus",
    "bin/alertmanager": "Alertmanager",
}
MONITOR_SETTINGS = {  # 10,000 draws of a small window can calibrate this promise, and a false alarm during a drill is unlikely
    "window_rows": 100,
    "poll_s": 0.5,
    "expected_rows_per_week": 20_000,
    "false_alarms_per_week": 0.5,
}


class Stream:
    """Write the champion's answers, a segment twice a second; a share `foreign` of them is out of distribution."""

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
    """Serve a static page of metrics in place of a gateway or Triton; it can be stopped."""

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
                with suppress(ConnectionError):  # Prometheus was killed
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
    """Hold the running parts."""

    params: Params
    home: Path
    process: subprocess.Popen[bytes]  # `make watch`
    stream: Stream
    gateway: Page

    def pid(self, name: str) -> int | None:
        """Return the process id of one of `PROGRAMS`; None while it restarts."""
        (mark,) = [mark for mark, program in PROGRAMS.items() if program == name]
        for child in psutil.Process(self.process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                line = " ".join(child.cmdline()[:3])
                if child.status() != psutil.STATUS_ZOMBIE and mark in line:
                    return child.pid
        return None

    def send(self, name: str, number: signal.Signals) -> None:
        """Send a signal to one of `PROGRAMS`."""
        pid = self.pid(name)
        assert pid is not None, f"{name} is not running"
        os.kill(pid, number)

    def inbox(self) -> dict[str, Any] | None:
        """Return the inbox's messages; None while it does not answer."""
        return _read_json(f"http://{self.params.alerts.host}:{self.params.alerts.inbox_port}/messages.json")

    def judged_windows(self) -> int | None:
        """Return how many windows the monitor has judged; None while it does not answer."""
        report = _read_json(f"http://{self.params.alerts.host}:{self.params.alerts.monitor_port}/report.json")
        return int(report["window"]["judged"]) if report else None

    def log(self) -> str:
        """Return the output of `make watch`."""
        return (self.home.parent / "watch.log").read_text(encoding="utf-8", errors="replace")


@contextmanager
def running_watch(params: Params, folder: Path, pace: Mapping[str, int], rows_per_s: float) -> Iterator[Environment]:
    """Publish a simulated version, and run its traffic and `make watch`; end all of it with the block."""
    home = folder / "live"
    drill = drill_params(params, pace)
    publish(home, 1, World(1).reference(REFERENCE_ROWS))
    (folder / "params.yaml").write_text(yaml.safe_dump(json.loads(drill.model_dump_json()), sort_keys=False), encoding="utf-8")
    (folder / ".tools").symlink_to(ROOT / ".tools")
    stream, pages = Stream(home, rows_per_s), [Page(drill.gateway.port), Page(drill.serve.metrics_port)]
    try:
        with _make_watch(folder, home) as process:
            environment = Environment(drill, home, process, stream, pages[0])
            wait_until(
                lambda: "Ctrl-C stops everything" in environment.log() or process.poll() is not None,
                READY_TIMEOUT_S,
                environment.log,
            )
            assert process.poll() is None, environment.log()
            stream.begin()
            try:
                yield environment
            finally:
                stream.end()
    finally:
        for page in pages:
            page.end()


def drill_params(params: Params, pace: Mapping[str, int]) -> Params:
    """Return params with free ports, a faster pace and small windows."""
    ports = {
        f"{name}_port": free_port(params.alerts.host) for name in ("prometheus", "alertmanager", "inbox", "monitor", "flywheel")
    }
    return params.model_copy(
        update={
            "alerts": type(params.alerts).model_validate(params.alerts.model_dump() | dict(pace) | ports),
            "monitor": params.monitor.model_copy(update=MONITOR_SETTINGS),
            "gateway": params.gateway.model_copy(update={"port": free_port(params.gateway.host)}),
            "serve": params.serve.model_copy(update={"metrics_port": free_port(params.serve.host)}),
        }
    )


@contextmanager
def _make_watch(folder: Path, home: Path) -> Iterator[subprocess.Popen[bytes]]:
    variables = clean_environment() | {"EVERGREEN_HOME": str(home), "OMP_NUM_THREADS": "1"}
    process = start_module("monitoring.local.watch", folder / "watch.log", variables, is_session=True)
    try:
        yield process
    finally:
        for child in psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []:
            with suppress(psutil.NoSuchProcess):
                child.resume()  # a stopped process could not end
        process.terminate()
        process.wait(timeout=END_TIMEOUT_S)


def _read_json(url: str) -> dict[str, Any] | None:
    try:
        with urlopen(url, timeout=2) as page:  # noqa: S310 (a server of this drill)
            content: dict[str, Any] = json.load(page)
            return content
    except (OSError, ValueError, HTTPException):  # HTTPException: it was killed in the middle of its answer
        return None
