"""The bounded body reader: whole, too large, too slow and incomplete bodies."""

import asyncio
from collections.abc import MutableMapping
from typing import Any

import pytest

from serving.processes import http_body
from serving.processes.http_body import (
    BodyCutOffError,
    BodyError,
    BodyTooLargeError,
    BodyTooSlowError,
    discard_body,
    exceeds,
    read_body,
)

DISCONNECT = {"type": "http.disconnect"}


class Client:
    """Sends these messages, then nothing more."""

    def __init__(self, *messages: dict[str, Any]) -> None:
        self.messages = list(messages)

    async def receive(self) -> MutableMapping[str, Any]:
        if not self.messages:
            await asyncio.Event().wait()
        return self.messages.pop(0)


def chunks(*parts: bytes, is_complete: bool = True) -> list[dict[str, Any]]:
    last = len(parts) - 1
    return [
        {"type": "http.request", "body": part, "more_body": number < last or not is_complete} for number, part in enumerate(parts)
    ]


def read(client: Client, max_bytes: int = 10, within_s: float = 5.0, content_length: str = "") -> bytes:
    return asyncio.run(read_body(client.receive, max_bytes=max_bytes, within_s=within_s, content_length=content_length))


def test_a_body_is_returned_whole() -> None:
    assert read(Client(*chunks(b"01234", b"", b"56789"))) == b"0123456789"
    assert read(Client({"type": "http.request"})) == b""


def test_a_body_over_the_limit_is_refused_after_the_rest_was_discarded() -> None:
    client = Client(*chunks(b"0123456789", b"x", b"y", b"z"))
    with pytest.raises(BodyTooLargeError):
        read(client)
    assert not client.messages


def test_an_announced_length_over_the_limit_is_refused_before_the_body_is_read_into_memory() -> None:
    client = Client(*chunks(b"0", b"1"))
    with pytest.raises(BodyTooLargeError):
        read(client, content_length="11")
    assert not client.messages


def test_a_body_that_stops_is_too_slow() -> None:
    with pytest.raises(BodyTooSlowError):
        read(Client(*chunks(b"0", is_complete=False)), within_s=0.01)


def test_a_client_that_disconnects_cuts_its_body_off() -> None:
    with pytest.raises(BodyCutOffError):
        read(Client(*chunks(b"0", is_complete=False), DISCONNECT))


def test_discarding_ends_with_the_body_the_connection_or_the_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_body, "DISCARD_S", 0.01)
    monkeypatch.setattr(http_body, "DISCARD_BYTES", 4)
    for messages, left in (
        (chunks(b"0", b"1"), 0),
        ([*chunks(b"0", is_complete=False), DISCONNECT], 0),
        (chunks(b"0", is_complete=False), 0),  # then nothing: the time ends
        (chunks(b"0123", b"4", b"5"), 2),
    ):
        client = Client(*messages)
        asyncio.run(discard_body(client.receive))
        assert len(client.messages) == left


@pytest.mark.parametrize(
    ("header", "is_over"), [("11", True), ("10", False), ("", False), ("-11", False), (b"11", True), (b"ten", False)]
)
def test_only_a_number_announces_a_length(header: str | bytes, is_over: bool) -> None:
    assert exceeds(header, 10) is is_over


def test_all_errors_are_one_kind() -> None:
    assert all(issubclass(error, BodyError) for error in (BodyTooLargeError, BodyTooSlowError, BodyCutOffError))
