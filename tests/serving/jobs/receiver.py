"""A real HTTP receiver of callbacks on loopback, for tests: it keeps what it was sent and replies as it is told."""

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import NamedTuple

from aiohttp import web


class Sent(NamedTuple):
    """One request as it arrived."""

    path: str
    headers: Mapping[str, str]
    body: bytes


class Receiver(NamedTuple):
    """Where it listens, and what came so far."""

    port: int
    sent: list[Sent]


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
    """Listen while the block runs; port 0: any free one."""
    sent: list[Sent] = []

    async def keep(request: web.Request) -> web.StreamResponse:
        sent.append(Sent(request.path_qs, dict(request.headers), await request.read()))
        return await reply(request)

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", keep)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port, ssl_context=tls).start()
        yield Receiver(runner.addresses[0][1], sent)
    finally:
        await runner.cleanup()
