"""All five HTTP services on real servers: who may send them requests, and what they answer to odd clients."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from monitoring.monitor import service as monitor
from monitoring.retrain import __main__ as retrain
from monitoring.retrain.metrics import ControllerMetrics
from pipeline.params import Params, load_params
from serving.processes.ports import free_port
from tests.http_servers import serving_app
from tests.monitoring.inbox.running_inbox import running_inbox
from tests.monitoring.retrain.receiver.running_receiver import running_receiver
from tests.serving.gateway.fake_triton import running_gateway

Ports = dict[str, int]
PAGES = {
    "gateway": ("/metrics", "/v1/routes", "/docs", "/openapi.json"),
    "receiver": ("/metrics",),
    "inbox": ("/", "/messages.json", "/inbox.css"),
    "monitor": ("/metrics", "/report.json"),
    "controller": ("/metrics",),
}
POSTS = {"gateway": "/v1/predict", "receiver": "/v1/alerts", "inbox": "/alerts"}
SERVICES = list(PAGES)


class IdleController:
    def decide(self) -> None: ...
    def advance(self) -> None: ...


@pytest.fixture(scope="module")
def ports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ports]:
    params = load_params()
    with ExitStack() as stack:
        folder = tmp_path_factory.mktemp("services")
        ports = {"gateway": stack.enter_context(running_gateway(params, folder / "gateway"))}
        ports["receiver"] = int(stack.enter_context(running_receiver(params, folder / "receiver")).url.rpartition(":")[2])
        alerts = params.alerts.model_copy(update={"inbox_port": free_port()})
        stack.enter_context(running_inbox(alerts, folder / "inbox"))
        ports["inbox"] = alerts.inbox_port
        ports["monitor"] = stack.enter_context(running_monitor(params, folder / "monitor"))
        ports["controller"] = stack.enter_context(running_controller(params))
        yield ports


class running_monitor(ExitStack):  # noqa: N801 (a context manager)
    def __init__(self, params: Params, home: Path) -> None:
        super().__init__()
        self._monitor = monitor.MonitorService(params, home, lambda: 0.0)

    def __enter__(self) -> int:  # type: ignore[override]
        port = free_port()
        self.callback(self._monitor.close)
        self.enter_context(serving_app(monitor.create_app(self._monitor, threading.Event()), "127.0.0.1", port))
        return port


class running_controller(ExitStack):  # noqa: N801
    def __init__(self, params: Params) -> None:
        super().__init__()
        self._params = params

    def __enter__(self) -> int:  # type: ignore[override]
        port = free_port()
        idle: Any = IdleController()
        app = retrain.create_app(idle, ControllerMetrics(), self._params, threading.Event())
        self.enter_context(serving_app(app, "127.0.0.1", port))
        return port
