"""What a page of the console gets and gives: the site around it, and its entry in the navigation with its routes."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from monitoring.pages.navigation import Link, service_links
from monitoring.pages.rendering import HEADERS
from pipeline.params import Params


class Site(NamedTuple):
    """The settings and the home that pages read, and how they answer.

    A part of a page that needs a service which is away says so (`away.html`).
    """

    params: Params
    home: Path
    clock: Callable[[], float]
    count_refusal: Callable[[str], None]
    environment: Environment
    pages: Sequence["Page"]

    async def html(self, page: "Page | None", template: str, *, status: int = 200, **values: Any) -> Response:
        """Render a template of `files/`, which extends `layout.html` and fills its blocks `title` and `main`, as this page."""
        services = await asyncio.to_thread(service_links, self.params, self.home, current="Console")
        links = [Link(other.name, other.path, is_current=other is page) for other in self.pages]
        here = page.path if page else "/"
        text = self.environment.get_template(template).render(links=[*links, *services], here=here, now=self.clock(), **values)
        return HTMLResponse(text, status, headers=HEADERS)


class Page(NamedTuple):
    """An entry of the navigation, its path, and the function that makes its routes; the first route answers the path."""

    name: str
    path: str
    routes: Callable[[Site], Sequence[Route]]
