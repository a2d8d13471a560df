"""A real inbox on a free port, alerts as Alertmanager posts them, and a fake monitor that serves a report."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import requests

from monitoring.alert_rules.incident import SIGNALS
from monitoring.inbox.app import create_app
from monitoring.pages.metrics import PageMetrics
from pipeline.params import Alerts, load_params
from serving.processes.ports import free_port
from tests.http_servers import serving_app, serving_in_thread

NOW = 1_790_000_000.0
REPORT = {
    "version": 3,
    "at": "2026-09-21T14:03:20+00:00",
    "signals": [
        {
            "signal": "input_sketch",
            "value": 0.0213,
            "window_threshold": 0.0187,
            "threshold": 9.21,
            "log_e": 14.8,
            "effect_size": 0.41,
            "moved_words": ["drone", "rooftop", "landing pad", "propeller"],
            "examples": [
                "the drone dropped my parcel on the neighbour's rooftop",
                "can I choose another landing pad for drone delivery?",
                "<script>alert('a text is a text')</script> & propeller noise at night",
            ],
        },
        {
            "signal": "prediction_confidence",
            "value": 0.27,
            "window_threshold": None,
            "threshold": 9.21,
            "log_e": 11.2,
            "effect_size": 0.33,
            "moved_words": [],
            "examples": ["who repairs a drone that fell into my garden?"],
        },
    ],
    "accuracy": {"estimate": 0.87, "lower": 0.84, "upper": 0.9, "reference": 0.94},
    "estimated_share": 0.31,
}


class RunningInbox(NamedTuple):
    """A running inbox."""

    url: str
    alerts: Alerts
    home: Path

    def post(self, *alerts: dict[str, Any], content_type: str = "application/json") -> int:
        """Post alerts as Alertmanager does; return the HTTP status."""
        return self.send(json.dumps({"version": "4", "status": "firing", "alerts": alerts}).encode(), content_type)

    def send(self, body: bytes, content_type: str = "application/json") -> int:
        return requests.post(f"{self.url}/alerts", body, headers={"content-type": content_type}, timeout=10).status_code

    def page(self, host: str = "") -> str:
        response = requests.get(f"{self.url}/", headers={"host": host} if host else {}, timeout=10)
        response.raise_for_status()
        return response.text

    def state(self) -> dict[str, Any]:
        return dict(requests.get(f"{self.url}/messages.json", timeout=10).json())

    def wait(self, condition: Callable[[dict[str, Any]], bool], within_s: float = 10) -> dict[str, Any]:
        """Return the state once it fulfils the condition."""
        deadline = time.monotonic() + within_s
        while not condition(state := self.state()):
            assert time.monotonic() < deadline, state
            time.sleep(0.02)
        return state


@contextmanager
def running_inbox(alerts: Alerts, home: Path, clock: Callable[[], float] = lambda: NOW) -> Iterator[RunningInbox]:
    """Run the app on a real server in a thread."""
    alerts = alerts.model_copy(update={"inbox_port": free_port()})
    metrics = PageMetrics()
    app = create_app(alerts, load_params().http, home, clock, metrics)
    with serving_app(app, alerts.host, alerts.inbox_port, refused=metrics.count_refusal):
        yield RunningInbox(f"http://{alerts.host}:{alerts.inbox_port}", alerts, home)


@contextmanager
def serving_report(report: object = REPORT) -> Iterator[int]:
    """Serve a monitor's /report.json as it is at the time; yields the port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/report.json" else 404)
            self.end_headers()
            self.wfile.write(json.dumps(report).encode())

        def log_message(self, *_arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    with serving_in_thread(server):
        yield server.server_port


def drift(
    signal: str = "input_sketch", *, started: float = NOW - 300, ended: float | None = None, **annotations: str
) -> dict[str, Any]:
    """Return an alert on drift as Alertmanager posts it."""
    return posted_alert(
        {"alertname": "EvergreenDrift", "area": "drift", "severity": "warning", "version": "3", "signal": signal},
        {
            "summary": f"The {SIGNALS[signal]} has moved away from the reference of version 3",
            "description": "The evidence (log e-value) is 14.80, above its threshold of 9.21.",
            "sure": "Without a change, the evidence on one signal passes its threshold about once in 2.7 years.",
            "decided": "Nothing: no retrain controller has seen this alert.",
            "next": "Look at the words and texts. If they are here to stay, label some of them and retrain: make repro",
            "look": "curl -s http://127.0.0.1:8095/report.json | python3 -m json.tool",
            "runbook_url": "docs/runbooks.md#evergreendrift",
            "loss": "7%",
        }
        | annotations,
        started,
        ended,
    )


def switch(evaluated: float) -> dict[str, Any]:
    """Return the dead man's switch as Alertmanager posts it."""
    return posted_alert(
        {"alertname": "EvergreenWatchdog", "area": "switch"}, {"evaluated_at": f"{evaluated:.3f}"}, NOW - 9000, None
    )


def posted_alert(labels: dict[str, str], annotations: dict[str, str], started: float, ended: float | None) -> dict[str, Any]:
    def stamp(at: float) -> str:
        return datetime.fromtimestamp(at, UTC).isoformat().replace("+00:00", "123Z")  # nanoseconds, as Go writes them

    return {
        "status": "resolved" if ended else "firing",
        "labels": labels,
        "annotations": annotations,
        "startsAt": stamp(started + 0.25),
        "endsAt": stamp(ended + 0.25) if ended else "0001-01-01T00:00:00Z",
        "generatorURL": "http://127.0.0.1:9090/graph",
        "fingerprint": f"{abs(hash(tuple(sorted(labels.items())))):x}",
    }
