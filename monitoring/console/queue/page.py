"""The routes of the page Label."""

from collections.abc import Awaitable, Callable, Sequence

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from monitoring.console.login.access import ConsoleAccess, Visitor
from monitoring.console.login.forms import Access, go_to, page_route, protected_page
from monitoring.console.queue.action_log import StateAccess
from monitoring.console.queue.giving import GONE, Giving
from monitoring.console.queue.round_index import RoundIndex
from monitoring.console.queue.shown import LabelPages
from monitoring.console.queue.where import PATH, Where
from monitoring.pages.site import Page

ShowRound = Callable[[Request, Visitor, RoundIndex], Awaitable[Response]]


def label_page(people: ConsoleAccess, state: StateAccess) -> Page:
    """Return the page."""
    return protected_page("Label", PATH, people, lambda access: label_routes(access, state))


def label_routes(access: Access, state: StateAccess) -> Sequence[Route]:
    """Return the routes: clusters, one cluster, one text, the next text, and the forms."""
    pages = LabelPages(access, state)

    async def overview(_request: Request, visitor: Visitor, index: RoundIndex) -> Response:
        return await pages.overview(visitor, index)

    async def cluster(request: Request, visitor: Visitor, index: RoundIndex) -> Response:
        where = Where.of(str(request.path_params["cluster"]), "")
        if where.cluster not in index.clusters:
            return await pages.refused(visitor, Where(), GONE._replace(what="This cluster is not in the last round."))
        page = request.query_params.get("page", "1")[:6]
        number = int(page) if page.isascii() and page.isdigit() else 1
        return await pages.cluster(visitor, index, where, page=number, ticked="ticked" in request.query_params)

    async def next_text(request: Request, visitor: Visitor, index: RoundIndex) -> Response:
        where = _where(request)
        candidate = await pages.next_text(visitor, index, where)
        if candidate is None:
            return await pages.nothing_left(visitor, index, where)
        return go_to(where.text_path(candidate.prediction_id))

    async def text(request: Request, visitor: Visitor, index: RoundIndex) -> Response:
        where, candidate = _where(request), await pages.candidate(visitor, index, str(request.path_params["id"]))
        if candidate is None:
            return await pages.refused(visitor, where, GONE)
        return await pages.text(visitor, index, candidate, where)

    def route(path: str, show: ShowRound) -> Route:
        async def handle(request: Request, visitor: Visitor) -> Response:
            index = await pages.index()
            return await pages.away(visitor) if index is None else await show(request, visitor, index)

        return page_route(access, path, "label", handle)

    return [
        route(PATH, overview),
        route(f"{PATH}/next", next_text),
        route(f"{PATH}/cluster/{{cluster}}", cluster),
        route(f"{PATH}/text/{{id}}", text),
        *Giving(access, state, pages).routes(),
    ]


def _where(request: Request) -> Where:
    return Where.of(request.query_params.get("cluster", ""), request.query_params.get("mode", ""))
