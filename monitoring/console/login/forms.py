"""Routes for people with a scope: pages, and forms that count only when they come from a page of this console.

A form passes when the browser says that it comes from our own origin (`HttpGuard`), and carries the secret of its session.
"""

import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, quote

import sqlalchemy as sa
import structlog
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from monitoring.console.login.access import ConsoleAccess, Visitor
from monitoring.pages.rendering import HEADERS
from monitoring.pages.site import Page, Site
from pipeline.errors import EvergreenError
from serving.access.tokens import Scope
from serving.processes.http_body import BodyError, read_body

MAX_FORM_BYTES, MAX_FIELDS = 256 * 1024, 1000
SEE_OTHER = 303
LOGIN = "/login"


class Form:
    """The fields of a form."""

    def __init__(self, pairs: list[tuple[str, str]]) -> None:
        self._pairs = pairs

    def text(self, name: str) -> str:
        """Return a field, empty when it is not there."""
        return next((value for key, value in self._pairs if key == name), "")

    def texts(self, name: str) -> list[str]:
        """Return all fields of this name."""
        return [value for key, value in self._pairs if key == name]

    def label(self, name: str) -> str:
        """Return a label that a page of ours has written as JSON, so that it comes back unchanged; empty for anything else."""
        try:
            value = json.loads(self.text(name))
            return value if isinstance(value, str) and value.encode() else ""
        except (ValueError, RecursionError):  # no JSON, half a character, or nested too deeply
            return ""

    def number(self, name: str) -> float | None:
        """Return a number, or None for anything else."""
        try:
            return float(self.text(name)[:32])
        except ValueError:
            return None


class Access(NamedTuple):
    """What a protected route needs: the site, the people, and its page."""

    site: Site
    people: ConsoleAccess
    page: Page


Routes = Callable[[Access], Sequence[Route]]
Show = Callable[[Request, Visitor], Awaitable[Response]]
Change = Callable[[Request, Visitor, Form], Awaitable[Response]]
Handle = Callable[[Request], Awaitable[Response]]

log = structlog.get_logger()


def protected_page(name: str, path: str, people: ConsoleAccess, routes: Routes) -> Page:
    """Return a page whose routes know who visits them."""
    page = Page(name, path, lambda site: routes(Access(site, people, page)))
    return page


def page_route(access: Access, path: str, scope: Scope | None, show: Show) -> Route:
    """Return the route of a page that asks for this scope, if any, and gives a new browser its cookie."""

    async def handle(request: Request) -> Response:
        visitor = access.people.visitor(request)
        if scope is not None and not visitor.may(scope):
            return await _without_scope(access, request, visitor, scope)
        response = await show(request, visitor)
        if visitor.is_new:
            access.people.remember(response, visitor, request)
        return response

    return Route(path, _explaining(access, handle))


def form_route(access: Access, path: str, scope: Scope | None, change: Change) -> Route:
    """Return the route of a form that only a person with this scope may send, from a page of this console."""

    async def handle(request: Request) -> Response:
        visitor, form = access.people.visitor(request), await _read_form(request, access.site)
        if not access.people.is_own_form(visitor, form.text("form_token")):
            access.site.count_refusal("form_token")
            what = "This form is not from a page that this browser got here, or the page is too old. Nothing was changed."
            return await _refused(access, 403, what, "Load the page again, and send it from there.")
        if scope is not None and not visitor.may(scope):
            return await _without_scope(access, request, visitor, scope)
        return await change(request, visitor, form)

    return Route(path, _explaining(access, handle), methods=["POST"])


def _explaining(access: Access, handle: Handle) -> Handle:
    """Answer with what is wrong and what to do where tokens, keys, the form or the database cannot be read."""

    async def explain(request: Request) -> Response:
        try:
            return await handle(request)
        except EvergreenError as error:
            return await _refused(access, 503, f"{error.where}: {error.what}", error.do)
        except BodyError as error:
            access.site.count_refusal(error.code)
            return await _refused(access, error.status, f"The console cannot read this form: {error}.", "")
        except sa.exc.SQLAlchemyError as error:
            log.warning("could not use the state database", error=str(error)[:300])
            what = "The state database does not answer. What the gateway has accepted is stored."
            return await _refused(access, 503, what, "Load the page again. To find the cause: .venv/bin/evergreen doctor")

    return explain


def go_to(path: str) -> Response:
    """Lead to a page after a form."""
    return RedirectResponse(path, SEE_OTHER, headers=HEADERS)


def account(visitor: Visitor) -> dict[str, Any]:
    """Return what every template with a form needs."""
    return {"visitor": visitor, "form_token": visitor.form_token}


async def _read_form(request: Request, site: Site) -> Form:
    body = await read_body(request.scope, request.receive, max_bytes=MAX_FORM_BYTES, within_s=site.params.http.body_within_s)
    try:
        return Form(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=MAX_FIELDS))
    except ValueError:
        raise BodyError("it has too many fields") from None


async def _without_scope(access: Access, request: Request, visitor: Visitor, scope: Scope) -> Response:
    """Lead to the login, or say that the token lacks the scope."""
    if visitor.caller is None or not visitor.is_logged_in:
        back = request.url.path if request.method == "GET" else access.page.path
        reason = "&ended=1" if visitor.was_ended else ""
        return go_to(f"{LOGIN}?to={quote(back)}{reason}")
    what = f"The token of {visitor.name} may not do this: it lacks the scope {scope}."
    do = f"An administrator makes another: .venv/bin/evergreen token add {visitor.name} --scope {scope}"
    return await _refused(access, 403, what, do, login=LOGIN)


async def _refused(access: Access, status: int, what: str, do: str, login: str = "") -> Response:
    return await access.site.html(access.page, "refused.html", status=status, what=what, do=do, login=login)
