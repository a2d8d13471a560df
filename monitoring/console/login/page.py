"""The page Log in: takes a token in a form, never in an address."""

from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from monitoring.console.login.access import ConsoleAccess, Visitor
from monitoring.console.login.forms import LOGIN, Access, Form, account, form_route, go_to, page_route
from monitoring.pages.site import Page, Site

TARGETS = ("/label", "/disputes", "/release")  # where a login may lead: an address in the form is not trusted
LOGIN_PAGE = Page("Log in", LOGIN, lambda _site: ())


def login_routes(site: Site, people: ConsoleAccess) -> Sequence[Route]:
    """Return the routes: the form, the login and the logout."""
    access = Access(site, people, LOGIN_PAGE)

    async def show(request: Request, visitor: Visitor) -> Response:
        query = request.query_params
        return await _form(visitor, _target(query.get("to", "")), is_over="ended" in query)

    async def log_in(request: Request, visitor: Visitor, form: Form) -> Response:
        target = _target(form.text("to"))
        logged_in = people.log_in(request, visitor, form.text("token").strip())
        if logged_in is None:
            site.count_refusal("token")
            return await _form(visitor, target, is_wrong=True, status=401)
        response = go_to(target)
        people.remember(response, logged_in, request)
        return response

    async def log_out(_request: Request, visitor: Visitor, _form: Form) -> Response:
        people.log_out(visitor)
        return go_to(LOGIN)

    async def _form(
        visitor: Visitor, target: str, *, is_wrong: bool = False, is_over: bool = False, status: int = 200
    ) -> Response:
        return await site.html(
            LOGIN_PAGE, "login.html", status=status, target=target, is_wrong=is_wrong, is_over=is_over, **account(visitor)
        )

    return [
        page_route(access, LOGIN, None, show),
        form_route(access, LOGIN, None, log_in),
        form_route(access, "/logout", None, log_out),
    ]


def _target(path: str) -> str:
    """Return the path if it is one of ours, else the label queue."""
    is_ours = any(path == target or path.startswith(f"{target}/") for target in TARGETS)
    return path if is_ours and path.isprintable() and "\\" not in path else TARGETS[0]
