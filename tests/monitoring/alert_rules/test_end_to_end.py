"""The path of an alert through the real programs on loopback: metric, Prometheus, Alertmanager, inbox.

The pace is seconds instead of minutes: rules are evaluated every second, and Alertmanager forgets after four. A fake monitor
serves the real exporter, whose values the test sets.
"""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from threading import Event, Thread
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import pytest
import requests

from monitoring.local.watch import MonitoringStack, running_stack
from monitoring.monitor.metrics import MonitorMetrics
from pipeline.params import Alerts, Params
from serving.processes.ports import free_port
from tests.monitoring.conftest import with_every_metric
from tests.monitoring.fast_stack import PACE, inbox_command
from tests.monitoring.inbox.running_inbox import REPORT, RunningInbox


class QuietHandler(WSGIRequestHandler):
    """Logs no requests."""

    def log_message(self, *_arguments: object) -> None:
        pass


class FakeMonitor:
    """The monitor's exporter on a port, which can be stopped and started; while it runs, it reports success all the time.

    The same port receives what Alertmanager posts to the retrain controller.
    """

    def __init__(self, port: int) -> None:
        self.port, self.metrics = port, with_every_metric(MonitorMetrics())
        self.posted: list[tuple[str, dict[str, Any]]] = []  # (Authorization, body)
        self._end: list[Callable[[], None]] = []
        self.start()

    def start(self) -> None:
        server = make_server("127.0.0.1", self.port, self._answer, handler_class=QuietHandler)
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
        self.metrics.set_log_e(3, "input_sketch", log_e=log_e)
        self.metrics.set_window_statistic(3, "input_sketch", statistic=0.2, threshold=0.3, effect_size=0.41)

    def _answer(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        if environ["REQUEST_METHOD"] == "POST":
            body = json.loads(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))
            self.posted.append((environ.get("HTTP_AUTHORIZATION", ""), body))
        is_report = environ["PATH_INFO"] == "/report.json"
        start_response("200 OK", [("content-type", "application/json" if is_report else "text/plain; version=0.0.4")])
        return [json.dumps(REPORT).encode() if is_report else self.metrics.text()]

    def _succeed_until(self, ended: Event) -> None:
        while True:
            self.metrics.cycle_succeeded(time.time(), took_s=0.1, lag_s=0.1)
            if ended.wait(0.2):
                return


class Setup:
    """The running processes, the inbox and the fake monitor."""

    def __init__(self, processes: MonitoringStack, inbox: RunningInbox, monitor: FakeMonitor, alerts: Alerts) -> None:
        self.processes, self.inbox, self.monitor, self.alerts = processes, inbox, monitor, alerts

    def status(self, alert: str, **labels: str) -> str:
        """Return the status of the newest message with this name and these labels, or an empty string."""
        wanted = {"alertname": alert, **labels}.items()
        messages = [message for message in self.inbox.state()["messages"] if wanted <= message["labels"].items()]
        return str(messages[-1]["standing"]) if messages else ""

    def annotation(self, alert: str, name: str) -> str:
        """Return an annotation of the newest message of this alert."""
        messages = [message for message in self.inbox.state()["messages"] if message["labels"]["alertname"] == alert]
        return str(messages[-1]["annotations"][name])

    def wait(self, alert: str, status: str, within_s: float = 15, **labels: str) -> None:
        self.inbox.wait(lambda _state: self.status(alert, **labels) == status, within_s)

    def never(self, alert: str, statuses: tuple[str, ...], for_s: float) -> None:
        """Assert for a while that the alert has none of these statuses."""
        deadline = time.monotonic() + for_s
        while time.monotonic() < deadline:
            assert self.status(alert) not in statuses
            time.sleep(0.1)

    def alertmanager_knows(self, alert: str) -> bool:
        url = f"http://127.0.0.1:{self.alerts.alertmanager_port}/api/v2/alerts"
        return alert in [known["labels"]["alertname"] for known in requests.get(url, timeout=5).json()]

    def notification_log_is_written(self, since: float) -> bool:
        """Return True when Alertmanager wrote its log after `since`; an entry follows its notification within half a second."""
        return (self.inbox.home / "alerts/alertmanager/nflog").stat().st_mtime > since + 0.5

    def prometheus_fires(self, alert: str) -> bool:
        response = requests.get(f"http://127.0.0.1:{self.alerts.prometheus_port}/api/v1/alerts", timeout=5).json()
        return alert in [known["labels"]["alertname"] for known in response["data"]["alerts"]]


@pytest.fixture(scope="module")
def module_setup(tools: Path, params: Params, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setup]:
    """Run everything in a scratch home, on free ports, at a pace of seconds. No gateway and no Triton answer."""
    home = tmp_path_factory.mktemp("watch")
    ports = {f"{name}_port": free_port() for name in ("prometheus", "alertmanager", "inbox", "monitor")}
    controller = {"controller_url": f"http://127.0.0.1:{ports['monitor_port']}/v1/alerts"}
    alerts = params.alerts.model_copy(update=PACE | ports | controller)
    (home / "alerts").mkdir()
    (home / "alerts/controller.token").write_text("the token\n")
    sections = {"alerts": alerts, "gateway": params.gateway.model_copy(update={"port": free_port()})}
    params = params.model_copy(update=sections | {"serve": params.serve.model_copy(update={"metrics_port": free_port()})})
    with ExitStack() as stack:
        monitor = FakeMonitor(alerts.monitor_port)
        stack.callback(monitor.stop)
        processes = stack.enter_context(
            running_stack(params, tools, home / "alerts", print, inbox_command=inbox_command(alerts, home), monitor_command=[])
        )
        setup = Setup(processes, RunningInbox(f"http://127.0.0.1:{alerts.inbox_port}", alerts, home), monitor, alerts)
        setup.inbox.wait(lambda state: state["switch"] is not None)
        yield setup


@pytest.fixture
def setup(module_setup: Setup) -> Iterator[Setup]:
    """Check that there is no drift at the start, and end the drift afterwards."""
    assert module_setup.status("EvergreenDrift") in ("", "over")
    yield module_setup
    module_setup.monitor.drift(0.0)
    module_setup.wait("EvergreenDrift", "over", within_s=20)


def test_drift_begins_is_shown_and_ends(setup: Setup) -> None:
    setup.monitor.drift(14.8)
    setup.wait("EvergreenDrift", "firing")
    setup.inbox.wait(lambda state: any(message["evidence"] is not None for message in state["messages"]))
    page = setup.inbox.page()
    assert "The meaning of the texts has moved away from the reference of version 3" in page
    assert "Evidence (log e-value): 14.8, over its threshold of 9.21." in page  # once, from the report
    assert "The evidence (log e-value) is 14.80, above its threshold of 9.2" in setup.annotation("EvergreenDrift", "description")
    assert setup.annotation("EvergreenDrift", "loss") == "1%"  # from the exporter
    assert "at 87.0% (84.0% to 90.0%). On the reference it was 94.0%" in page  # from the report
    assert page.count("<blockquote") == 3
    assert "can I choose another landing pad for drone delivery?" in page
    setup.monitor.drift(2.0)
    setup.wait("EvergreenDrift", "over")
    posted = {alert["labels"]["alertname"] for _, body in setup.monitor.posted for alert in body["alerts"]}
    assert posted == {"EvergreenDrift"}  # the controller receives only alerts that may start a retrain
    assert {authorization for authorization, _ in setup.monitor.posted} == {"Bearer the token"}


def test_a_killed_monitor_and_its_scrape_gap_end_no_alert(setup: Setup) -> None:
    setup.wait("EvergreenGatewayDown", "firing")
    setup.wait("EvergreenScrapeMissing", "firing", job="evergreen-triton")
    setup.monitor.drift(14.8)
    setup.wait("EvergreenDrift", "firing")  # no alert suppresses it
    setup.monitor.stop()
    setup.wait("EvergreenMonitorStale", "firing")
    forgets_s = 4 * setup.alerts.resend_s  # Alertmanager, when Prometheus does not repeat an alert
    setup.never("EvergreenDrift", ("over", "unconfirmed"), for_s=forgets_s + 1)
    assert setup.alertmanager_knows("EvergreenDrift")
    setup.monitor.start()
    setup.wait("EvergreenMonitorStale", "over")
    assert setup.status("EvergreenDrift") == "firing"


def test_a_pause_of_prometheus_is_noticed_and_ends_no_alert(setup: Setup) -> None:
    setup.monitor.drift(14.8)
    setup.wait("EvergreenDrift", "firing")
    os.kill(setup.processes.prometheus.pid, signal.SIGSTOP)
    try:
        setup.wait("EvergreenDrift", "unconfirmed")  # Alertmanager has forgotten it and reported its end
        assert not setup.alertmanager_knows("EvergreenDrift")
        setup.inbox.wait(lambda state: state["overdue_s"] > PACE["switch_overdue_s"])
        page = setup.inbox.page()
        assert "Alerting is silent" in page
        assert "end not confirmed" in page
        setup.never("EvergreenDrift", ("over",), for_s=1)
    finally:
        os.kill(setup.processes.prometheus.pid, signal.SIGCONT)
    setup.inbox.wait(lambda state: state["overdue_s"] == 0)
    setup.wait("EvergreenDrift", "firing")
    assert "Alerting is silent" not in setup.inbox.page()


def test_an_alert_that_ends_while_alertmanager_is_down_is_over_when_it_returns(setup: Setup) -> None:
    setup.monitor.drift(14.8)
    setup.wait("EvergreenDrift", "firing")
    received_at = time.time()
    setup.inbox.wait(lambda _state: setup.notification_log_is_written(received_at))
    os.kill(setup.processes.alertmanager.pid, signal.SIGKILL)
    setup.monitor.drift(0.0)
    setup.inbox.wait(lambda _state: not setup.prometheus_fires("EvergreenDrift"))
    assert setup.status("EvergreenDrift") == "firing"  # the end could not be delivered

    def is_over(_state: dict[str, Any]) -> bool:
        setup.processes.alertmanager.look(time.monotonic(), print)
        return setup.status("EvergreenDrift") == "over"

    setup.inbox.wait(is_over, within_s=15)
