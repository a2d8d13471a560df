"""Send an intruder's requests over raw sockets, and count how the attempts of an attack ended; each ends within a time limit.

Attempts come from separate addresses in 127.0.0.0/8, as from other machines.
"""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Awaitable, Iterable, Sequence
from contextlib import suppress
from typing import NamedTuple

INTRUDER, BOTNET = "127.0.0.66", "127.0.0.67"
CONCURRENT = 100  # concurrent attempts, where their number is not the attack itself
MIB = 2**20
CLOSED, SILENT = "closed", "silent"  # the connection ended without an answer; no answer within the time limit
DEEP = 10_000


class Attack(NamedTuple):
    """Count how the attempts of one attack ended: by an HTTP status, `closed` or `silent`."""

    name: str
    answers: Counter[str]
    allowed: frozenset[str]
    since_s: float
    until_s: float

    @property
    def unexpected(self) -> int:
        """Return how many attempts ended in a way that is not allowed."""
        return sum(count for answer, count in self.answers.items() if answer not in self.allowed)

    @property
    def refused(self) -> int:
        """Return how many attempts were refused with an HTTP status."""
        return sum(count for answer, count in self.answers.items() if answer.isdigit() and int(answer) >= 400)


async def attack(name: str, allowed: str, attempts: Awaitable[Sequence[str]]) -> Attack:
    """Run the attempts and count their ends; `allowed` names the allowed ones, separated by spaces."""
    since_s = time.monotonic()
    answers = Counter(await attempts)
    return Attack(name, answers, frozenset(allowed.split()), since_s, time.monotonic())


async def in_turn(port: int, requests: Sequence[bytes], *, source: str = INTRUDER) -> list[str]:
    """Send each request on a separate connection, `CONCURRENT` at a time."""
    slots = asyncio.Semaphore(CONCURRENT)

    async def send(request: bytes) -> str:
        async with slots:
            return await attempt(port, [request], source=source)

    return await asyncio.gather(*map(send, requests))


async def at_once(port: int, attempts: Iterable[Iterable[bytes]], *, source: str = BOTNET, pause_s: float = 0.0) -> list[str]:
    """Open all connections at once, each sending its parts."""
    return await asyncio.gather(*(attempt(port, parts, source=source, pause_s=pause_s) for parts in attempts))


async def attempt(
    port: int, parts: Iterable[bytes], *, source: str = INTRUDER, pause_s: float = 0.0, within_s: float = 25.0
) -> str:
    """Send the parts, with a pause after each; return the status of the first answer, `closed` or `silent`."""
    try:
        async with asyncio.timeout(within_s):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(source, 0))
            answer = asyncio.ensure_future(reader.readline())
            try:
                with suppress(ConnectionError):
                    for part in parts:
                        writer.write(part)
                        await writer.drain()
                        await asyncio.sleep(pause_s)
                        if answer.done():
                            break
                line = (await answer).split()
            finally:
                answer.cancel()
                writer.transport.abort()
    except ConnectionError:
        return CLOSED
    except TimeoutError:
        return SILENT
    return line[1].decode() if len(line) > 1 else CLOSED


def request(
    path: str,
    body: bytes | None = None,
    *headers: str,
    method: str = "",
    host: str = "127.0.0.1",
    token: str = "",
    content_type: str = "application/json",
) -> bytes:
    """Return a request; a body has a length and a type."""
    lines = [f"{method or ('GET' if body is None else 'POST')} {path} HTTP/1.1", f"Host: {host}", *headers]
    lines += [f"Authorization: Bearer {token}"] if token else []
    if body is not None:
        lines += [f"Content-Length: {len(body)}", f"Content-Type: {content_type}"]
    return "\r\n".join([*lines, "", ""]).encode("utf-8", "surrogateescape") + (body or b"")


def as_json(**values: object) -> bytes:
    return json.dumps(values).encode()


def head_flood(size: int) -> Iterable[bytes]:
    """Yield a head of this size."""
    yield b"GET /v1/routes HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    line = b"X-Flood: " + b"a" * 65526 + b"\r\n"
    yield from (line for _ in range(size // len(line)))


def slow_head(seconds: int) -> Iterable[bytes]:
    """Yield a head of so many header lines, to be sent once a second."""
    yield b"GET /v1/routes HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    yield from (b"X-Slow: 1\r\n" for _ in range(seconds))


def endless_chunks(path: str, size: int, token: str) -> Iterable[bytes]:
    """Yield a chunked body that is longer than any limit."""
    headers = ("Transfer-Encoding: chunked", "Content-Type: application/json")
    yield request(path, None, *headers, method="POST", token=token)
    chunk = b"10000\r\n" + b"[" * 65536 + b"\r\n"
    yield from (chunk for _ in range(size // 65536))


def large_body(path: str, size: int, token: str) -> Iterable[bytes]:
    """Yield a body with its length; it is sent whatever the answer is."""
    headers = (f"Content-Length: {size}", "Content-Type: application/json")
    yield request(path, None, *headers, method="POST", token=token)
    yield from (b"[" * 65536 for _ in range(size // 65536))
