"""The routes of the page Release."""

import asyncio
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import structlog
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from monitoring.console.login.access import ConsoleAccess, Visitor
from monitoring.console.login.forms import Access, Form, account, form_route, go_to, page_route, protected_page
from monitoring.console.queue.action_log import StateAccess
from monitoring.console.release.view import ShownRelease, show_release
from monitoring.pages.site import Page
from monitoring.release.runs import ReleaseRun, Wish, newest_runs, read_run, running_run, set_wish
from pipeline.params import ReleaseSettings
from serving.arm_counts import read_counts

PATH = "/release"
PAST_SHOWN = 20
EVERY_MS = 5000
WISHES: dict[str, Wish] = {"pause": "pause", "resume": "none", "abort": "abort"}  # form → wish
TOO_LATE = "This release has ended, or a person has already chosen to end it. Nothing was changed: this is how it stands now."
log = structlog.get_logger()


class Releases(NamedTuple):
    """The release of the page, and the newest ones."""

    shown: ShownRelease | None
    past: list[ReleaseRun]


def release_page(people: ConsoleAccess, state: StateAccess) -> Page:
    """Return the page."""
    return protected_page("Release", PATH, people, lambda access: release_routes(access, state))


def release_routes(access: Access, state: StateAccess) -> Sequence[Route]:
    """Return the routes: the release that runs or ended last, one release, and the forms of an administrator."""
    site, settings = access.site, access.site.params.release

    async def show(_request: Request, visitor: Visitor) -> Response:
        return await _page(visitor, None)

    async def show_one(request: Request, visitor: Visitor) -> Response:
        retrain_id = _id(str(request.path_params["retrain"]))
        if retrain_id is None:
            raise HTTPException(404)
        return await _page(visitor, retrain_id)

    async def _page(visitor: Visitor, retrain_id: int | None, problem: str = "") -> Response:
        releases = await asyncio.to_thread(read_releases, state, retrain_id, settings)
        if retrain_id is not None and releases.shown is None:
            raise HTTPException(404)
        values: dict[str, Any] = {
            "shown": releases.shown,
            "past": releases.past,
            "settings": settings,
            "may_wish": visitor.may("admin"),
            "problem": problem,
            "every_ms": EVERY_MS,
            **account(visitor),
        }
        return await site.html(access.page, "release.html", status=409 if problem else 200, **values)

    def wish_route(name: str, wish: Wish) -> Route:
        async def store(_request: Request, visitor: Visitor, form: Form) -> Response:
            retrain_id = _id(form.text("retrain"))
            if retrain_id is None or not await asyncio.to_thread(_store, state, retrain_id, wish):
                return await _page(visitor, None, TOO_LATE)
            log.info("a person wishes", of="release", retrain=retrain_id, wish=wish, by=visitor.name)
            return go_to(PATH)

        return form_route(access, f"{PATH}/{name}", "admin", store)

    return [
        page_route(access, PATH, None, show),
        *(wish_route(name, wish) for name, wish in WISHES.items()),
        page_route(access, f"{PATH}/{{retrain}}", None, show_one),
    ]


def read_releases(state: StateAccess, retrain_id: int | None, settings: ReleaseSettings) -> Releases:
    """Read one release, by default the one that runs or else ended last, and the newest that have ended."""
    with state.reading.begin() as connection:
        newest = newest_runs(connection, PAST_SHOWN)
        run = read_run(connection, retrain_id) if retrain_id is not None else running_run(connection) or next(iter(newest), None)
        shown = None if run is None else show_release(run, read_counts(connection, run.salt), settings)
    return Releases(shown, [other for other in newest if other.outcome is not None])


def _id(text: str) -> int | None:
    """Return the id of a retrain, None for anything else."""
    return int(text) if re.fullmatch(r"[0-9]{1,9}", text) else None


def _store(state: StateAccess, retrain_id: int, wish: Wish) -> bool:
    with state.engine.begin() as connection:
        return set_wish(connection, retrain_id, wish)
