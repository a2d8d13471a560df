"""Send live texts to the gateway as its customers do, and keep what each of them got."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import NamedTuple

import orjson

from serving.gateway_client import http_sender
from tests.faults.zoo.stream import LiveText

CALLERS = 4
LIST_TEXTS = 8


class Reply(NamedTuple):
    """What a customer got for a text; without an answer the id is empty."""

    number: int  # of the live text
    id: str
    unit: str
    label: str | None
    version: int | None


class Request(NamedTuple):
    """Texts, by their numbers, that one customer sends together."""

    numbers: tuple[int, ...]
    unit: str


class Customers:
    """Send each live text once, in order; one request in `lists` holds `LIST_TEXTS` of them, of one customer."""

    def __init__(self, url: str, texts: Sequence[LiveText], lists: int) -> None:
        self._texts = texts
        self._send = http_sender(url, {})
        self._requests = _requests(texts, lists)

    def send(self, requests: int) -> list[Reply]:
        """Send the next requests, several at a time; return a reply for each of their texts, none when all texts are sent."""
        with ThreadPoolExecutor(CALLERS) as pool:
            return [reply for replies in pool.map(self._ask, islice(self._requests, requests)) for reply in replies]

    def judge(self, id: str, label: str) -> None:
        """Tell the gateway the right label of an answer."""
        self._send("POST", "/v1/feedback", orjson.dumps({"id": id, "label": label}))

    def _ask(self, request: Request) -> list[Reply]:
        texts = [self._texts[number].text for number in request.numbers]
        answer = self._send("POST", "/v1/predict", orjson.dumps({"texts": texts, "unit": request.unit}))
        if answer.status != 200:
            return [Reply(number, "", request.unit, None, None) for number in request.numbers]
        return [
            Reply(
                number,
                got["id"],
                request.unit,
                got["label"] if got["label"] is not None else got.get("suggestion"),
                got["version"],
            )
            for number, got in zip(request.numbers, answer.body["predictions"], strict=True)
        ]


def _requests(texts: Sequence[LiveText], lists: int) -> Iterator[Request]:
    numbers = iter(range(len(texts)))
    for count in range(len(texts)):
        taken = tuple(islice(numbers, LIST_TEXTS if count % lists == lists - 1 else 1))
        if not taken:
            return
        yield Request(taken, texts[taken[0]].unit)
