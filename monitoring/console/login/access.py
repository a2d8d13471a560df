"""Finds whose request it is, by its cookie and by the tokens file, and makes the secrets of forms. Knows no page."""

import hashlib
import hmac
import re
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import Response

from monitoring.console.login.sessions import ConsoleSessions, new_id
from monitoring.console.try_it.asking import caller_headers
from pipeline.params import Params
from serving.access.callers import Callers
from serving.access.tokens import LOCAL, Caller, Scope, tokens_path
from serving.key_file import read_key
from serving.processes.addresses import listen_host

ID = re.compile(r"[A-Za-z0-9_-]{43}")


class Visitor(NamedTuple):
    """A browser, and the person whom the gateway would see behind it."""

    session: str  # random, in the browser's cookie
    is_new: bool  # the cookie is not set yet
    caller: Caller | None  # None: a token is required
    form_token: str  # that every form of this browser carries
    headers: Mapping[str, str]  # of requests to the gateway in this person's name
    was_ended: bool = False  # the session had a token that is no longer valid

    @property
    def name(self) -> str:
        """Return the name under which labels are stored."""
        return self.caller.name if self.caller else ""

    @property
    def is_logged_in(self) -> bool:
        """Return whether the person came with a token."""
        return self.caller is not None and self.caller.name != LOCAL

    def may(self, scope: Scope) -> bool:
        """Return whether the person may do this."""
        return self.caller is not None and scope in self.caller.scopes


class ConsoleAccess:
    """The sessions of one console, and the callers that its gateway knows."""

    def __init__(self, params: Params, home: Path, clock: Callable[[], float]) -> None:
        self._params, self._home = params, home
        self._sessions = ConsoleSessions(params.alerts.console_session_s, clock)
        self._cookie = f"evergreen-{params.alerts.console_port}"  # cookies do not tell apart the ports of a host

    @cached_property
    def _callers(self) -> Callers:
        return Callers(tokens_path(self._home), listen_host("gateway", self._params.gateway.host))

    @cached_property
    def _key(self) -> bytes:
        return read_key(self._home, "console")

    def visitor(self, request: Request) -> Visitor:
        """Return who sends this request; raise `EvergreenError` when tokens or keys cannot be read."""
        sent = request.cookies.get(self._cookie, "")
        is_new = not ID.fullmatch(sent)
        session = new_id() if is_new else sent
        token = None if is_new else self._sessions.token_of(session)
        headers = caller_headers(request) | ({"authorization": f"Bearer {token}"} if token else {})
        self._callers.refresh()
        caller = self._find(headers, request)
        was_ended = token is not None and caller is None
        if was_ended:
            self._sessions.end(session)
        return Visitor(session, is_new, caller, self._form_token(session), headers, was_ended)

    def is_own_form(self, visitor: Visitor, form_token: str) -> bool:
        """Return whether a form comes from a page that this browser got here."""
        return not visitor.is_new and hmac.compare_digest(form_token.encode(), visitor.form_token.encode())

    def log_in(self, request: Request, visitor: Visitor, token: str) -> Visitor | None:
        """Start a session under a new id, or return None for a token that is not valid."""
        headers = caller_headers(request) | {"authorization": f"Bearer {token}"}
        caller = self._find(headers, request)
        if caller is None or not self._callers.has_tokens:
            return None
        self._sessions.end(visitor.session)
        session = self._sessions.start(token)
        return Visitor(session, True, caller, self._form_token(session), headers)

    def log_out(self, visitor: Visitor) -> None:
        """End the session."""
        self._sessions.end(visitor.session)

    def remember(self, response: Response, visitor: Visitor, request: Request) -> None:
        """Set the cookie: unreadable for scripts, sent from another site only with a link, and behind https only there.

        A link has to send it: a page that is opened without it gets a new cookie, and the session would be lost.
        """
        is_secure = request.url.scheme == "https" or request.headers.get("origin", "").startswith("https://")
        is_secure = is_secure or request.headers.get("x-forwarded-proto") == "https"
        response.set_cookie(self._cookie, visitor.session, httponly=True, samesite="lax", secure=is_secure)

    def _find(self, headers: Mapping[str, str], request: Request) -> Caller | None:
        address = request.client.host if request.client else ""
        return self._callers.find(headers.get("authorization", "").encode(), address, "x-forwarded-for" in headers)

    def _form_token(self, session: str) -> str:
        return hmac.new(self._key, session.encode(), hashlib.sha256).hexdigest()
