"""The client of a running Alertmanager: readiness, reload, receivers, posted alerts and its counts of notifications."""

import json
import re
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from http.client import HTTPException
from typing import Any, NamedTuple

from pipeline.errors import ToolError

WAIT_S = 5.0
SAMPLE = re.compile(r"(\w+)\{(.*)\} (\S+)")


class NotificationCounts(NamedTuple):
    """Requests so far, and those that failed."""

    requests: float
    failed: float

    def since(self, before: "NotificationCounts") -> "NotificationCounts":
        """Return what was added after `before`."""
        return NotificationCounts(self.requests - before.requests, self.failed - before.failed)


def is_ready(url: str) -> bool:
    """Return whether the Alertmanager at this URL answers."""
    with suppress(OSError, HTTPException), urllib.request.urlopen(f"{url}/-/ready", timeout=WAIT_S):  # noqa: S310 (from params)
        return True
    return False


def reload(url: str) -> None:
    """Let Alertmanager read its configuration again; raises `ToolError` with its reason when it refuses."""
    _call(f"{url}/-/reload", b"")


def receivers(url: str) -> set[str]:
    """Return the names of the receivers in the loaded configuration."""
    return {str(receiver["name"]) for receiver in json.loads(_call(f"{url}/api/v2/receivers"))}


def post_alert(url: str, alert: Mapping[str, Any]) -> None:
    """Post an alert, as Prometheus does."""
    _call(f"{url}/api/v2/alerts", json.dumps([alert]).encode())


def notification_counts(url: str, integration: str) -> NotificationCounts:
    """Return how many requests Alertmanager sent by an integration: slack, email, webhook."""
    name = "alertmanager_notification_requests"
    values = read_metrics(url)
    requests, failed = (
        sum(value for (metric, labels), value in values.items() if metric == wanted and f'integration="{integration}"' in labels)
        for wanted in (f"{name}_total", f"{name}_failed_total")
    )
    return NotificationCounts(requests, failed)


def read_metrics(url: str) -> dict[tuple[str, str], float]:
    """Return the samples that have labels, by name and the text of their labels."""
    lines = _call(f"{url}/metrics").decode().splitlines()
    return {(match[1], match[2]): float(match[3]) for line in lines if (match := SAMPLE.fullmatch(line))}


def _call(url: str, body: bytes | None = None) -> bytes:
    """Return the answer to a GET, or to a POST of JSON."""
    request = urllib.request.Request(url, body, {"content-type": "application/json"})  # noqa: S310 (the address is from params)
    try:
        with urllib.request.urlopen(request, timeout=WAIT_S) as response:  # noqa: S310
            return bytes(response.read())
    except urllib.error.HTTPError as error:
        said = error.read(1000).decode("utf-8", "replace").strip()
        raise ToolError(url, f"it answered {error.code}: {said}", "see live/alerts/alertmanager.log") from None
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise ToolError(url, f"it does not answer: {reason}", "see whether make watch runs, and its logs") from None
