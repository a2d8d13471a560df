"""The routes of the page Model."""

import asyncio
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from monitoring.console.model.figures import class_marks, interval_marks
from monitoring.console.model.version_card import VersionCard, other_settings, read_card
from monitoring.console.model.versions import VersionRow, compare_versions, list_versions
from monitoring.flywheel.label_return import LabelReturn
from monitoring.flywheel.queue.round import read_clusters
from monitoring.pages.site import Page, Site
from monitoring.release.evidence import describe_stage
from monitoring.release.runs import ReleaseRun, newest_runs
from monitoring.retrain.gate.recorded_verdicts import RecordedVerdict, find_verdict
from monitoring.retrain.gate.returns import read_returns
from monitoring.retrain.history.lineage import Entry, trace_version
from monitoring.retrain.history.sources import open_sources
from pipeline.errors import EvergreenError
from pipeline.params import Params
from state.database import read_state

SCORES = {"accuracy": "accuracy", "f1_macro": "macro-F1"}
OPEN_CLASSES = 8
COMPARED_CLASSES, COMPARED_TEXTS = 15, 5
RELEASES_READ = 100  # the newest; an older one is on the page Release
NOTHING = "Nothing is published yet."


class VersionHistory(NamedTuple):
    """The chain behind a version, the gate's last verdict on its content, its labels' return, and its newest release."""

    chain: list[Entry]
    verdict: RecordedVerdict | None = None
    returns: Sequence[LabelReturn] = ()
    release: ReleaseRun | None = None


def model_routes(site: Site) -> Sequence[Route]:
    """Return the routes of the page: the champion, a version, and two versions side by side."""

    async def champion(_request: Request) -> Response:
        versions = await _published(site)
        if not versions:
            return await site.html(MODEL, "model_away.html", what=NOTHING, do="make repro", versions=[])
        chosen = next((row.version for row in versions if row.role == "champion"), versions[0].version)
        return RedirectResponse(f"{MODEL.path}/{chosen}")

    async def version(request: Request) -> Response:
        number = _number(request, "version")
        return await _shown(site, "model.html", lambda versions: version_values(number, versions, site))

    async def pair(request: Request) -> Response:
        first, second = _number(request, "a"), _number(request, "b")
        return await _shown(site, "model_pair.html", lambda _versions: pair_values(first, second, site.params, site))

    return [
        Route(MODEL.path, champion),
        Route(f"{MODEL.path}/{{version}}", version),
        Route(f"{MODEL.path}/{{a}}/against/{{b}}", pair),
    ]


def _number(request: Request, name: str) -> int:
    """Return a version number of the path; anything else is a page that does not exist (`int` refuses thousands of digits)."""
    text = str(request.path_params[name])
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise HTTPException(404)
    return int(text)


async def _shown(site: Site, template: str, read: Callable[[list[VersionRow]], dict[str, Any]]) -> Response:
    """Render what `read` returns; where it raises, say why there is nothing to show."""
    versions = await _published(site)
    try:
        values = await asyncio.to_thread(read, versions)
    except EvergreenError as error:
        return await site.html(MODEL, "model_away.html", what=f"{error.where}: {error.what}", do=error.do, versions=versions)
    except OSError as error:
        return await site.html(MODEL, "model_away.html", what=str(error), do="", versions=versions)
    return await site.html(MODEL, template, versions=versions, **values)


def version_values(number: int, versions: Sequence[VersionRow], site: Site) -> dict[str, Any]:
    """Return what the page of a version shows; raise `EvergreenError` when its folder cannot be read."""
    card = read_card(number, site.params, site.home)
    row = next((row for row in versions if row.version == number), None)
    history = _history(number, row, site)
    report = card.facts.report
    marks = class_marks(report.get("classes", {}))
    return {
        "card": card,
        "row": row,
        "scores": interval_marks(card.facts.scores, report.get("intervals", {}), SCORES),
        "open_classes": marks[:OPEN_CLASSES],
        "folded_classes": marks[OPEN_CLASSES:],
        "settings": other_settings(card.facts, site.params),
        "confidence": card.facts.params.get("evaluate.confidence", str(site.params.evaluate.confidence)),
        "chain": history.chain,
        "verdict": history.verdict,
        "returns": history.returns,
        "release": history.release,
        "release_in_words": describe_stage(history.release, site.params.release) if history.release else "",
        "words": {cluster.id: cluster.words for cluster in read_clusters(site.home)},
        "least_return": site.params.flywheel.least_return,
    }


def pair_values(first: int, second: int, params: Params, site: Site) -> dict[str, Any]:
    """Return what the page of two versions shows; raise `EvergreenError` when a folder cannot be read."""
    cards: tuple[VersionCard, VersionCard] = read_card(first, params, site.home), read_card(second, params, site.home)
    found = compare_versions(*cards, params)
    by_kind = {kind: [change for change in found.texts if change.kind == kind] for kind in ("lost", "gained", "both wrong")}
    return {
        "a": cards[0],
        "b": cards[1],
        "found": found,
        "is_proved": found.p_value <= 1 - params.evaluate.confidence,
        "confidence": params.evaluate.confidence,
        "classes": found.classes[:COMPARED_CLASSES],
        "texts": {kind: changes[:COMPARED_TEXTS] for kind, changes in by_kind.items()},
        "counts": {kind: len(changes) for kind, changes in by_kind.items()},
    }


async def _published(site: Site) -> list[VersionRow]:
    """Return the published versions; none without a readable database."""

    def read() -> list[VersionRow]:
        try:
            with read_state(site.home) as connection:
                return [] if connection is None else list_versions(connection, site.home)
        except (sa.exc.SQLAlchemyError, OSError):
            return []

    return await asyncio.to_thread(read)


def _history(number: int, row: VersionRow | None, site: Site) -> VersionHistory:
    """Read what the state database knows about the version; nothing without a readable one."""
    try:
        with open_sources(site.home, site.params) as sources:
            chain = trace_version(number, sources)
            if row is None or sources.connection is None:
                return VersionHistory(chain)
            verdict = find_verdict(sources.connection, row.content_digest) if "gate_verdicts" in sources.tables else None
            returns = read_returns(sources.connection, row.content_digest) if "label_returns" in sources.tables else []
            runs = newest_runs(sources.connection, RELEASES_READ) if "release_runs" in sources.tables else []
            return VersionHistory(chain, verdict, returns, next((run for run in runs if run.version == number), None))
    except (sa.exc.SQLAlchemyError, EvergreenError, OSError):
        return VersionHistory([])


MODEL = Page("Model", "/model", model_routes)
