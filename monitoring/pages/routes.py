"""Routes that every service with pages has: the shared style and script, `/healthz` and `/metrics`."""

from pathlib import Path

from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from monitoring.pages.metrics import PageMetrics
from monitoring.pages.rendering import FILES, HEADERS
from serving.processes.health import health

MEDIA_TYPES = {".css": "text/css", ".js": "text/javascript"}


def service_routes(metrics: PageMetrics, service: str, home: Path) -> list[Route]:
    """Return the routes of this service of this home."""

    async def healthz(_request: Request) -> Response:
        return JSONResponse(health(service, home))

    async def metrics_text(_request: Request) -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE_PLAIN_0_0_4)

    shared = [file_route(FILES / name) for name in ("page.css", "page.js")]
    return [Route("/healthz", healthz), Route("/metrics", metrics_text), *shared]


def file_route(file: Path) -> Route:
    """Return the route of a style or a script, at its name."""

    async def send(_request: Request) -> Response:
        return FileResponse(file, media_type=MEDIA_TYPES[file.suffix], headers=HEADERS)

    return Route(f"/{file.name}", send)
