"""The monitoring stack at a pace of seconds: alert settings, and the inbox's command with them."""

import sys
from pathlib import Path

from pipeline.params import Alerts, load_params

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
from monitoring.inbox.app import create_app
from monitoring.pages.metrics import PageMetrics
from pipeline.params import Alerts, Http
from serving.processes.http_service import run_http_service

alerts = Alerts.model_validate_json(sys.argv[1])
app = create_app(alerts, Http.model_validate_json(sys.argv[2]), Path(sys.argv[3]), time.time, PageMetrics())
run_http_service(app, alerts.host, alerts.inbox_port, Http.model_validate_json(sys.argv[2]), refused=lambda reason: None)
"""


def inbox_command(alerts: Alerts, home: Path) -> list[str]:
    """Return the command of an inbox with these settings."""
    return [sys.executable, "-c", INBOX, alerts.model_dump_json(), load_params().http.model_dump_json(), str(home)]
