"""Real servers for tests: an app in a thread, the inbox as a process, and alert settings at a pace of seconds."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from starlette.applications import Starlette

from pipeline.params import Alerts

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


def inbox_command(alerts: Alerts, home: Path) -> list[str]:
    """Return the command of an inbox with these settings."""
    return [sys.executable, "-c", INBOX, alerts.model_dump_json(), str(home)]


@contextmanager
def serving_app(app: Starlette, host: str, port: int) -> Iterator[None]:
    """Serve an app in a thread."""
    server = uvicorn.Server(uvicorn.Config(app, host=host, port=port, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        deadline = time.monotonic() + 20
        while not server.started:
            assert time.monotonic() < deadline and thread.is_alive(), f"{host}:{port} did not start"
            time.sleep(0.01)
        yield
    finally:
        server.should_exit = True
        thread.join()
