"""A browser without scripts: keeps cookies, reads forms and sends them, as a person without JavaScript would."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple

import requests
import sqlalchemy as sa

from pipeline.params import Params
from serving.access.tokens import add_token
from state.database import open_state
from state.tables import feedback, queue_actions
from tests.monitoring.console.published import publish
from tests.monitoring.console.running_console import running_console
from tests.serving.gateway.fake_triton import running_gateway


class ShownForm(NamedTuple):
    """A form of a page, with the fields that it sends by itself."""

    action: str
    fields: list[tuple[str, str]]
    buttons: list[tuple[str, str]]


class FormReader(HTMLParser):
    """Collects the forms of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.forms: list[ShownForm] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "form":
            self.forms.append(ShownForm(given.get("action", ""), [], []))
        elif self.forms and tag == "button":
            self.forms[-1].buttons.append((given.get("name", ""), given.get("value", "")))
        elif self.forms and tag == "input" and (given.get("type") != "checkbox" or "checked" in given):
            self.forms[-1].fields.append((given.get("name", ""), given.get("value", "")))


class Person:
    """Someone in front of a browser without scripts."""

    def __init__(self, url: str) -> None:
        self.url, self._session = url, requests.Session()
        self.page, self.address, self.status = "", "", 0

    def open(self, path: str) -> str:
        return self._shown(self._session.get(f"{self.url}{path}", timeout=60))

    def send(self, action: str, *, origin: str | None = "", **more: str) -> str:
        """Send the first form of the page that has this action, with more fields or a button."""
        form = next(form for form in self.forms() if form.action == action)
        fields = [(name, value) for name, value in form.fields if name not in more] + list(more.items())
        return self.post(action, fields, origin=origin)

    def post(self, path: str, fields: list[tuple[str, str]], *, origin: str | None = "") -> str:
        headers = {} if origin is None else {"origin": origin or self.url}
        return self._shown(self._session.post(f"{self.url}{path}", data=fields, headers=headers, timeout=60))

    def log_in(self, token: str, to: str = "/label") -> str:
        self.open(f"/login?to={to}")
        return self.send("/login", token=token)

    def forms(self) -> list[ShownForm]:
        reader = FormReader()
        reader.feed(self.page)
        return reader.forms

    def cookies(self) -> requests.cookies.RequestsCookieJar:
        return self._session.cookies

    @property
    def text(self) -> str:
        """Return the text that is asked about."""
        match = re.search(r'<blockquote class="text"[^>]*>(.*?)</blockquote>', self.page, re.S)
        assert match, self.page
        return unescape(match[1])

    def _shown(self, response: requests.Response) -> str:
        self.page, self.address, self.status = response.text, response.url.removeprefix(self.url), response.status_code
        return self.page


@contextmanager
def label_queue(params: Params, home: Path, *, control_share: float = 0.0) -> Iterator[str]:
    """Run a gateway and a console over version 1, by default without control texts; yields the console's URL."""
    with served_home(with_controls(params, control_share), home) as changed, running_console(changed, home, now=None) as url:
        yield url


@contextmanager
def served_home(params: Params, home: Path) -> Iterator[Params]:
    """Run a gateway over version 1; yields the params that name it."""
    publish(home)
    with running_gateway(params, home) as port:
        yield params.model_copy(update={"gateway": params.gateway.model_copy(update={"port": port})})


def with_controls(params: Params, share: float) -> Params:
    """Return params with this share of control texts."""
    return params.model_copy(update={"labels": params.labels.model_copy(update={"control_share": share})})


def labels_in_force(home: Path) -> list[tuple[str, str]]:
    """Return labeller and label of the feedback in force, in order."""
    with open_state(home) as engine, engine.connect() as connection:
        columns = sa.select(feedback.c.labeller, feedback.c.label).where(feedback.c.withdrawn_at.is_(None))
        return [(name, label) for name, label in connection.execute(columns.order_by(feedback.c.id))]


def noted_actions(home: Path) -> list[tuple[str, str | None, bool]]:
    """Return action, label and whether it is in force, in order."""
    with open_state(home) as engine, engine.connect() as connection:
        c = queue_actions.c
        rows = connection.execute(sa.select(c.action, c.label, c.undone_at).order_by(c.id))
        return [(action, label, undone_at is None) for action, label, undone_at in rows]


def token(home: Path, name: str, *scopes: str) -> str:
    """Add a token, by default with the scope `label`, and return it."""
    return add_token(home / "tokens.json", name, scopes or ("label",), datetime.now(UTC))
