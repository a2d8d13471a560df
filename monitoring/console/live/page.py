"""The route of the page Live."""

from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from monitoring.pages.site import Page, Site


def live_routes(site: Site) -> Sequence[Route]:
    """Return the routes of the page."""

    async def show(_request: Request) -> Response:
        return await site.html(LIVE, "live.html")

    return [Route(LIVE.path, show)]


LIVE = Page("Live", "/live", live_routes)
