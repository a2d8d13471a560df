"""The forms of the page Label: give a label to one text or to many, skip, undo. Each sends to the gateway first, then notes it.

So a console that is killed in between has lost nothing: the label is in force, and the gateway counts it once if sent again.
"""

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from monitoring.console.login.access import Visitor
from monitoring.console.login.forms import Access, Form, form_route, go_to
from monitoring.console.queue.action_log import NotedAction, StateAccess, action_on, last_actions, store_actions
from monitoring.console.queue.choices import known_label
from monitoring.console.queue.round_index import RoundIndex
from monitoring.console.queue.shown import LabelPages
from monitoring.console.queue.undoing import take_back
from monitoring.console.queue.where import PATH, Where
from monitoring.console.try_it.asking import ExplainedRefusal, explain, gateway_url, give_label
from monitoring.flywheel.proposals import is_usable_name
from monitoring.flywheel.queue.progress import PROPOSE, SKIP
from monitoring.flywheel.queue.round import LabelCandidate
from pipeline.data.records import MAX_LABEL_CHARS
from serving.gateway_client import Reply

GONE = ExplainedRefusal("This text is not in the last round any more.", "Go on with the next one.")
CLUSTER_GONE = ExplainedRefusal("This cluster is not in the last round any more: no text was labelled.", "Choose another one.")


class Given(NamedTuple):
    """A label that a form gives."""

    label: str
    is_new: bool  # a person proposes it
    is_verified: bool


class Giving:
    """The handlers of the forms."""

    def __init__(self, access: Access, state: StateAccess, pages: LabelPages) -> None:
        self._site, self._state, self._pages = access.site, state, pages
        self._gateway = gateway_url(access.site.params)
        self._access = access

    def routes(self) -> Sequence[Route]:
        """Return the routes; all ask for the scope `label`."""
        path = self._access.page.path
        handlers = {"give": self.give, "bulk": self.give_many, "skip": self.skip, "undo": self.undo}
        return [form_route(self._access, f"{path}/{name}", "label", handle) for name, handle in handlers.items()]

    async def give(self, request: Request, visitor: Visitor, form: Form) -> Response:
        """Label one text, and lead to the next."""
        where, index = Where.of_form(form), await self._pages.index()
        candidate = await self._pages.candidate(visitor, index, form.text("id")) if index else None
        if index is None or candidate is None:
            return await self._pages.refused(visitor, where, GONE)
        given = await self._given(form, candidate)
        if isinstance(given, ExplainedRefusal):
            return await self._pages.text(visitor, index, candidate, where, refusal=given, typed=form.text("typed"))
        reply = await asyncio.to_thread(give_label, self._gateway, candidate.prediction_id, given.label, visitor.headers)
        if reply.status != 201:
            return await self._pages.text(visitor, index, candidate, where, refusal=self._explain(reply))
        action = action_on(candidate, _kind(reply, given), given.label, form.number("shown_at"), self._site.clock())
        await asyncio.to_thread(store_actions, self._state.engine, visitor.name, [action])
        return go_to(where.next_path)

    async def give_many(self, request: Request, visitor: Visitor, form: Form) -> Response:
        """Give one label to all ticked texts of a cluster."""
        where, index = Where.of_form(form), await self._pages.index()
        if index is None or where.cluster not in index.clusters:
            return await self._pages.refused(visitor, Where(), CLUSTER_GONE)
        ids = list(dict.fromkeys(form.texts("id")))
        ticked = [candidate for id in ids if (candidate := index.candidate(id))]
        given = await self._given(form, None)
        if not ids:
            given = ExplainedRefusal("No text is ticked.", "Tick the texts that have the label, then choose it.")
        if isinstance(given, ExplainedRefusal):
            return await self._pages.cluster(visitor, index, where, refusal=given, typed=form.text("typed"))
        done, refusal = await asyncio.to_thread(self._give_all, ticked, given, visitor, form.number("shown_at"))
        gone = len(ids) - len(ticked)
        if refusal is not None or gone:
            refusal = refusal or ExplainedRefusal("", "Go on with the texts below.")
            missing = f"{gone} of the ticked texts {'is' if gone == 1 else 'are'} not in the last round any more." if gone else ""
            what = " ".join(filter(None, (f"{done} of {len(ids)} texts have the label now.", missing, refusal.what)))
            return await self._pages.cluster(visitor, index, where, refusal=refusal._replace(what=what))
        return go_to(where.cluster_path)

    async def skip(self, request: Request, visitor: Visitor, form: Form) -> Response:
        """Do not ask this person about the text again."""
        where, index = Where.of_form(form), await self._pages.index()
        candidate = await self._pages.candidate(visitor, index, form.text("id")) if index else None
        if candidate is None:
            return await self._pages.refused(visitor, where, GONE)
        action = action_on(candidate, SKIP, None, form.number("shown_at"), self._site.clock())
        await asyncio.to_thread(store_actions, self._state.engine, visitor.name, [action])
        return go_to(where.next_path)

    async def undo(self, request: Request, visitor: Visitor, form: Form) -> Response:
        """Undo the action that the form names, while it is this person's last: its labels are taken back at the gateway."""
        where, index = Where.of_form(form), await self._pages.index()
        actions = await asyncio.to_thread(self._last, visitor.name)
        if not actions or actions[0].at != form.number("last_at"):
            return go_to(where.path if _has_cluster(index, where.cluster) else PATH)
        now = self._site.clock()
        refused = await asyncio.to_thread(take_back, self._state, self._gateway, visitor, actions, now)
        if refused is not None:
            return await self._pages.refused(visitor, where, self._explain(refused))
        if len(actions) > 1:
            around = where._replace(cluster=actions[0].cluster)
            return go_to(around.path if _has_cluster(index, around.cluster) else PATH)
        id = actions[0].prediction_id
        is_asked = index is not None and await self._pages.candidate(visitor, index, id) is not None
        return go_to(where.text_path(id) if is_asked else PATH)

    async def _given(self, form: Form, candidate: LabelCandidate | None) -> Given | ExplainedRefusal:
        """Return the label of a form: chosen, verified, typed or proposed."""
        if form.text("verify") and candidate is not None and candidate.label:
            return Given(candidate.label, False, True)
        if chosen := form.label("label"):
            return Given(chosen, False, False)
        known = await self._pages.known_labels()
        by, proposed, typed = form.text("by"), form.text("proposed").strip(), form.text("typed").strip()
        if proposed and typed:
            proposed, typed = ("", typed) if by == "typed" else (proposed, "") if by == "proposed" else ("", "")
        name = proposed or typed
        if not is_usable_name(name):
            what = f"A label has 1 to {MAX_LABEL_CHARS} visible characters."
            return ExplainedRefusal(what, "Choose one, or type a name.")
        if (label := known_label(name, known)) is not None:
            return Given(label, False, False)
        if typed and not proposed:
            return ExplainedRefusal(f"There is no label “{typed}”.", "Choose one of these, or propose it as a new one.")
        return Given(proposed, True, False)

    def _explain(self, reply: Reply) -> ExplainedRefusal:
        """Return why the gateway refused, and what to do on this page."""
        refusal = explain(reply, self._gateway)
        return refusal._replace(do="Log in with a token that may do this:") if refusal.needs_token else refusal

    def _give_all(
        self, ticked: Sequence[LabelCandidate], given: Given, visitor: Visitor, shown_at: float | None
    ) -> tuple[int, ExplainedRefusal | None]:
        """Give and note one label after the other; return how many, and why the gateway refused the next one, if it did.

        All have the same time, so that undo takes them back together.
        """
        now = self._site.clock()
        for done, candidate in enumerate(ticked):
            reply = give_label(self._gateway, candidate.prediction_id, given.label, visitor.headers)
            if reply.status != 201:
                return done, self._explain(reply)
            action = action_on(candidate, _kind(reply, given), given.label, shown_at, now)
            store_actions(self._state.engine, visitor.name, [action])
        return len(ticked), None

    def _last(self, labeller: str) -> list[NotedAction]:
        with self._state.reading.begin() as connection:
            return last_actions(connection, labeller)


def _kind(reply: Reply, given: Given) -> str:
    """Return what the action was: the gateway says whether the label is a proposal."""
    if reply.body.get("kind") == "proposal":
        return PROPOSE
    return "verify" if given.is_verified else "label"


def _has_cluster(index: RoundIndex | None, cluster: int | None) -> bool:
    return cluster is None or (index is not None and cluster in index.clusters)
