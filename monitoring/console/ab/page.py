"""The routes of the page A/B."""

import asyncio
import threading
from collections.abc import Sequence
from typing import NamedTuple

import sqlalchemy as sa
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from monitoring.console.ab.interval_picture import picture_of
from monitoring.pages.site import Page, Site
from monitoring.release.ab.look import AbLook, AnswerMemory, look_at
from monitoring.release.ab.tests_table import AbTest, newest_tests
from pipeline.errors import EvergreenError
from state.database import read_state

SHOWN = 20
FRESH_S = 5.0  # a look serves everybody who asks within this time


class AbView(NamedTuple):
    """The newest test with a look at it, and the ones before."""

    look: AbLook | None
    earlier: Sequence[AbTest]


class AbLooks:
    """Looks at the newest test, at most one at a time: a look may read much of the prediction log."""

    def __init__(self, site: Site) -> None:
        self._site, self._memory, self._lock = site, AnswerMemory(), threading.Lock()
        self._last: tuple[float, AbView] | None = None

    def read(self) -> AbView:
        """Return what there is to see, at most `FRESH_S` old; raise what a database or a log that is away raises."""
        with self._lock:
            now = self._site.clock()
            if self._last is None or not 0 <= now - self._last[0] < FRESH_S:
                self._last = now, self._read(now)
            return self._last[1]

    def _read(self, now: float) -> AbView:
        with read_state(self._site.home) as connection:
            tests = [] if connection is None else newest_tests(connection, SHOWN)
            if not tests or connection is None:
                return AbView(None, [])
            look = look_at(tests[0], connection, self._site.params, self._site.home, now, self._memory)
        return AbView(look, tests[1:])


def ab_routes(site: Site) -> Sequence[Route]:
    """Return the route of the page."""
    looks = AbLooks(site)

    async def show(_request: Request) -> Response:
        try:
            view = await asyncio.to_thread(looks.read)
        except (EvergreenError, sa.exc.SQLAlchemyError, OSError) as error:
            why = (str(error).splitlines() or [repr(error)])[0][:300]
            return await site.html(AB, "ab_away.html", why=why)
        look = view.look
        return await site.html(
            AB,
            "ab.html",
            look=look,
            record=look.record() if look else None,
            picture=picture_of(look.verdict.difference, look.test.margin) if look else None,
            earlier=view.earlier,
            every_ms=1000 * site.params.alerts.evaluate_s,
        )

    return [Route(AB.path, show)]


AB = Page("A/B", "/ab", ab_routes)
