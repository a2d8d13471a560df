"""A real console on a free port."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from monitoring.console.app import create_app
from monitoring.pages.metrics import PageMetrics
from pipeline.params import Params
from serving.processes.ports import free_port
from tests.http_servers import serving_app
from tests.monitoring.console.story import NOW


@contextmanager
def running_console(
    params: Params, home: Path, *, prometheus_port: int = 9, now: float | None = NOW, port: int | None = None
) -> Iterator[str]:
    """Run the app in a thread; yields its URL. Port 9 answers nothing. Without `now` the time is the real one."""
    changed = params.alerts.model_copy(update={"console_port": port or free_port(), "prometheus_port": prometheus_port})
    params, metrics = params.model_copy(update={"alerts": changed}), PageMetrics()
    app = create_app(params, home, time.time if now is None else lambda: now, metrics)
    with serving_app(app, changed.host, changed.console_port, refused=metrics.count_refusal):
        yield f"http://{changed.host}:{changed.console_port}"
