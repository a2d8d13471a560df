"""Metrics of every process: accepted by promtool's lint, and without labels that grow with traffic."""

import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from monitoring.local.tools import find_tool
from monitoring.monitor.metrics import MonitorMetrics
from monitoring.pages.metrics import PageMetrics
from monitoring.retrain.metrics import ControllerMetrics, ReceiverMetrics
from serving.gateway.metrics import Metrics
from tests.monitoring.conftest import TOOLS, tools  # noqa: F401 (a fixture)

UNBOUNDED = {"id", "request_id", "prediction_id", "unit", "text", "caller", "name", "address", "url", "path", "alertname"}
PROCESSES = {
    "gateway": Metrics,
    "monitor": MonitorMetrics,
    "receiver": lambda: ReceiverMetrics(lambda: 0),
    "controller": ControllerMetrics,
    "pages": PageMetrics,
}
every_process = pytest.mark.parametrize("make", PROCESSES.values(), ids=PROCESSES)


@pytest.mark.usefixtures("tools")
@every_process
def test_promtools_lint_accepts_the_metrics(make: Callable[[], Any]) -> None:
    done = subprocess.run([str(find_tool(TOOLS, "promtool")), "check", "metrics"], input=make().text(), capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


@every_process
def test_no_label_of_a_metric_grows_with_traffic(make: Callable[[], Any]) -> None:
    registry = make().registry
    labels = {name for collector in registry._collector_to_names for name in getattr(collector, "_labelnames", ())}
    assert labels.isdisjoint(UNBOUNDED)
