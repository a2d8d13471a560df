"""The pages / and /docs: Swagger, served by the gateway itself, so that it works offline. Knows no route of the API.

`files/` holds Swagger's script and style as npm's `swagger-ui-dist` 5.35.0 has them, their licences, and our page around them.
"""

import os
from collections.abc import Awaitable, Callable
from pathlib import Path

from fastapi import FastAPI, Response
from starlette.responses import FileResponse, RedirectResponse

FRONT_PAGE = "EVERGREEN_FRONT_PAGE"  # environment variable: where `/` leads, such as the console; by default to /docs
FILES = Path(__file__).parent / "files"
PAGES = {  # each file of the page by its path
    "/docs": "docs.html",
    **{f"/docs/{name}": name for name in ("docs.css", "docs.js", "swagger-ui.css", "swagger-ui-bundle.js")},
}
HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "cache-control": "no-cache",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


def add_docs_page(app: FastAPI) -> None:
    """Add the page, its files, and `/`."""
    front_page = os.environ.get(FRONT_PAGE) or "/docs"

    async def index() -> Response:
        return RedirectResponse(front_page, headers={"cache-control": "no-store"})

    app.get("/", include_in_schema=False)(index)
    for path, name in PAGES.items():
        app.get(path, include_in_schema=False)(_sender(FILES / name))


def _sender(file: Path) -> Callable[[], Awaitable[Response]]:
    async def send_file() -> Response:
        return FileResponse(file, headers=HEADERS)

    return send_file
