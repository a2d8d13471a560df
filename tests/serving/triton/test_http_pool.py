"""The gateway's connections to Triton: what happens when the other side is slow, gone, or closes while nobody asks."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from serving.triton.http_pool import HttpPool

REQUEST = b"GET /x HTTP/1.1\r\nHost: here\r\n\r\n"
Talk = Callable[[int, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]  # number of the connection, from 1


def reply(body: bytes, extra: str = "") -> bytes:
    return f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n{extra}\r\n".encode() + body


class Server:
    """Answers connections as `talk` says, and counts them."""

    def __init__(self, talk: Talk) -> None:
        self._talk = talk
        self.connections = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            await self._talk(self.connections, reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def asked(talk: Talk, age_s: float = 60.0) -> AsyncIterator[tuple[HttpPool, Server]]:
    counted = Server(talk)
    server = await asyncio.start_server(counted, "127.0.0.1", 0)
    wire = HttpPool("127.0.0.1", server.sockets[0].getsockname()[1], age_s)
    try:
        yield wire, counted
    finally:
        wire.close()
        server.close()


async def patiently(number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Every request is answered with the number of its connection."""
    while True:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(reply(f"connection {number}".encode(), "Inference-Header-Content-Length: 4\r\n"))


async def once(number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One answer, then the connection is closed without a word."""
    await reader.readuntil(b"\r\n\r\n")
    writer.write(reply(f"connection {number}".encode()))
    await writer.drain()


async def never(_number: int, reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    await reader.read()


def test_one_caller_uses_one_connection_again_and_again() -> None:
    async def run() -> None:
        async with asked(patiently) as (wire, server):
            replies = [await wire.ask(REQUEST, 5) for _ in range(5)]
            assert [one.body for one in replies] == [b"connection 1"] * 5
            assert {(one.status, one.json_bytes) for one in replies} == {(200, 4)}
            assert server.connections == 1

    asyncio.run(run())


def test_callers_at_the_same_time_do_not_wait_for_each_other() -> None:
    async def run() -> None:
        async with asked(patiently) as (wire, server):
            replies = await asyncio.gather(*(wire.ask(REQUEST, 5) for _ in range(8)))
            assert len({one.body for one in replies}) == server.connections == 8

    asyncio.run(run())


def test_a_connection_that_was_closed_while_idle_costs_no_request() -> None:
    async def run() -> None:
        async with asked(once) as (wire, server):
            assert [(await wire.ask(REQUEST, 5)).body for _ in range(3)] == [b"connection 1", b"connection 2", b"connection 3"]
            assert server.connections == 3

    asyncio.run(run())


def test_a_connection_ends_with_its_age() -> None:
    async def run() -> None:
        async with asked(patiently, age_s=0.0) as (wire, server):
            for _ in range(3):
                await wire.ask(REQUEST, 5)
            assert server.connections == 3

    asyncio.run(run())


def test_a_server_that_is_gone_and_one_that_is_silent_are_errors_in_time() -> None:
    async def run() -> None:
        async with asked(never) as (wire, _):
            with pytest.raises(TimeoutError):
                await wire.ask(REQUEST, 0.05)
        with pytest.raises(OSError, match=r"refused|Connect"):
            await wire.ask(REQUEST, 5)

    asyncio.run(run())


@pytest.mark.parametrize(
    "said", [b"what?\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"], ids=["no HTTP", "half an answer"]
)
def test_a_spoilt_answer_is_an_error_and_not_an_answer(said: bytes) -> None:
    async def talk(_number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(said)
        await writer.drain()

    async def run() -> None:
        async with asked(talk) as (wire, _):
            with pytest.raises(ConnectionResetError):
                await wire.ask(REQUEST, 5)

    asyncio.run(run())


def test_an_answer_that_comes_after_its_caller_has_gone_meets_nobody_else() -> None:
    go = asyncio.Event()

    async def talk(number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        if number == 1:
            await go.wait()
        writer.write(reply(f"connection {number}".encode()))
        await writer.drain()

    async def run() -> None:
        async with asked(talk) as (wire, _):
            with pytest.raises(TimeoutError):
                await wire.ask(REQUEST, 0.05)
            go.set()
            assert (await wire.ask(REQUEST, 5)).body == b"connection 2"

    asyncio.run(run())
