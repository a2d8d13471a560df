"""The gateway's connections to Triton, when the server is slow, gone, or closes an idle connection."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from serving.triton.http_pool import HttpPool

REQUEST = b"GET /x HTTP/1.1\r\nHost: here\r\n\r\n"
Answer = Callable[[int, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]  # number of the connection, from 1


def response(body: bytes, extra: str = "") -> bytes:
    return f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n{extra}\r\n".encode() + body


class Server:
    """Serves each connection with `answer`, and counts them."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self.connections = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            await self._answer(self.connections, reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def pool_and_server(answer: Answer, max_age_s: float = 60.0) -> AsyncIterator[tuple[HttpPool, Server]]:
    counting = Server(answer)
    server = await asyncio.start_server(counting, "127.0.0.1", 0)
    pool = HttpPool("127.0.0.1", server.sockets[0].getsockname()[1], max_age_s)
    try:
        yield pool, counting
    finally:
        pool.close()
        server.close()


async def answer_all(number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer every request with the number of its connection."""
    while True:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(response(f"connection {number}".encode(), "Inference-Header-Content-Length: 4\r\n"))


async def answer_once(number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer one request, then close the connection."""
    await reader.readuntil(b"\r\n\r\n")
    writer.write(response(f"connection {number}".encode()))
    await writer.drain()


async def answer_never(_number: int, reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    await reader.read()


def test_one_caller_uses_one_connection_again_and_again() -> None:
    async def run() -> None:
        async with pool_and_server(answer_all) as (pool, server):
            responses = [await pool.request(REQUEST, 5) for _ in range(5)]
            assert [response.body for response in responses] == [b"connection 1"] * 5
            assert {(response.status, response.json_bytes) for response in responses} == {(200, 4)}
            assert server.connections == 1

    asyncio.run(run())


def test_callers_at_the_same_time_do_not_wait_for_each_other() -> None:
    async def run() -> None:
        async with pool_and_server(answer_all) as (pool, server):
            responses = await asyncio.gather(*(pool.request(REQUEST, 5) for _ in range(8)))
            assert len({response.body for response in responses}) == server.connections == 8

    asyncio.run(run())


def test_a_connection_that_was_closed_while_idle_costs_no_request() -> None:
    async def run() -> None:
        async with pool_and_server(answer_once) as (pool, server):
            assert [(await pool.request(REQUEST, 5)).body for _ in range(3)] == [
                b"connection 1",
                b"connection 2",
                b"connection 3",
            ]
            assert server.connections == 3

    asyncio.run(run())


def test_a_connection_ends_with_its_age() -> None:
    async def run() -> None:
        async with pool_and_server(answer_all, max_age_s=0.0) as (pool, server):
            for _ in range(3):
                await pool.request(REQUEST, 5)
            assert server.connections == 3

    asyncio.run(run())


def test_a_server_that_is_gone_and_one_that_is_silent_are_errors_in_time() -> None:
    async def run() -> None:
        async with pool_and_server(answer_never) as (pool, _):
            with pytest.raises(TimeoutError):
                await pool.request(REQUEST, 0.05)
        with pytest.raises(OSError, match=r"refused|Connect"):
            await pool.request(REQUEST, 5)

    asyncio.run(run())


@pytest.mark.parametrize(
    "answer", [b"what?\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"], ids=["no HTTP", "half an answer"]
)
def test_a_corrupt_answer_is_an_error(answer: bytes) -> None:
    async def serve(_number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()

    async def run() -> None:
        async with pool_and_server(serve) as (pool, _):
            with pytest.raises(ConnectionResetError):
                await pool.request(REQUEST, 5)

    asyncio.run(run())


def test_a_late_answer_never_reaches_another_caller() -> None:
    go = asyncio.Event()

    async def serve(number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        if number == 1:
            await go.wait()
        writer.write(response(f"connection {number}".encode()))
        await writer.drain()

    async def run() -> None:
        async with pool_and_server(serve) as (pool, _):
            with pytest.raises(TimeoutError):
                await pool.request(REQUEST, 0.05)
            go.set()
            assert (await pool.request(REQUEST, 5)).body == b"connection 2"

    asyncio.run(run())
