"""A real HTTP receiver of callbacks on loopback, for tests: it keeps every request and replies as configured."""

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import NamedTuple

from aiohttp import web


class Received(NamedTuple):
    """One request as it arrived."""

    path: str
    headers: Mapping[str, str]
    body: bytes


class Receiver(NamedTuple):
    """The port it listens on, and the requests so far."""

    port: int
    requests: list[Received]


async def accept(_request: web.Request) -> web.StreamResponse:
    return web.Response(status=204)


@asynccontextmanager
async def receiving(
    reply: Callable[[web.Request], Awaitable[web.StreamResponse]] = accept,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[Receiver]:
    """Listen while the block runs; port 0 takes any free port."""
    requests: list[Received] = []

    async def receive(request: web.Request) -> web.StreamResponse:
        requests.append(Received(request.path_qs, dict(request.headers), await request.read()))
        return await reply(request)

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", receive)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port, ssl_context=tls).start()
        yield Receiver(runner.addresses[0][1], requests)
    finally:
        await runner.cleanup()
