"""The bounded body reader: whole, too large, too slow and incomplete bodies."""

import asyncio
import gzip
import tracemalloc
from collections.abc import MutableMapping
from typing import Any

import pytest

from serving.processes import http_body
from serving.processes.http_body import (
    HELD_BODY,
    BodiesFullError,
    BodyCutOffError,
    BodyDamagedError,
    BodyEncodingError,
    BodyError,
    BodyTooLargeError,
    BodyTooSlowError,
    HeldBodies,
    HeldBody,
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


def read(
    client: Client,
    max_bytes: int = 10,
    within_s: float = 5.0,
    content_length: str = "",
    encoding: str = "",
    held: HeldBody | None = None,
) -> bytes:
    headers = [(b"content-length", content_length.encode()), (b"content-encoding", encoding.encode())]
    scope = {"headers": headers, HELD_BODY: held}
    return asyncio.run(read_body(scope, client.receive, max_bytes=max_bytes, within_s=within_s))


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


@pytest.mark.parametrize(("header", "is_over"), [(b"11", True), (b"10", False), (b"", False), (b"-11", False), (b"ten", False)])
def test_only_a_number_announces_a_length(header: bytes, is_over: bool) -> None:
    assert exceeds(header, 10) is is_over


def test_all_errors_are_one_kind() -> None:
    assert all(issubclass(error, BodyError) for error in (BodyTooLargeError, BodyTooSlowError, BodyCutOffError))


TEXT = b'{"text": "na\xc3\xafve"}'


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", " x-gzip"])
def test_a_gzip_body_is_decompressed(encoding: str) -> None:
    assert read(Client(*chunks(gzip.compress(TEXT))), 100, encoding=encoding) == TEXT
    assert read(Client(*chunks(TEXT)), 100, encoding="identity") == TEXT


def test_a_gzip_body_is_never_decompressed_beyond_the_limit() -> None:
    bomb = gzip.compress(b" " * 10_000_000)
    tracemalloc.start()
    with pytest.raises(BodyTooLargeError):
        read(Client(*chunks(bomb)), 20_000, encoding="gzip")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


@pytest.mark.parametrize("body", [b"{}", gzip.compress(TEXT)[:-1], gzip.compress(TEXT) + b"x"], ids=["none", "cut off", "more"])
def test_a_body_that_is_not_the_gzip_it_claims_to_be_is_refused(body: bytes) -> None:
    with pytest.raises(BodyDamagedError, match="gzip"):
        read(Client(*chunks(body)), 100, encoding="gzip")


@pytest.mark.parametrize("encoding", ["br", "deflate", "zstd", "gzip, gzip"])
def test_other_compressions_are_named_as_unusable(encoding: str) -> None:
    with pytest.raises(BodyEncodingError, match="gzip"):
        read(Client(*chunks(TEXT)), 100, encoding=encoding)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_is_read_and_dropped(encoding: str) -> None:
    assert read(Client(*chunks(TEXT.decode().encode(encoding))), 100) == TEXT


def test_a_byte_order_mark_without_its_encoding_is_refused() -> None:
    with pytest.raises(BodyDamagedError, match="utf-16"):
        read(Client(*chunks(b"\xff\xfe\x00")), 100)


def test_bodies_are_bounded_together_until_their_requests_end() -> None:
    bodies = HeldBodies(25)
    first, second, third = (HeldBody(bodies) for _ in range(3))
    read(Client(*chunks(b"0123456789")), held=first)
    read(Client(*chunks(b"0123456789")), held=second)
    with pytest.raises(BodiesFullError):
        read(Client(*chunks(b"01234", b"56789")), held=third)
    first.release()
    third.release()
    assert read(Client(*chunks(b"01234", b"56789")), held=HeldBody(bodies)) == b"0123456789"
