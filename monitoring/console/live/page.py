"""The routes of the page Live, and of the details behind an alert or a version."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import sqlalchemy as sa
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from monitoring.console.live.counts import PredictionCounts
from monitoring.console.live.events import WHY
from monitoring.console.live.ranges import RANGES, find_range
from monitoring.console.live.view import read_live
from monitoring.pages.site import Page, Site
from monitoring.retrain.history.lineage import Entry, trace
from monitoring.retrain.history.sources import open_sources
from pipeline.errors import EvergreenError
from pipeline.params import Params
from serving.prediction_log.writer import log_url


class Chain(NamedTuple):
    """The chain behind an alert or a version, or why there is none."""

    entries: list[Entry]
    fault: str


def live_routes(site: Site) -> Sequence[Route]:
    """Return the routes of the page."""
    late_s = float(site.params.monitor.late_s)
    counts = PredictionCounts(log_url(site.params.log, site.home), site.home / "console" / "counts", late_s, site.clock)

    async def show(request: Request) -> Response:
        chosen = find_range(request.query_params.get("range", ""))
        view = await asyncio.to_thread(read_live, site.params, site.home, counts, chosen, site.clock())
        every_ms = 1000 * site.params.alerts.evaluate_s
        return await site.html(LIVE, "live.html", view=view, chosen=chosen, ranges=RANGES, every_ms=every_ms)

    async def show_why(request: Request) -> Response:
        name = request.query_params.get("name", "").strip()
        answer = await asyncio.to_thread(ask_why, name, site.params, site.home) if name else Chain([], "")
        return await site.html(LIVE, "why.html", name=name, answer=answer)

    return [Route(LIVE.path, show), Route(WHY, show_why)]


def ask_why(name: str, params: Params, home: Path) -> Chain:
    """Return what `evergreen why` prints about a name."""
    try:
        with open_sources(home, params) as sources:
            return Chain(trace(name, sources), "")
    except EvergreenError as error:
        return Chain([], str(error))
    except sa.exc.SQLAlchemyError as error:
        return Chain([], f"the state database cannot be read: {str(error).splitlines()[0][:300]}")


LIVE = Page("Live", "/live", live_routes)
