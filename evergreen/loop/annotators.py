"""Simulated annotators: they label through the console's pages, as people do, and are wrong at a stated rate.

They read a text on the page, and send its form. The labels of the files are the truth; no other part of the loop reads them.
"""

import http.cookiejar
import random
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from html.parser import HTMLParser
from typing import Any, NamedTuple, Self
from urllib.error import HTTPError
from urllib.parse import urlencode, urljoin
from urllib.request import HTTPCookieProcessor, HTTPRedirectHandler, ProxyHandler, Request, build_opener

from pipeline.output.plain_text import printable_lines
from pipeline.runtime.text import clean

ANNOTATORS = ("ana", "ben")  # a label that the model does not have needs retrain.proposal_people
TIMEOUT_S, SEE_OTHER = 30.0, 303
LABEL_FORM = "give"  # id of the form that labels the text of a page


class ReadPage(NamedTuple):
    """What an annotator reads on a page: the text to label, and the hidden fields of a form."""

    url: str
    text: str
    fields: dict[str, str]


class _PageParser(HTMLParser):
    """Reads the text to label and the fields of one form; of the first form where no id is asked for."""

    def __init__(self, form_id: str | None) -> None:
        super().__init__()
        self.text, self.fields = "", dict[str, str]()
        self._form_id, self._is_in_form, self._is_in_text = form_id, False, False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "form":
            self._is_in_form = given.get("id") == self._form_id if self._form_id else not self.fields
        if tag == "input" and self._is_in_form and given.get("type") == "hidden":
            self.fields[given["name"]] = given.get("value", "")
        if tag == "blockquote" and "text" in given.get("class", "").split():
            self._is_in_text = True

    def handle_endtag(self, tag: str) -> None:
        self._is_in_form &= tag != "form"
        self._is_in_text &= tag != "blockquote"

    def handle_data(self, data: str) -> None:
        if self._is_in_text:
            self.text += data


class _RedirectPages(HTTPRedirectHandler):
    """Follows an address to its page, but no form to the page after it: that page may be another person's turn."""

    def redirect_request(self, request: Request, *answer: Any) -> Request | None:
        return None if request.data is not None else super().redirect_request(request, *answer)


class Browser:
    """A person's browser at the console: cookies, pages and forms."""

    def __init__(self, url: str) -> None:
        self._url = url
        cookies = HTTPCookieProcessor(http.cookiejar.CookieJar())
        self._opener = build_opener(ProxyHandler({}), cookies, _RedirectPages)

    def get(self, path: str, form_id: str | None = None) -> ReadPage:
        """Open a page; raise `OSError` when the console refuses it."""
        return self._open(Request(urljoin(self._url, path)), form_id)  # noqa: S310 (the console of params)

    def send(self, path: str, fields: Mapping[str, str]) -> None:
        """Send a form, and open no page after it; raise `OSError` when the console refuses it."""
        form = Request(urljoin(self._url, path), urlencode(fields).encode(), {"origin": self._url})  # noqa: S310
        try:
            with self._opener.open(form, timeout=TIMEOUT_S):
                pass
        except HTTPError as answer:
            if answer.code != SEE_OTHER:
                raise

    def log_in(self, token: str) -> None:
        """Log in with a token."""
        page = self.get("/login")
        self.send("/login", page.fields | {"token": token, "to": "/label"})

    def _open(self, request: Request, form_id: str | None) -> ReadPage:
        with self._opener.open(request, timeout=TIMEOUT_S) as response:
            parser = _PageParser(form_id)
            parser.feed(response.read().decode("utf-8"))
            return ReadPage(response.url, parser.text.strip(), parser.fields)


class Annotators:
    """A thread in which two people label in turn: first a round is made, then at most `budget` texts are labelled."""

    def __init__(
        self,
        console_url: str,
        tokens: Mapping[str, str],
        truth: Mapping[str, str],
        *,
        make_round: Callable[[], None],
        budget: int,
        wrong_share: float,
        seed: int,
    ) -> None:
        """`tokens` are by name, `truth` is the right label of each text."""
        self.labelled, self.wrong, self.failures = dict.fromkeys(tokens, 0), 0, list[str]()
        self.seconds = 0.0  # from the first label to the last
        self.chosen_s: float | None = None  # when the round was made, monotonic clock
        self._url, self._tokens, self._truth = console_url, tokens, truth
        self._make_round, self._budget, self._wrong_share = make_round, budget, wrong_share
        self._random = random.Random(seed)  # noqa: S311
        self._texts = set[str]()  # shown so far; some need two people
        self._has_begun, self._is_over = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, name="annotators", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._has_begun.set()
        self._thread.join()

    def begin(self) -> None:
        """Start to label: the alert has arrived."""
        self._has_begun.set()

    @property
    def labels(self) -> int:
        """The number of labels that were accepted."""
        return sum(self.labelled.values())

    @property
    def texts(self) -> int:
        """The number of texts that were labelled."""
        return len(self._texts)

    def _work(self) -> None:
        self._has_begun.wait()
        if self._is_over.is_set():
            return
        try:
            self._make_round()
            self.chosen_s = time.monotonic()
            self._label_all()
        except (OSError, ValueError, KeyError) as error:
            self.failures.append(_describe(error))

    def _label_all(self) -> None:
        browsers = {name: Browser(self._url) for name in self._tokens}
        for name, browser in browsers.items():
            browser.log_in(self._tokens[name])
        began_s = time.monotonic()
        while not self._is_over.is_set():
            before = self.labels
            for name, browser in browsers.items():
                if self._label_next(browser):
                    self.labelled[name] += 1
                    self.seconds = time.monotonic() - began_s
            if self.labels == before:
                return  # nothing is left

    def _label_next(self, browser: Browser) -> bool:
        """Label the next text of the queue; return False when there is none, or only new ones beyond the budget."""
        page = browser.get("/label/next", LABEL_FORM)
        if "id" not in page.fields or (page.text not in self._texts and len(self._texts) >= self._budget):
            return False
        self._texts.add(page.text)
        browser.send("/label/give", page.fields | {"proposed": self._answer(page.text)})
        return True

    def _answer(self, text: str) -> str:
        """Return the label that this person gives: the right one, or, at the stated rate, any other."""
        right = self._truth[" ".join(text.split())]
        if self._random.random() >= self._wrong_share:
            return right
        self.wrong += 1
        return self._random.choice(sorted(set(self._truth.values()) - {right}))


def _describe(error: Exception) -> str:
    """Return an error with the page's own words, where the console refused something."""
    if isinstance(error, HTTPError):
        body = error.read().decode("utf-8", "replace").partition("<main")[2]
        return f"{error.url}: {error.code} {' '.join(re.sub(r'<[^>]*>', ' ', body).split())[:300]}"
    return f"{type(error).__name__}: {error}"


def truth_of(rows: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Return the label of each text as a page shows it, for rows with `text` and `label`."""
    return {_as_shown(str(row["text"])): str(row["label"]) for row in rows}


def _as_shown(text: str) -> str:
    return " ".join(printable_lines(clean(text)).split())
