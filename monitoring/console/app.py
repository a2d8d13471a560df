"""The console's HTTP service: collects the pages, the navigation, and the style and scripts that they share."""

import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from monitoring.console.ab.page import AB
from monitoring.console.disputes.page import disputes_page
from monitoring.console.live.page import LIVE
from monitoring.console.login.access import ConsoleAccess
from monitoring.console.login.page import login_routes
from monitoring.console.model.page import MODEL
from monitoring.console.queue.action_log import StateAccess
from monitoring.console.queue.page import label_page
from monitoring.console.release.page import release_page
from monitoring.console.try_it.page import TRY_IT
from monitoring.pages.metrics import PageMetrics
from monitoring.pages.rendering import page_environment
from monitoring.pages.routes import MEDIA_TYPES, file_route, service_routes
from monitoring.pages.site import Site
from pipeline.home import find_home
from pipeline.output.plain_text import print_line
from pipeline.params import Params, load_params
from serving.processes.addresses import base_url, listen_host
from serving.processes.http_guard import HttpGuard
from serving.processes.http_service import run_http_service
from serving.processes.json_logs import log_in_json

FORM_PATHS = ("/label/", "/disputes/", "/release/", "/login", "/logout")  # others take JSON alone
FILES = Path(__file__).parent / "files"  # templates, styles and scripts of all pages


def create_app(params: Params, home: Path, clock: Callable[[], float], metrics: PageMetrics) -> Starlette:
    """Build the app over this home."""
    people, state = ConsoleAccess(params, home, clock), StateAccess(home)
    pages = (  # as the navigation lists them
        TRY_IT,
        LIVE,
        release_page(people, state),
        label_page(people, state),
        disputes_page(people, state),
        AB,
        MODEL,
    )
    site = Site(params, home, clock, metrics.count_refusal, page_environment(FILES), pages)

    async def index(_request: Request) -> Response:
        return RedirectResponse(pages[0].path)

    async def failed(request: Request, error: Exception) -> Response:
        path, log_file = request.url.path, home / "console" / "console.log"
        return await site.html(None, "failed.html", status=500, path=path, error=repr(error)[:300], log_file=log_file)

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        yield
        state.close()

    host = listen_host("console", params.alerts.host)
    files = [file_route(file) for file in sorted(FILES.iterdir()) if file.suffix in MEDIA_TYPES]
    return Starlette(
        routes=[
            Route("/", index),
            *(route for page in pages for route in page.routes(site)),
            *login_routes(site, people),
            *files,
            *service_routes(metrics, "console", home),
        ],
        exception_handlers={Exception: failed},  # for a person to read; the traceback goes to the log
        middleware=[Middleware(HttpGuard, params.http, host, metrics.count_refusal, form_paths=FORM_PATHS)],
        lifespan=lifespan,
    )


def main() -> None:
    """Serve the console until it is stopped."""
    log_in_json()
    params, home = load_params(), find_home()
    host, port = listen_host("console", params.alerts.host), params.alerts.console_port
    print_line(json.dumps({"event": "console", "url": base_url(host, port)}))
    metrics = PageMetrics()
    run_http_service(create_app(params, home, time.time, metrics), host, port, params.http, refused=metrics.count_refusal)
