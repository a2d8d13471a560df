"""The routes of the page Disputes."""

import asyncio
import getpass
from collections.abc import Sequence
from typing import get_args

import sqlalchemy as sa
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from monitoring.console.login.access import ConsoleAccess, Visitor
from monitoring.console.login.forms import Access, Form, account, form_route, go_to, page_route, protected_page
from monitoring.console.queue.action_log import StateAccess
from monitoring.labels.book import read_current_book
from monitoring.labels.disputes import Verdict, open_disputes, settle
from monitoring.labels.suspects import AUDIT
from monitoring.pages.site import Page
from pipeline.errors import EvergreenError, InputError

PATH = "/disputes"
SHOWN, SETTLED_SHOWN = 50, 10
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)


def disputes_page(people: ConsoleAccess, state: StateAccess) -> Page:
    """Return the page."""
    return protected_page("Disputes", PATH, people, lambda access: disputes_routes(access, state))


def disputes_routes(access: Access, state: StateAccess) -> Sequence[Route]:
    """Return the routes: the list for everyone who may label, and the settlement for an administrator."""
    site = access.site

    async def show(_request: Request, visitor: Visitor) -> Response:
        return await _list(visitor)

    async def settle_one(_request: Request, visitor: Visitor, form: Form) -> Response:
        verdict = next((known for known in VERDICTS if known == form.text("verdict")), None)
        if verdict is None:
            return await _list(visitor, InputError("this form", "it says neither keep nor change", "press one of the two"))
        text_id, label = form.text("text_id"), form.label("label")
        try:
            await asyncio.to_thread(_settle, text_id, label, verdict, _settler(visitor))
        except InputError as error:  # somebody else was faster
            return await _list(visitor, error)
        return go_to(PATH)

    async def _list(visitor: Visitor, problem: InputError | None = None) -> Response:
        try:
            book = await asyncio.to_thread(read_current_book, site.params, site.home)
        except (EvergreenError, sa.exc.SQLAlchemyError, OSError) as error:
            return await site.html(access.page, "disputes_away.html", why=str(error), **account(visitor))
        is_open = [dispute for dispute in book.disputes() if dispute.settlement is None]
        latest = sorted(book.settlements, reverse=True)[:SETTLED_SHOWN]
        values = {
            "disputes": is_open[:SHOWN],
            "hidden": len(is_open) - len(is_open[:SHOWN]),
            "settled": [(settlement, book.text_of(settlement.text_id)) for settlement in latest],
            "may_settle": visitor.may("admin"),
            "problem": problem,
            "audit": AUDIT,
            **account(visitor),
        }
        return await site.html(access.page, "disputes.html", status=409 if problem else 200, **values)

    def _settle(text_id: str, label: str, verdict: Verdict, by: str) -> None:
        (dispute, *_) = open_disputes(read_current_book(site.params, site.home).disputes(), text_id, label, verdict)
        with state.engine.begin() as connection:
            settle(connection, dispute, verdict, by)

    return [page_route(access, PATH, "label", show), form_route(access, f"{PATH}/settle", "admin", settle_one)]


def _settler(visitor: Visitor) -> str:
    """Return the name under which it is stored: of the token, or of this machine's user, as in the terminal."""
    return visitor.name if visitor.is_logged_in else getpass.getuser()[:64]
