"""What the pages of the queue show: clusters, one cluster, one text."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import sqlalchemy as sa
from starlette.responses import Response

from monitoring.console.login.access import Visitor
from monitoring.console.login.forms import Access, account
from monitoring.console.model.served_labels import served_labels
from monitoring.console.queue.action_log import NotedAction, StateAccess, last_actions
from monitoring.console.queue.batches import Batches
from monitoring.console.queue.choices import common_labels, likely_labels, near_labels
from monitoring.console.queue.release_texts import AskedTexts, ReleaseTexts, is_blind
from monitoring.console.queue.round_index import RoundIndex, last_round
from monitoring.console.queue.standing import QueueStanding, read_standing
from monitoring.console.queue.where import VERIFY, Where
from monitoring.console.try_it.asking import ExplainedRefusal
from monitoring.console.try_it.neighbours import Neighbours, find_neighbours
from monitoring.flywheel.proposals import read_proposals
from monitoring.flywheel.queue.effort import read_effort
from monitoring.flywheel.queue.round import Cluster, LabelCandidate

TEXTS_A_PAGE, CLUSTERS_SHOWN = 50, 100
SHORT_CHARS = 400  # of a text in a list
NEAR_TEXTS, GIVEN_LABELS = 3, 3
SAME_TEXT = 0.999  # similarity of a training text that is this one: a control text would be known by it, and so its label
NO_ROUND = ExplainedRefusal(
    "There is no round yet: nothing has been chosen for labelling.", "Make one:", ".venv/bin/evergreen clusters --refresh"
)


class ClusterRow(NamedTuple):
    """A cluster in the list."""

    cluster: Cluster
    texts: int
    done: int
    is_open: bool
    central: Sequence[str]

    @property
    def share(self) -> float:
        """Return the share of its texts that are labelled."""
        return self.done / self.texts if self.texts else 0.0


class LabelPages:
    """Renders the pages for one person."""

    def __init__(self, access: Access, state: StateAccess) -> None:
        self._access, self._site, self._state = access, access.site, state
        self._batches = Batches(access.site.params, access.site.home)
        self._release = ReleaseTexts(access.site.params, access.site.home, state, access.site.clock)

    async def index(self) -> RoundIndex | None:
        """Return the last round, or an empty one while only a release asks; None when there is nothing that can be read."""
        with suppress(OSError, ValueError, KeyError, TypeError):
            index = await asyncio.to_thread(last_round, self._site.home)
            if index is not None:
                return index
        return (await asyncio.to_thread(self._release.read)).without_round()

    async def known_labels(self) -> frozenset[str]:
        """Return the champion's labels."""
        return (await asyncio.to_thread(served_labels, self._site.home)).labels

    async def overview(self, visitor: Visitor, index: RoundIndex) -> Response:
        """Show the clusters from the highest rank to the lowest."""
        standing, common = await self._common(visitor, index)
        rows = [_row(cluster, index, standing) for cluster in index.round.clusters[:CLUSTERS_SHOWN]]
        open_sure = len(index.sure - standing.closed)
        open_texts = len(index.round.candidates) - len(standing.closed)
        hidden = len(index.round.clusters) - len(rows)
        return await self._html("label.html", rows=rows, hidden=hidden, open_sure=open_sure, open_texts=open_texts, **common)

    async def cluster(
        self, visitor: Visitor, index: RoundIndex, where: Where, *, page: int = 1, ticked: bool = False, **more: Any
    ) -> Response:
        """Show the open texts of one cluster, for one label at once."""
        standing, common = await self._common(visitor, index)
        cluster = index.clusters[where.cluster if where.cluster is not None else -1]
        places = index.by_cluster[cluster.id]
        open_places = [place for place in places if place not in standing.closed]
        pages = max(1, -(-len(open_places) // TEXTS_A_PAGE))
        page = min(max(1, page), pages)
        shown = [index.round.candidates[at] for at in open_places[(page - 1) * TEXTS_A_PAGE : page * TEXTS_A_PAGE]]
        given = [*standing.counts_of(places, GIVEN_LABELS), *await asyncio.to_thread(self._proposed, cluster.id)]
        values = {
            "row": _row(cluster, index, standing),
            "candidates": shown,
            "short_chars": SHORT_CHARS,
            "open_texts": len(open_places),
            "page_number": page,
            "pages": pages,
            "ticked": ticked,
            "choices": common_labels(shown, given),
            "known": sorted(await self.known_labels()),
            "where": where,
        }
        refusal = more.get("refusal")
        values |= await self._refusal(refusal, more.get("typed", ""))
        return await self._html("label_cluster.html", status=422 if refusal else 200, **common, **values)

    async def text(self, visitor: Visitor, index: RoundIndex, candidate: LabelCandidate, where: Where, **more: Any) -> Response:
        """Show one text, with all that helps to label it."""
        if is_blind(candidate):
            return await self._blind(visitor, index, candidate, where, **more)
        standing, common = await self._common(visitor, index)
        neighbours = await self._near_texts(candidate)
        given = standing.counts_of(index.by_cluster.get(candidate.cluster, ()), GIVEN_LABELS)
        proposed = await asyncio.to_thread(self._proposed, candidate.cluster)
        batch = await asyncio.to_thread(self._batches.read, visitor.name, where.mode, index)
        left = len(_open_places(index, standing, where)) + len(_open_controls(batch.candidates, index, standing, where))
        left += common["asked"] if where == Where() else 0
        values = {
            "candidate": candidate,
            "cluster": index.clusters.get(candidate.cluster),
            "choices": likely_labels(candidate, [*given, *proposed], [row.label for row in neighbours.rows]),
            "neighbours": neighbours,
            "mine": standing.mine.get(candidate.prediction_id),
            "known": sorted(await self.known_labels()),
            "left": left,
            "where": where,
        }
        refusal = more.get("refusal")
        values |= await self._refusal(refusal, more.get("typed", ""))
        return await self._html("label_text.html", status=422 if refusal else 200, **common, **values)

    async def _blind(self, visitor: Visitor, index: RoundIndex, candidate: LabelCandidate, where: Where, **more: Any) -> Response:
        """Show a text of the release with all labels in order of the alphabet, and nothing that a model said."""
        standing, common = await self._common(visitor, index)
        values = {
            "candidate": candidate,
            "mine": standing.mine.get(candidate.prediction_id),
            "known": sorted(await self.known_labels()),
            "left": len(_open_places(index, standing, where)) + common["asked"],
            "where": where,
        }
        refusal = more.get("refusal")
        values |= await self._refusal(refusal, more.get("typed", ""))
        return await self._html("label_blind.html", status=422 if refusal else 200, **common, **values)

    async def nothing_left(self, visitor: Visitor, index: RoundIndex, where: Where) -> Response:
        """Show that this person has answered everything."""
        _standing, common = await self._common(visitor, index)
        return await self._html("label_done.html", where=where, cluster=index.clusters.get(where.cluster or -1), **common)

    async def refused(self, visitor: Visitor, where: Where, refusal: ExplainedRefusal) -> Response:
        """Show why something was not done."""
        return await self._html("label_away.html", status=409, shown=refusal, where=where, **account(visitor))

    async def away(self, visitor: Visitor) -> Response:
        """Show that there is no round."""
        return await self._html("label_away.html", shown=NO_ROUND, where=Where(), **account(visitor))

    async def next_text(self, visitor: Visitor, index: RoundIndex, where: Where) -> LabelCandidate | None:
        """Return the next open text: of the release first; in one cluster the first one, else of a batch with control texts."""
        return await asyncio.to_thread(self._next, visitor, index, where)

    async def candidate(self, visitor: Visitor, index: RoundIndex, prediction_id: str) -> LabelCandidate | None:
        """Return the text of the release, the candidate of the round, or the control text of this person, that has this id."""
        asked = await asyncio.to_thread(self._release.read)
        if (blind := asked.find(prediction_id)) is not None:
            return blind
        if (candidate := index.candidate(prediction_id)) is not None:
            return candidate
        for mode in ("", VERIFY):
            batch = await asyncio.to_thread(self._batches.read, visitor.name, mode, index)
            for control in batch.controls:
                if control.prediction_id == prediction_id:
                    return control
        return None

    def _next(self, visitor: Visitor, index: RoundIndex, where: Where) -> LabelCandidate | None:
        if where == Where() and (blind := self._release.next_text(visitor.name)) is not None:
            return blind
        with self._state.reading.begin() as connection:
            standing = self._standing(connection, visitor, index, self._release.read())
        places = _open_places(index, standing, where)
        if where.cluster is not None:
            return index.round.candidates[places[0]] if places else None
        with self._batches.lock:  # two tabs of a person must not draw at once: the first batch would be lost
            batch = self._batches.read(visitor.name, where.mode, index)
            if not any(standing.is_open(candidate, index) for candidate in batch.candidates):
                batch = self._batches.draw(visitor.name, where.mode, index, standing, places)
        return next((candidate for candidate in batch.candidates if standing.is_open(candidate, index)), None)

    async def _html(self, template: str, *, status: int = 200, **values: Any) -> Response:
        return await self._site.html(self._access.page, template, status=status, **values)

    async def _common(self, visitor: Visitor, index: RoundIndex) -> tuple[QueueStanding, dict[str, Any]]:
        """Return what is open for the person, and what every page shows: progress, the last action, the round."""
        asked = await asyncio.to_thread(self._release.read)
        standing, last, effort = await asyncio.to_thread(self._read, visitor, index, asked)
        served = await asyncio.to_thread(served_labels, self._site.home)
        values = {
            "effort": effort,
            "asked": len(asked.open_for(visitor.name)),
            "budget": self._site.params.flywheel.budget,
            "last": last,
            "made_at": index.round.made_at,
            "made_for": index.round.version,
            "champion": served.version,
            "people": self._site.params.labels.new_text_people,
            "shown_at": self._site.clock(),
            **account(visitor),
        }
        return standing, values

    def _read(self, visitor: Visitor, index: RoundIndex, asked: AskedTexts) -> tuple[QueueStanding, list[NotedAction], Any]:
        with self._state.reading.begin() as connection:
            standing = self._standing(connection, visitor, index, asked)
            last = [action for action in last_actions(connection, visitor.name) if action.at >= index.round.made_at]
            return standing, last, read_effort(connection, index.round.made_at)

    def _standing(self, connection: sa.Connection, visitor: Visitor, index: RoundIndex, asked: AskedTexts) -> QueueStanding:
        """Return what is open for the person in the round, without the texts of the release."""
        standing = read_standing(connection, index, visitor.name, self._site.params.labels.new_text_people)
        return standing._replace(closed=standing.closed | asked.places(index))

    def _proposed(self, cluster: int) -> list[str]:
        """Return the names that people have proposed for the cluster's intent."""
        with self._state.reading.begin() as connection:
            return read_proposals(connection).get(cluster, [])[:GIVEN_LABELS]

    async def _near_texts(self, candidate: LabelCandidate) -> Neighbours:
        found = await find_neighbours(candidate.text, candidate.version, self._site.params, self._site.home)
        others = [row for row in found.rows if row.similarity < SAME_TEXT]
        return found._replace(rows=others[:NEAR_TEXTS])

    async def _refusal(self, refusal: ExplainedRefusal | None, typed: str) -> dict[str, Any]:
        near = near_labels(typed, await self.known_labels()) if refusal and typed else []
        return {"refusal": refusal, "typed": typed, "near": near}


def _open_places(index: RoundIndex, standing: QueueStanding, where: Where) -> list[int]:
    """Return the places that the person is asked about, in the order of the queue."""
    places = _places(index, where)
    return [place for place in places if place not in standing.closed and (where.mode != VERIFY or place in index.sure)]


def _open_controls(
    candidates: Sequence[LabelCandidate], index: RoundIndex, standing: QueueStanding, where: Where
) -> list[LabelCandidate]:
    """Return the control texts among them that are not answered; one cluster has none."""
    controls = [row for row in candidates if index.candidate(row.prediction_id) is None]
    return [row for row in controls if where.cluster is None and standing.is_open(row, index)]


def _places(index: RoundIndex, where: Where) -> Sequence[int]:
    return range(len(index.round.candidates)) if where.cluster is None else index.by_cluster.get(where.cluster, ())


def _row(cluster: Cluster, index: RoundIndex, standing: QueueStanding) -> ClusterRow:
    places = index.by_cluster[cluster.id]
    texts = [index.round.candidates[index.by_text[id]].text for id in cluster.central if id in index.by_text]
    done = sum(place in standing.done for place in places)
    is_open = any(place not in standing.closed for place in places)
    return ClusterRow(cluster, len(places), done, is_open, texts[:3])
