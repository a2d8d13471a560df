"""A real receiver on a free port, and webhooks as Alertmanager posts them."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import requests
import sqlalchemy as sa

from monitoring.retrain.receiver.app import Receiver, create_app
from pipeline.params import Params
from serving.processes.ports import free_port
from state.database import open_state
from state.tables import alerts
from tests.http_servers import serving_app

TOKEN = "one-token"
BEGAN = 1_790_000_000.0


class RunningReceiver(NamedTuple):
    """A running receiver and its database."""

    url: str
    engine: sa.Engine

    def post(self, *posted: dict[str, Any], token: str = TOKEN, **fields: Any) -> int:
        return self.send(webhook(*posted, **fields), token=token)

    def send(self, body: bytes, *, token: str = TOKEN, **headers: str) -> int:
        given = {"content-type": "application/json", "authorization": f"Bearer {token}"} | headers
        return requests.post(f"{self.url}/v1/alerts", body, headers=given, timeout=20).status_code

    def rows(self) -> list[tuple[str, float, str]]:
        with self.engine.connect() as connection:
            shown = sa.select(alerts.c.fingerprint, alerts.c.starts_at, alerts.c.status).order_by(alerts.c.id)
            return [tuple(row) for row in connection.execute(shown)]

    def metric(self, line: str) -> float:
        text = requests.get(f"{self.url}/metrics", timeout=5).text
        return next((float(sample.rsplit(" ", 1)[1]) for sample in text.splitlines() if sample.startswith(f"{line} ")), 0.0)


@contextmanager
def running_receiver(params: Params, home: Path, **changed: Any) -> Iterator[RunningReceiver]:
    """Run the app on a real server in a thread."""
    http = {name: changed.pop(name) for name in sorted(changed.keys() & params.http.model_fields_set)}
    sections = {"retrain": params.retrain.model_copy(update=changed), "http": params.http.model_copy(update=http)}
    params = params.model_copy(update=sections)
    port = free_port()
    with open_state(home) as engine:
        receiver = Receiver(params, engine, TOKEN)
        app, refused = create_app(receiver, params.http, "127.0.0.1", home), receiver.metrics.count_refusal
        with serving_app(app, "127.0.0.1", port, refused=refused):
            yield RunningReceiver(f"http://127.0.0.1:{port}", engine)


def webhook(*posted: dict[str, Any], **fields: Any) -> bytes:
    group = {"version": "4", "status": "firing", "receiver": "controller", "groupKey": "{}", "truncatedAlerts": 0}
    return json.dumps(group | {"alerts": posted} | fields).encode()


def alert(number: int = 1, *, status: str = "firing", began: float = BEGAN, **labels: str) -> dict[str, Any]:
    known = {"alertname": "EvergreenDrift", "area": "drift", "severity": "warning", "version": "1", "signal": "input_sketch"}
    return {
        "status": status,
        "labels": known | labels,
        "annotations": {"summary": "it moved"},
        "startsAt": stamp(began),
        "endsAt": stamp(began + 60) if status == "resolved" else "0001-01-01T00:00:00Z",
        "generatorURL": "http://prometheus:9090/graph",
        "fingerprint": f"{number:016x}",
    }


def stamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
