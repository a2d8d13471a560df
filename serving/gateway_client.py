"""The client of a gateway: sends a request, and returns its reply or why there is none. Knows no record of the API."""

import http.client
import json
import threading
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from serving.processes.addresses import split_url

TIMEOUT_S = 60.0
Headers = Mapping[str, str]


class Reply(NamedTuple):
    """An HTTP answer whose body is JSON; `status` 0 with `fault` when there was none."""

    status: int
    body: dict[str, Any]
    retry_after_s: float
    fault: str = ""

    @property
    def code(self) -> str:
        """Return the code of the error."""
        error = self.body.get("error")
        return str(error.get("code", "")) if isinstance(error, dict) else ""

    @property
    def message(self) -> str:
        """Return the message of the error."""
        error = self.body.get("error")
        return str(error.get("message", "")) if isinstance(error, dict) else self.fault or f"status {self.status}"


Send = Callable[[str, str, bytes | None], Reply]  # method, path, body


def http_sender(url: str, headers: Headers) -> Send:
    """Return a function that sends requests to the gateway at this URL; each thread keeps a connection of its own."""
    parts = split_url(url, "http", "https")
    host, prefix = str(parts.hostname), parts.path.rstrip("/")
    connect = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    local = threading.local()
    sent = {"content-type": "application/json", **headers}

    def send(method: str, path: str, body: bytes | None) -> Reply:
        connection = getattr(local, "connection", None) or connect(host, parts.port, timeout=TIMEOUT_S)
        local.connection = connection
        try:
            connection.request(method, prefix + path, body, sent)
            response = connection.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            local.connection = None
            return Reply(0, {}, 0.0, f"{type(error).__name__}: {error}")
        return Reply(response.status, _read_json(content), _seconds(response.getheader("retry-after")))

    return send


def _read_json(content: bytes) -> dict[str, Any]:
    try:
        body = json.loads(content)
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _seconds(retry_after: str | None) -> float:
    return min(30.0, float(retry_after)) if retry_after and retry_after.isdigit() else 0.0
