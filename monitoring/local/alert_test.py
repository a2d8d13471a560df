"""One test message to each channel, through Alertmanager. It ends by itself, and reaches no other channel and no controller."""

import secrets
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from monitoring.alert_rules.alertmanager import TEST_ALERT, TEST_RECEIVER, inbox_base, inbox_page
from monitoring.channels.settings import RELAYED, Channel
from monitoring.local import alertmanager_client as client
from monitoring.local.configure import alertmanager_authority, write_config
from monitoring.local.delivery import DeliveryResult, logged_failure
from monitoring.local.tools import working_directory
from monitoring.local.watch import TOOLS, alertmanager_command
from pipeline.errors import ToolError
from pipeline.params import Alerts, Params
from serving.processes import Announce
from serving.processes.addresses import reach_host
from serving.processes.supervisor import Program, supervised

POLL_S = 0.1
ENDS_AFTER = timedelta(minutes=1)
WITHIN_S = 30.0
Report = Callable[[Channel, DeliveryResult], None]


def apply(params: Params, home: Path, expected: Sequence[Channel]) -> bool:
    """Write the configuration, and let a running Alertmanager read it; return whether there is one.

    Raises `ToolError` when it refuses the configuration, or is another home's.
    """
    write_config(params, home / "alerts")
    url = alertmanager_url(params.alerts)
    if not client.is_ready(url):
        return False
    client.reload(url)
    if not {f"{TEST_RECEIVER}{channel.name}" for channel in expected} <= client.receivers(url):
        what = f"the Alertmanager there does not read {home / 'alerts'}"
        raise ToolError(url, what, "stop the make watch of another project, or give this one other ports (params.yaml, alerts)")
    return True


def try_channels(params: Params, home: Path, channels: Sequence[Channel], announce: Announce, report: Report) -> list[str]:
    """Send a test message to each channel in turn and report on it; return the names of those that got none.

    Without a running Alertmanager, one is started for the test alone.
    """
    with ExitStack() as stack:
        if not apply(params, home, channels):
            announce("make watch does not run: an Alertmanager is started for this test alone")
            stack.enter_context(_temporary(params, home, channels))
        failed = []
        for channel in channels:
            delivery = send_test(params.alerts, home, channel)
            report(channel, delivery)
            failed += [channel.name] if delivery.state != "delivered" else []
    return failed


def send_test(alerts: Alerts, home: Path, channel: Channel) -> DeliveryResult:
    """Send one test message, follow it to its first attempt, and end it, so that Alertmanager repeats it no more."""
    url, log, now = alertmanager_url(alerts), home / "alerts" / "alertmanager.log", datetime.now(UTC)
    start = log.stat().st_size if log.is_file() else 0
    before = _counts(alerts, url, channel)
    alert = trial_alert(alerts, channel, now, secrets.token_hex(4))
    client.post_alert(url, alert | {"endsAt": (now + ENDS_AFTER).isoformat()})
    try:
        return _follow(alerts, channel, before, log, start)
    finally:
        client.post_alert(url, alert | {"endsAt": datetime.now(UTC).isoformat()})


def _follow(alerts: Alerts, channel: Channel, before: client.NotificationCounts, log: Path, start: int) -> DeliveryResult:
    """Wait for the end of the first attempt.

    Alertmanager counts by integration, so a real alert at that moment can pass for this one's delivery, never for its failure.
    """
    deadline = time.monotonic() + WITHIN_S
    while time.monotonic() < deadline:
        if failed := logged_failure(log, start, f"{TEST_RECEIVER}{channel.name}"):
            return failed
        added = _counts(alerts, alertmanager_url(alerts), channel).since(before)
        if added.requests > added.failed:
            return DeliveryResult("delivered")
        if added.failed and not log.is_file():
            return DeliveryResult("refused", "Alertmanager's own log says why (docker compose logs alertmanager)")
        time.sleep(POLL_S)
    return DeliveryResult("unknown", f"no attempt ended within {WITHIN_S:g} s")


def trial_alert(alerts: Alerts, channel: Channel, now: datetime, nonce: str) -> dict[str, Any]:
    """Return the alert: of no area that starts a retrain. A nonce makes each a message of its own."""
    return {
        "labels": {"alertname": TEST_ALERT, "severity": "none", "area": "test", "channel": channel.name, "test": nonce},
        "annotations": {
            "summary": f"This is a test: alerts of Evergreen reach channel {channel.name}",
            "description": "Somebody typed evergreen alerts test. Nothing is wrong.",
            "next": "Nothing to do",
            "look": inbox_page(alerts),
            "runbook_url": alerts.runbooks,
        },
        "startsAt": now.isoformat(),
    }


def alertmanager_url(alerts: Alerts) -> str:
    """Return the address of Alertmanager."""
    return f"http://{alertmanager_authority(alerts)}"


def _counts(alerts: Alerts, url: str, channel: Channel) -> client.NotificationCounts:
    """Return the requests to a channel: the inbox counts those that it sends on, Alertmanager those of its integrations."""
    if channel.kind not in RELAYED:
        return client.notification_counts(url, channel.kind)
    outcomes = {
        labels: value
        for (name, labels), value in client.read_metrics(inbox_base(alerts)).items()
        if name == "evergreen_relayed_total" and f'channel="{channel.name}"' in labels
    }
    return client.NotificationCounts(
        sum(outcomes.values()), sum(value for labels, value in outcomes.items() if 'outcome="delivered"' not in labels)
    )


@contextmanager
def _temporary(params: Params, home: Path, channels: Sequence[Channel]) -> Iterator[None]:
    """Run an Alertmanager, and the inbox where it has to send something on."""
    alerts, folder, tools = params.alerts, home / "alerts", TOOLS.absolute()
    inbox = [sys.executable, "-m", "monitoring.inbox", "--on-request"]
    manager = alertmanager_command(tools, folder, alerts)
    with ExitStack() as stack:
        if any(channel.kind in RELAYED for channel in channels):
            host = reach_host("inbox", alerts.host)
            stack.enter_context(supervised(Program("inbox", inbox, host, alerts.inbox_port, "/healthz", folder / "inbox.log")))
        stack.enter_context(
            supervised(
                Program(
                    "alertmanager",
                    manager,
                    reach_host("alertmanager", alerts.host),
                    alerts.alertmanager_port,
                    "/-/ready",
                    folder / "alertmanager.log",
                    working_directory(tools),
                )
            )
        )
        yield
