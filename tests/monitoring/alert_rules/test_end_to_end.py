"""The whole way on loopback with the real programs: a metric moves, Prometheus fires, Alertmanager delivers, the inbox shows it.

Seconds here stand for minutes there: rules are evaluated every second, and Alertmanager forgets after four. The monitor is played
by its own exporter on a port; what it says is set by the test.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from threading import Event, Thread
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import pytest
import requests

from monitoring.local.watch import Watch, running
from monitoring.monitor.metrics import Exporter
from pipeline.params import Alerts, Params
from serving.processes.ports import free_port
from tests.monitoring.conftest import all_told
from tests.monitoring.inbox.running_inbox import REPORT, RunningInbox

PACE = {
    "controller_url": "none",
    "scrape_s": 1,
    "evaluate_s": 1,
    "resend_s": 1,
    "for_s": 1,
    "group_wait_s": 1,
    "group_interval_s": 1,
    "repeat_s": 60,
    "remember_s": 1,
    "switch_every_s": 2,
    "switch_overdue_s": 7,
    "monitor_stale_s": 2,
}


class Quiet(WSGIRequestHandler):
    """Writes no line for each request."""

    def log_message(self, *_arguments: object) -> None:
        pass


class Played:
    """The monitor: its exporter on a port that can be taken away and given back; while it is there, it succeeds all the time.

    On the same port it takes what Alertmanager posts to the retrain controller.
    """

    def __init__(self, port: int) -> None:
        self.port, self.exporter = port, all_told(Exporter())
        self.posted: list[tuple[str, dict[str, Any]]] = []  # (Authorization, body)
        self._end: list[Callable[[], None]] = []
        self.start()

    def start(self) -> None:
        server = make_server("127.0.0.1", self.port, self._answer, handler_class=Quiet)
        ended = Event()
        serving = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        working = Thread(target=self._succeed_until, args=(ended,))
        for thread in (serving, working):
            thread.start()
        self._end = [ended.set, working.join, server.shutdown, serving.join, server.server_close]

    def stop(self) -> None:
        for step in self._end:
            step()
        self._end = []

    def drift(self, log_e: float) -> None:
        self.exporter.drift(3, "input_sketch", log_e=log_e)
        self.exporter.window_statistic(3, "input_sketch", statistic=0.2, threshold=0.3, effect_size=0.41)

    def _answer(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        if environ["REQUEST_METHOD"] == "POST":
            body = json.loads(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))
            self.posted.append((environ.get("HTTP_AUTHORIZATION", ""), body))
        is_report = environ["PATH_INFO"] == "/report.json"
        start_response("200 OK", [("content-type", "application/json" if is_report else "text/plain; version=0.0.4")])
        return [json.dumps(REPORT).encode() if is_report else self.exporter.text()]

    def _succeed_until(self, ended: Event) -> None:
        while True:
            self.exporter.succeeded(time.time(), took_s=0.1, lag_s=0.1)
            if ended.wait(0.2):
                return


class Room:
    """All of it, running."""

    def __init__(self, here: Watch, inbox: RunningInbox, monitor: Played, alerts: Alerts) -> None:
        self.here, self.inbox, self.monitor, self.alerts = here, inbox, monitor, alerts

    def standing(self, alert: str, **labels: str) -> str:
        """How the newest message of this name and labels stands; empty when there is none."""
        wanted = {"alertname": alert, **labels}.items()
        messages = [one for one in self.inbox.state()["messages"] if wanted <= one["labels"].items()]
        return str(messages[-1]["standing"]) if messages else ""

    def annotation(self, alert: str, name: str) -> str:
        """Of the newest message of this name."""
        return [str(one["annotations"][name]) for one in self.inbox.state()["messages"] if one["labels"]["alertname"] == alert][
            -1
        ]

    def wait(self, alert: str, standing: str, within_s: float = 15, **labels: str) -> None:
        self.inbox.wait(lambda _state: self.standing(alert, **labels) == standing, within_s)

    def never(self, alert: str, standings: tuple[str, ...], for_s: float) -> None:
        """Watch for a while: it never stands so."""
        deadline = time.monotonic() + for_s
        while time.monotonic() < deadline:
            assert self.standing(alert) not in standings
            time.sleep(0.1)

    def alertmanager_knows(self, alert: str) -> bool:
        url = f"http://127.0.0.1:{self.alerts.alertmanager_port}/api/v2/alerts"
        return alert in [one["labels"]["alertname"] for one in requests.get(url, timeout=5).json()]

    def alertmanager_has_written(self, since: float) -> bool:
        """Whom it told; the log of an answer follows the answer, so half a second later."""
        return (self.inbox.home / "alerts/alertmanager/nflog").stat().st_mtime > since + 0.5

    def prometheus_fires(self, alert: str) -> bool:
        found = requests.get(f"http://127.0.0.1:{self.alerts.prometheus_port}/api/v1/alerts", timeout=5).json()
        return alert in [one["labels"]["alertname"] for one in found["data"]["alerts"]]


@pytest.fixture(scope="module")
def everything(tools: Path, params: Params, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Room]:
    """A home of its own, ports that are free, a pace of seconds. Nothing answers for the gateway and for Triton."""
    home = tmp_path_factory.mktemp("watch")
    ports = {f"{name}_port": free_port() for name in ("prometheus", "alertmanager", "inbox", "monitor")}
    controller = {"controller_url": f"http://127.0.0.1:{ports['monitor_port']}/v1/alerts"}
    alerts = params.alerts.model_copy(update=PACE | ports | controller)
    (home / "alerts").mkdir()
    (home / "alerts/controller.token").write_text("the token\n")
    changed = {"alerts": alerts, "gateway": params.gateway.model_copy(update={"port": free_port()})}
    params = params.model_copy(update=changed | {"serve": params.serve.model_copy(update={"metrics_port": free_port()})})
    with ExitStack() as stack:
        monitor = Played(alerts.monitor_port)
        stack.callback(monitor.stop)
        inbox = [sys.executable, "-c", INBOX, alerts.model_dump_json(), str(home)]
        here = stack.enter_context(running(params, tools, home / "alerts", print, inbox_command=inbox, monitor_command=[]))
        room = Room(here, RunningInbox(f"http://127.0.0.1:{alerts.inbox_port}", alerts, home), monitor, alerts)
        room.inbox.wait(lambda state: state["switch"] is not None)
        yield room


@pytest.fixture
def room(everything: Room) -> Iterator[Room]:
    """No drift at the beginning, and none left behind."""
    assert everything.standing("EvergreenDrift") in ("", "over")
    yield everything
    everything.monitor.drift(0.0)
    everything.wait("EvergreenDrift", "over", within_s=20)


INBOX = """
import sys, time
from pathlib import Path
import uvicorn
from monitoring.inbox.app import create_app
from pipeline.params import Alerts

alerts = Alerts.model_validate_json(sys.argv[1])
app = create_app(alerts, Path(sys.argv[2]), time.time)
uvicorn.run(app, host=alerts.host, port=alerts.inbox_port, log_level="warning")
"""


def test_drift_begins_is_shown_and_ends(room: Room) -> None:
    room.monitor.drift(14.8)
    room.wait("EvergreenDrift", "firing")
    room.inbox.wait(lambda state: any(one["evidence"] is not None for one in state["messages"]))
    page = room.inbox.page()
    assert "Meaning of the texts of version 3 has moved away from its reference" in page
    assert "The log e-value of input_sketch is 14.80, over its threshold 9.2" in page
    assert "the effect size was 0.41" in page
    assert room.annotation("EvergreenDrift", "loss") == "1%"  # by the exporter
    assert "<dt>Estimated loss of accuracy</dt><dd>7.0%" in page  # by the report
    assert page.count("<blockquote") == 3
    assert "can I choose another landing pad for drone delivery?" in page
    room.monitor.drift(2.0)
    room.wait("EvergreenDrift", "over")
    told = {alert["labels"]["alertname"] for _, body in room.monitor.posted for alert in body["alerts"]}
    assert told == {"EvergreenDrift"}  # the controller hears of nothing that no retrain follows from
    assert {authorization for authorization, _ in room.monitor.posted} == {"Bearer the token"}


def test_a_killed_monitor_and_its_scrape_gap_end_nothing(room: Room) -> None:
    room.wait("EvergreenGatewayDown", "firing")
    room.wait("EvergreenScrapeMissing", "firing", job="evergreen-triton")
    room.monitor.drift(14.8)
    room.wait("EvergreenDrift", "firing")  # held back by nothing
    room.monitor.stop()
    room.wait("EvergreenMonitorStale", "firing")
    forgets_s = 4 * room.alerts.resend_s  # Alertmanager, when Prometheus does not repeat what fires
    room.never("EvergreenDrift", ("over", "unconfirmed"), for_s=forgets_s + 1)
    assert room.alertmanager_knows("EvergreenDrift")
    room.monitor.start()
    room.wait("EvergreenMonitorStale", "over")
    assert room.standing("EvergreenDrift") == "firing"


def test_prometheus_that_pauses_is_noticed_and_nothing_counts_as_over(room: Room) -> None:
    room.monitor.drift(14.8)
    room.wait("EvergreenDrift", "firing")
    os.kill(room.here.prometheus.pid, signal.SIGSTOP)
    try:
        room.wait("EvergreenDrift", "unconfirmed")  # Alertmanager has forgotten, and said that it is over
        assert not room.alertmanager_knows("EvergreenDrift")
        room.inbox.wait(lambda state: state["overdue_s"] > PACE["switch_overdue_s"])
        page = room.inbox.page()
        assert "Alerting is silent" in page
        assert "end not confirmed" in page
        room.never("EvergreenDrift", ("over",), for_s=1)
    finally:
        os.kill(room.here.prometheus.pid, signal.SIGCONT)
    room.inbox.wait(lambda state: state["overdue_s"] == 0)
    room.wait("EvergreenDrift", "firing")
    assert "Alerting is silent" not in room.inbox.page()


def test_an_alert_that_ends_while_alertmanager_is_dead_is_told_over_when_it_is_back(room: Room) -> None:
    room.monitor.drift(14.8)
    room.wait("EvergreenDrift", "firing")
    heard = time.time()
    room.inbox.wait(lambda _state: room.alertmanager_has_written(heard))
    os.kill(room.here.alertmanager.pid, signal.SIGKILL)
    room.monitor.drift(0.0)
    room.inbox.wait(lambda _state: not room.prometheus_fires("EvergreenDrift"))
    assert room.standing("EvergreenDrift") == "firing"  # nobody could tell

    def is_over(_state: dict[str, Any]) -> bool:
        room.here.alertmanager.look(time.monotonic(), print)
        return room.standing("EvergreenDrift") == "over"

    room.inbox.wait(is_over, within_s=15)
