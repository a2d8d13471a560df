"""ASGI middleware of every HTTP service: which hosts and pages may send requests, and of which content. Knows no routes.

A web page can send requests to services on loopback or in an intranet. It can do so under a name of its own that resolves there
(DNS rebinding: wrong Host), from its own site (wrong Origin or Sec-Fetch-Site), and without asking first as long as it sends no
JSON (a form, text/plain).
"""

from collections.abc import Awaitable, Callable, MutableMapping
from functools import lru_cache
from ipaddress import ip_address
from typing import Any, NamedTuple

import orjson

from pipeline.params import Http
from serving.processes.http_body import HEADERS, HELD_BODY, HeldBodies, HeldBody, Receive, Scope

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

PROBES = frozenset({"/healthz", "/readyz"})  # probes and load balancers send any Host, and the answer is public
HOSTS_REMEMBERED = 256
FORM = b"application/x-www-form-urlencoded"


class GuardRefusal(NamedTuple):
    """An answer that the guard gives in place of the app."""

    status: int
    code: str
    message: str


BAD_HOST = GuardRefusal(
    400, "host_not_allowed", "this service has another name; names are listed in params.yaml: http.allowed_hosts"
)
BAD_ORIGIN = GuardRefusal(403, "cross_site", "this request comes from a web page of another site")
NOT_JSON = GuardRefusal(415, "content_type", "send JSON with the header Content-Type: application/json")


class HttpGuard:
    """Wraps an app. Answers HEAD where the app answers GET, and counts the bodies that the app holds."""

    def __init__(
        self, app: App, settings: Http, host: str, refused: Callable[[str], None], *, form_paths: tuple[str, ...] = ()
    ) -> None:
        """Allow the host that the service listens on besides those of params; `refused` is called with each refusal's code.

        Below `form_paths` it takes forms too, if the browser says that they come from its own pages.
        """
        self._app, self._refused, self._form_paths = app, refused, form_paths
        self._bodies = HeldBodies(settings.held_body_bytes)
        names = frozenset((*settings.allowed_hosts.split(), host.lower()))
        self._is_allowed = lru_cache(HOSTS_REMEMBERED)(lambda authority: is_allowed_host(authority, names))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refusal = None if scope["path"] in PROBES else self._refusal(scope)
        if refusal:
            self._refused(refusal.code)
            await _refuse(send, scope.get("request_id", ""), refusal)
            return
        method = scope["method"]
        if method == "POST":
            held = scope[HELD_BODY] = HeldBody(self._bodies)
            try:
                await self._app(scope, receive, send)
            finally:
                held.release()
        else:  # the server leaves the body of an answer to HEAD out
            await self._app({**scope, "method": "GET"} if method == "HEAD" else scope, receive, send)

    def _refusal(self, scope: Scope) -> GuardRefusal | None:
        headers = scope[HEADERS] = scope.get(HEADERS) or dict(scope["headers"])
        host = headers.get(b"host", b"")
        if not self._is_allowed(host) and not (not host and scope["http_version"] == "1.0"):
            return BAD_HOST
        if (b"origin" in headers or b"sec-fetch-site" in headers) and is_cross_site(scope["method"], headers, host):
            return BAD_ORIGIN
        if scope["method"] == "POST":
            content_type = headers.get(b"content-type", b"")
            if content_type != b"application/json":
                kind = content_type.partition(b";")[0].strip().lower()
                if kind == FORM and scope["path"].startswith(self._form_paths):
                    return None if b"origin" in headers or b"sec-fetch-site" in headers else BAD_ORIGIN
                if kind != b"application/json":
                    return NOT_JSON
        return None


def is_allowed_host(authority: bytes, names: frozenset[str]) -> bool:
    """Return whether a Host header is an IP address, or one of these names; `*.example.org` stands for every name below it.

    An IP address is safe, because DNS rebinding needs a name. So probes, scrapes and people may use any address of a pod.
    """
    host = authority.decode("latin-1").lower()
    if host.startswith("["):
        host = host[1:].partition("]")[0]
    elif host.count(":") <= 1:
        host = host.partition(":")[0]
    host = host.removesuffix(".")
    if host in names:
        return bool(host)
    try:
        ip_address(host)
    except ValueError:
        below = host.partition(".")[2]
        while below:
            if f"*.{below}" in names:
                return True
            below = below.partition(".")[2]
        return False
    return True


def is_cross_site(method: str, headers: dict[bytes, bytes], host: bytes) -> bool:
    """Return whether a browser sends this request for a page of another origin; a link that a person follows does not count."""
    origin = headers.get(b"origin")
    if origin is not None and _authority(origin) != _authority(b"//" + host):
        return True
    if headers.get(b"sec-fetch-site", b"none") in (b"none", b"same-origin"):
        return False
    is_link = method in ("GET", "HEAD") and headers.get(b"sec-fetch-mode") == b"navigate"
    return not (is_link and headers.get(b"sec-fetch-dest") == b"document")


def _authority(url: bytes) -> bytes:
    """Return host and port, without a default port: behind TLS the scheme of the page is not ours."""
    return url.partition(b"//")[2].lower().removesuffix(b":80").removesuffix(b":443")


async def _refuse(send: Send, request_id: str, refusal: GuardRefusal) -> None:
    body = orjson.dumps({"request_id": request_id, "error": {"code": refusal.code, "message": refusal.message}})
    head = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": refusal.status, "headers": head})
    await send({"type": "http.response.body", "body": body})
